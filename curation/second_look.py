"""Second looks at videos that are scanned already: scores that were never measured, clips that were chosen later."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.config import CurateConfig
from curation.dataset.publish import roster, snapshot
from curation.dataset.records import cuts, scans, scores, token
from curation.decode import load_tracks
from curation.fetch import FetchFailed, fetched
from curation.plan import MeasurePlan
from curation.sandbox import JobFailed, Sandbox
from curation.scan import Beat, cut_into
from curation.video import Span
from orchestration.storage import Storage

TODO = pa.schema([("key", pa.string()), ("uri", pa.string()), ("video_id", pa.string()), ("work", pa.string())])
ROWS_PER_FILE = 1000
CUT_FIELDS = ("clip_id", "video_id", "start_frame", "end_frame", "start_pts", "end_pts", "first_hash", "last_hash")


def unscored(storage: Storage, config: CurateConfig) -> Iterator[dict[str, Any]]:
    """Videos that lack a scorer of `config`: rows of TODO, `work` = {"kinds", "clips": [[clip_id, start, end]]}."""
    wanted = {token(scorer): scorer for scorer in config.scorers}
    if not wanted:
        return
    speaking = roster(storage)
    done = {
        (video, name)
        for name, scorer in wanted.items()
        for table in scores(storage, scorer).read(["video_id", "measured"])
        for video, measured in zip(*(table.column(i).to_pylist() for i in range(2)), strict=True)
        if measured == name
    }
    for table in scans(storage).read(["listing_id", "video_id", "measured", "clips"]):
        for row in table.to_pylist():
            if speaking.source.get(row["video_id"] or "") != row["listing_id"] or not row["clips"]:
                continue
            missing = [name for name in wanted if name not in row["measured"] and (row["video_id"], name) not in done]
            if missing:
                spans = [[clip["clip_id"], clip["start_frame"], clip["end_frame"]] for clip in row["clips"]]
                work = {"kinds": [wanted[name].kind for name in missing], "clips": spans}
                yield _todo(row["video_id"], speaking.first[row["video_id"]], work, *missing)


def uncut(storage: Storage, config: CurateConfig) -> Iterator[dict[str, Any]]:
    """Videos with kept clips that have no file yet: rows of TODO, `work` = {"clips": [row of the clips table]}."""
    if config.cut.mode == "none":
        return
    kept: set[str] = set()
    with storage.open_read("selection.parquet") as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=["clip_id", "kept"]):
            names, flags = batch.column(0).to_pylist(), batch.column(1).to_pylist()
            kept |= {name for name, keep in zip(names, flags, strict=True) if keep}
    pending: dict[str, list[dict[str, Any]]] = {}
    for table in snapshot(storage, "clips", [*CUT_FIELDS, "frames_hash", "media", "cut_reason"]):
        for clip in table.to_pylist():
            if clip["clip_id"] in kept and clip["media"] is None and clip["cut_reason"] is None:
                pending.setdefault(clip["video_id"], []).append(clip)
    uris = roster(storage).first
    for video_id, clips in pending.items():
        yield _todo(video_id, uris[video_id], {"clips": clips}, *(clip["clip_id"] for clip in clips))


def _todo(video_id: str, uri: str, work: dict[str, Any], *names: str) -> dict[str, Any]:
    key = hashlib.sha256("\0".join((video_id, *names)).encode()).hexdigest()[:24]
    return {"key": key, "uri": uri, "video_id": video_id, "work": json.dumps(work)}


def write_todo(rows: Iterator[dict[str, Any]], folder: Path, name: str) -> tuple[list[str], int]:
    """Parquet files for the runner, and how many rows they hold."""
    files: list[str] = []
    pending: list[dict[str, Any]] = []
    count = 0

    def flush() -> None:
        files.append(str(folder / f"{name}-{len(files):06d}.parquet"))
        pq.write_table(pa.Table.from_pylist(pending, TODO), files[-1])
        pending.clear()

    for row in rows:
        pending.append(row)
        count += 1
        if len(pending) >= ROWS_PER_FILE:
            flush()
    if pending:
        flush()
    return files, count


@dataclass(frozen=True)
class LaterWorker:
    """Makes the workers of a second look: `kind` is "score" or "cut"."""

    config: CurateConfig
    scratch: str
    kind: str

    def __call__(self) -> _Later:
        return _Score(self) if self.kind == "score" else _Cut(self)


class _Later:
    """Fetches a known video again and works on it; what cannot be fetched now stays undone and is said."""

    def __init__(self, settings: LaterWorker):
        self._config = settings.config
        self._storage = Storage(settings.config.output)
        self._sandbox = Sandbox(settings.config.decode.memory_gb, settings.config.decode.stall_s)
        self._folder = Path(settings.scratch) / f"worker-{os.getpid()}"

    def __call__(self, row: dict[str, Any], beat: Beat) -> dict[str, Any]:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        problem = None

        def report(frames: int = 0) -> None:
            beat(frames, row["uri"])

        try:
            with fetched(row["uri"], self._folder, report) as (path, video_id):
                if video_id != row["video_id"]:
                    raise FetchFailed("the file has changed since it was scanned; run curate again to take it in")
                self._work(path, row, json.loads(row["work"]), report)
        except (FetchFailed, JobFailed) as error:
            problem = str(error)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        return {"key": row["key"], "uri": row["uri"], "status": "failed" if problem else "ok", "reason": problem}

    def _work(self, path: Path, row: dict[str, Any], work: dict[str, Any], beat: Callable[..., None]) -> None:
        raise NotImplementedError


class _Score(_Later):
    def _work(self, path: Path, row: dict[str, Any], work: dict[str, Any], beat: Callable[..., None]) -> None:
        scorers = tuple(scorer for scorer in self._config.scorers if scorer.kind in work["kinds"])
        plan = MeasurePlan(scorers=scorers)
        result = self._sandbox.run(
            "decode",
            lambda message: beat(message["frames"]),
            path=str(path),
            folder=str(self._folder),
            config=self._config.decode.model_dump(mode="json"),
            plan=plan.model_dump(mode="json"),
        )
        tracks = load_tracks(self._folder, result)
        for scorer in scorers:
            ledger = scores(self._storage, scorer)
            clips = [{"clip_id": name, **scorer.score(tracks, Span(start, end))} for name, start, end in work["clips"]]
            key = f"{row['video_id'][:32]}-{scorer.fingerprint()}"
            ledger.commit(key, {"key": key, "video_id": row["video_id"], "measured": token(scorer), "clips": clips})


class _Cut(_Later):
    def _work(self, path: Path, row: dict[str, Any], work: dict[str, Any], beat: Callable[..., None]) -> None:
        clips: Sequence[dict[str, Any]] = [{**clip, "cut": "none"} for clip in work["clips"]]
        cut_into(self._storage, self._sandbox, path, clips, self._config.cut, self._folder, beat)
        fields = ("clip_id", "media", "cut", "cut_reason")
        made = [{name: clip.get(name) for name in fields} for clip in clips]
        cuts(self._storage).commit(row["key"], {"key": row["key"], "video_id": row["video_id"], "clips": made})
