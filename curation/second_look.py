"""Second looks at videos that are scanned already: scores that were never measured, clips that were chosen later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.config import CurateConfig
from curation.dataset.publish import roster, snapshot
from curation.dataset.records import CUT_COLUMNS, cuts, scans, scores, token
from curation.fetch import FetchFailed, fetched
from curation.plan import MeasurePlan
from curation.sandbox import JobFailed
from curation.scan import Beat, Desk, cut_settings
from curation.select import SELECTION
from curation.video import Span
from orchestration.storage import Storage

TODO = pa.schema([("key", pa.string()), ("uri", pa.string()), ("video_id", pa.string()), ("work", pa.string())])
ROWS_PER_FILE = 1000
CUT_FIELDS = (
    *("clip_id", "video_id", "start_frame", "end_frame", "start_pts", "end_pts"),
    *("first_hash", "last_hash", "frames_hash"),
)


def unscored(storage: Storage, config: CurateConfig) -> Iterator[dict[str, Any]]:
    """Videos that lack a scorer of `config`: rows of TODO, `work` = {"kinds", "clips": [[clip_id, start, end]]}."""
    wanted = {token(scorer): scorer for scorer in config.scorers}
    ledger, speaking = scans(storage), roster(storage)
    filled = {
        (video, name)
        for name, scorer in wanted.items()
        for table in scores(storage, scorer).read(["video_id", "measured"])
        for video, measured in zip(*(column.to_pylist() for column in table.columns), strict=True)
        if measured == name
    }
    for part in ledger.parts():
        lacking: dict[str, list[str]] = {}
        for table in ledger.read_part(part, ["listing_id", "video_id", "measured"]):
            for row in table.to_pylist():
                video = row["video_id"] or ""
                missing = [name for name in wanted if name not in row["measured"] and (video, name) not in filled]
                if missing and speaking.scanned.get(video) == row["listing_id"]:
                    lacking[row["listing_id"]] = missing
        if not lacking:
            continue
        for table in ledger.read_part(part, ["listing_id", "video_id", "clips"]):
            for row in table.to_pylist():
                missing = lacking.get(row["listing_id"])
                if missing and row["clips"]:
                    spans = [[clip["clip_id"], clip["start_frame"], clip["end_frame"]] for clip in row["clips"]]
                    work = {"kinds": [wanted[name].kind for name in missing], "clips": spans}
                    yield _todo(row["video_id"], speaking.canonical(row["video_id"]), work, *missing)


def uncut(storage: Storage, config: CurateConfig) -> Iterator[dict[str, Any]]:
    """Videos with kept clips that have no file made with the present settings: rows of TODO, `work` = {"clips"}."""
    if config.cut.mode == "none":
        return
    settings = cut_settings(config.cut)
    kept: set[str] = set()
    with storage.open_read(SELECTION) as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=["clip_id", "kept"]):
            kept.update(batch.filter(batch.column(1)).column(0).to_pylist())
    pending: dict[str, list[dict[str, Any]]] = {}
    for table in snapshot(storage, "clips", [*CUT_FIELDS, "cut_settings"]):
        for clip in table.to_pylist():
            if clip["clip_id"] in kept and clip.pop("cut_settings") != settings:
                pending.setdefault(clip["video_id"], []).append(clip)
    speaking = roster(storage)
    for video_id, clips in pending.items():
        names = (clip["clip_id"] for clip in clips)
        yield _todo(video_id, speaking.canonical(video_id), {"clips": clips}, settings, *names)


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
class SecondLook:
    """Makes the workers of a second look: `kind` is "score" or "cut"; `run` is the number of the run."""

    config: CurateConfig
    scratch: str
    kind: str
    run: int

    def __call__(self) -> Callable[[dict[str, Any], Beat], dict[str, Any]]:
        return _Work(self)


class _Work:
    """Fetches a known video again and works on it; what does not work now stays undone and is said."""

    def __init__(self, settings: SecondLook):
        self._settings, self._config = settings, settings.config
        self._desk = Desk(settings.config, settings.scratch)

    def __call__(self, row: dict[str, Any], beat: Beat) -> dict[str, Any]:
        problem = None

        def report(frames: int = 0) -> None:
            beat(frames, row["uri"])

        try:
            with self._desk.folder() as folder, fetched(row["uri"], folder, report) as (path, video_id):
                if video_id != row["video_id"]:
                    raise FetchFailed("the file has changed since it was scanned; run curate again to take it in")
                work = json.loads(row["work"])
                if self._settings.kind == "score":
                    self._score(path, row, work, folder, report)
                else:
                    self._cut(path, row, work, folder, report)
        except (FetchFailed, JobFailed) as error:
            problem = str(error)
        return {"key": row["key"], "uri": row["uri"], "status": "failed" if problem else "ok", "reason": problem}

    def _score(
        self, path: Path, row: dict[str, Any], work: dict[str, Any], folder: Path, beat: Callable[..., None]
    ) -> None:
        scorers = tuple(scorer for scorer in self._config.scorers if scorer.kind in work["kinds"])
        tracks, _ = self._desk.decode(path, folder, MeasurePlan(scorers=scorers), beat)
        for scorer in scorers:
            clips = [{"clip_id": name, **scorer.score(tracks, Span(start, end))} for name, start, end in work["clips"]]
            key = f"{row['video_id'][:32]}-{scorer.fingerprint()}"
            record = {"key": key, "video_id": row["video_id"], "measured": token(scorer), "clips": clips}
            scores(self._desk.storage, scorer).commit(key, record)

    def _cut(
        self, path: Path, row: dict[str, Any], work: dict[str, Any], folder: Path, beat: Callable[..., None]
    ) -> None:
        clips = [{**clip, "media": None, "cut": "none"} for clip in work["clips"]]
        self._desk.cut(path, clips, folder, beat)
        made = [{name: clip.get(name) for name in CUT_COLUMNS} for clip in clips]
        record = {"key": row["key"], "video_id": row["video_id"], "run": self._settings.run, "clips": made}
        cuts(self._desk.storage).commit(row["key"], record)
