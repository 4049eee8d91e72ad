"""One listed object → one scan row: fetch, decode, shots, scores, choice, cut. The row is the commit unit of a run."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.cascade import Cascade
from curation.config import CurateConfig
from curation.cut import CutConfig
from curation.dataset.records import clip_schema, commit_scores, embeddings, scans, token
from curation.decode import load_tracks, span_pts
from curation.fetch import FetchFailed, fetched
from curation.ingest import UNREADABLE
from curation.media.still import PICTURES
from curation.media.verify import frames_hash
from curation.plan import MeasurePlan
from curation.rules.overrides import Overrides
from curation.sandbox import JobFailed, Sandbox
from curation.schema import VIDEOS, clip_id
from curation.select import decide
from curation.stills import Stills
from curation.video import Span, Tracks
from orchestration.progress import alive
from orchestration.runs import log
from orchestration.storage import Storage

Beat = Callable[[int, str], None]


class Failed(ValueError):
    """The video cannot be used; the message is the reason in the videos table."""


@dataclass(frozen=True)
class ScanWorker:
    """Makes scanners in Ray's workers. `known` are the ids of videos that earlier runs scanned, `forgotten` maps
    taken-down ids to their date. `scratch` is the run's own folder on every machine."""

    config: CurateConfig
    scratch: str
    known: frozenset[str] = frozenset()
    forgotten: dict[str, str] = field(default_factory=dict)
    overrides: Overrides = field(default_factory=Overrides)

    def __call__(self) -> Scanner:
        return Scanner(self)


class Desk:
    """What a worker needs for one video at a time: a folder, a sandbox, models, the dataset."""

    def __init__(self, config: CurateConfig, scratch: str, overrides: Overrides):
        self.config = config
        self._cascade = Cascade(config, overrides)
        self.storage = Storage(config.output)
        self.sandbox = Sandbox(config.decode.memory_gb, config.decode.stall_s, config.decode.max_work_h)
        self._scratch = Path(scratch)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A fresh folder in scratch that is removed afterwards."""
        path = self._scratch / uuid.uuid4().hex
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def decode(self, path: Path, folder: Path, plan: MeasurePlan, beat: Callable[[int], None]) -> tuple[Tracks, Any]:
        """(what the meters left, further facts)"""
        arrays = folder / "tracks"
        arrays.mkdir()
        result = self.sandbox.run(
            "decode",
            lambda message: beat(message["frames"]),
            path=str(path),
            folder=str(arrays),
            config=self.config.decode.model_dump(mode="json"),
            plan=plan.model_dump(mode="json"),
            images=self.config.images,
        )
        return load_tracks(arrays, result), result

    def look(self, video_id: str, clips: Sequence[dict[str, Any]], tracks: Tracks) -> dict[str, float]:
        """Let the picture scorers fill in rows of the clips table, and commit the vectors that lie beside them.

        A vector whose row is never committed does no harm: its clip is in no table. Returns the CPU seconds of each
        scorer.
        """
        for name, found in self._cascade.run(clips, tracks).items():
            vectors = [{"clip_id": clip_id, "vector": vector.astype(np.float16)} for clip_id, vector in found.items()]
            commit_scores(embeddings(self.storage), video_id, name, vectors)
        return {kind: round(seconds, 4) for kind, seconds in self._cascade.cpu_s.items()}

    def cut(self, source: Path, clips: Sequence[dict[str, Any]], folder: Path, beat: Callable[[], None]) -> None:
        """Cut `clips` (rows of the clips table) from `source`, store their files, and say in the rows what was made."""
        config = self.config.cut
        if config.mode == "none" or not clips:
            return
        hashes = ("start_pts", "end_pts", "first_hash", "last_hash", "frames_hash")
        requests = [
            {
                "span": [clip["start_frame"], clip["end_frame"]],
                "target": str(folder / f"{clip['clip_id']}.mp4"),
                **{key: clip[key] for key in hashes},
            }
            for clip in clips
        ]
        results = self.sandbox.run(
            "cut",
            lambda message: beat(),
            path=str(source),
            config=config.model_dump(mode="json"),
            requests=requests,
            max_pixels=self.config.decode.max_pixels,
        )
        for clip, request, result in zip(clips, requests, results, strict=True):
            made = result["cut"] != "none"
            clip |= {"cut": result["cut"], "cut_reason": result["reason"], "cut_settings": cut_settings(config)}
            name = f"media/{clip['video_id']}/{clip['clip_id']}{result['suffix']}"
            clip["media"] = name if made else None
            if made:
                self.storage.put_file(Path(request["target"]).with_suffix(result["suffix"]), name)
                beat()


def cut_settings(config: CutConfig) -> str:
    """Names what decides a clip's bytes; how a copy is checked does not."""
    return config.fingerprint({"verify"})


class Scanner:
    """Scans one listing row at a time and commits it."""

    def __init__(self, settings: ScanWorker):
        self._settings, self._config = settings, settings.config
        self._desk = Desk(settings.config, settings.scratch, settings.overrides)
        self._ledger = scans(self._desk.storage)

    def __call__(self, row: dict[str, Any], beat: Beat) -> dict[str, Any]:
        record = self._done(row)
        if record is None:
            with self._desk.folder() as folder:
                record = self._scan(row, folder, lambda frames=0: beat(frames, row["uri"]))
            self._ledger.commit(row["listing_id"], record)
        return _receipt(record)

    def _done(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """The row as this run has committed it already, if Ray asks a second time."""
        if not self._ledger.has(row["listing_id"]):
            return None
        (table,) = self._ledger.read_part(self._ledger.part(row["listing_id"]))
        record = table.to_pylist()[0]
        return record if record["run"] == row["run"] else None

    def _scan(self, row: dict[str, Any], folder: Path, beat: Callable[..., None]) -> dict[str, Any]:
        record: dict[str, Any] = {
            **{key: row[key] for key in ("listing_id", "run", "uri", "bytes")},
            "status": "ok",
            "retry": False,
            "shots": self._config.shots.fingerprint(),
            "clips": [],
        }
        clock = _Clock(record)
        try:
            if row["version"].startswith(UNREADABLE):
                raise Failed(row["version"])
            if row["bytes"] == 0:
                raise Failed("empty file")
            with fetched(row["uri"], folder, beat) as (path, video_id):
                clock.lap("fetch_s")
                record["video_id"] = video_id
                if video_id in self._settings.forgotten:
                    raise Failed(f"forgotten: taken down on {self._settings.forgotten[video_id]}")
                if video_id in self._settings.known:
                    record["status"] = "duplicate"
                    return record
                self._measure(path, record, folder, clock, beat)
        except (Failed, FetchFailed, JobFailed) as error:
            retry = getattr(error, "retryable", False)
            record |= {"status": "failed", "reason": str(error), "retry": retry, "clips": []}
        return record

    def _measure(
        self, path: Path, record: dict[str, Any], folder: Path, clock: _Clock, beat: Callable[..., None]
    ) -> None:
        config = self._config
        tracks, facts = self._desk.decode(path, folder, config.plan, beat)
        record |= _video_facts(tracks, facts)
        clock.lap("decode_s")
        with alive(lambda: beat(tracks.frames)):
            try:
                spans = config.shots.shots(tracks)
                clock.lap("shots_s")
                clips = [self._clip(record, tracks, span, facts["end_pts"]) for span in spans]
                clock.lap("score_s")
                record["picture_cpu_s"] = self._desk.look(record["video_id"], clips, tracks)
                clock.lap("pictures_s")
            except (
                ArithmeticError,
                LookupError,
                ValueError,
            ) as error:  # our arithmetic on odd content
                log.exception("%s", record["uri"])
                raise Failed(f"internal error: {type(error).__name__}: {error}; please report it") from error
        record["clips"] = clips
        if config.select.row_wise:  # else no clip can be chosen before all are known
            table = pa.Table.from_pylist(clips, clip_schema())
            decisions = decide(table, config.select, damage=config.damage, overrides=self._settings.overrides)
            kept = decisions.column("kept").to_pylist()
            chosen = [clip for clip, keep in zip(clips, kept, strict=True) if keep]
            try:
                self._desk.cut(path, chosen, folder, lambda: beat(tracks.frames))
            except JobFailed as error:
                # The scores are good. The clips are cut on a second look, which says what is wrong if it fails again.
                log.warning("%s: cutting failed, left for a second look: %s", record["uri"], error)
        clock.lap("cut_s")

    def _clip(self, record: dict[str, Any], tracks: Tracks, span: Span, last_pts: int | None) -> dict[str, Any]:
        video_id, frames = record["video_id"], tracks.meters["frames"]
        start_s, end_s = tracks.seconds(span)
        hashes = frames["hashes"][span.start : span.end]
        start_pts, end_pts = span_pts(frames, span, last_pts)
        scores = self._config.plan.score(tracks, span)
        return {
            "clip_id": clip_id(video_id, *span),
            "video_id": video_id,
            "image": tracks.info.container in PICTURES,
            "start_frame": span.start,
            "end_frame": span.end,
            "start_s": start_s,
            "end_s": end_s,
            "duration_s": end_s - start_s,
            "start_pts": start_pts,
            "end_pts": end_pts,
            "decode_errors": int(tracks.damaged[span.start : span.end].sum()),
            "video_errors": record["decode_errors"],
            "first_hash": int(hashes[0]),
            "last_hash": int(hashes[-1]),
            "frames_hash": frames_hash(hashes),
            "measured": [token(scorer) for scorer in self._config.plan.frame_scorers],
            "cut": "none",
            "thumbnail": Stills(tracks).thumbnail(span, scores),
            **scores,
        }


class _Clock:
    """Writes the seconds since the last lap into the record."""

    def __init__(self, record: dict[str, Any]):
        self._record, self._last = record, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._record[name] = round(now - self._last, 4)
        self._last = now


def _video_facts(tracks: Tracks, result: dict[str, Any]) -> dict[str, Any]:
    info = result["info"]
    named = {column.name for column in VIDEOS}
    return {
        **{key: value for key, value in info.items() if key in named},
        "fps": info["fps"] or None,
        "frames": result["frames_promised"],
        "frames_decoded": tracks.frames,
        "decode_errors": int(tracks.damaged.sum()),
        "duration_s": tracks.end_time - float(tracks.times[0]),
    }


def _receipt(record: dict[str, Any]) -> dict[str, Any]:
    """What the driver needs to know; small and JSON."""
    clips = record["clips"] or []
    return {
        "key": record["listing_id"],
        **{key: record.get(key) for key in ("uri", "status", "reason", "bytes", "duration_s")},
        **{key: record.get(key) for key in ("fetch_s", "decode_s", "shots_s", "score_s", "pictures_s", "cut_s")},
        "picture_cpu_s": record.get("picture_cpu_s") or {},
        "frames": record.get("frames_decoded") or 0,
        "clips": len(clips),
        "cut": sum(clip["cut"] in ("copy", "encode") for clip in clips),
    }
