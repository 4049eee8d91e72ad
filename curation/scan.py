"""One listed object → one scan row: fetch, decode, shots, scores, choice, cut. The row is the commit unit of a run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from curation.config import CurateConfig
from curation.dataset.records import clip_schema, scans, token
from curation.decode import THUMBNAILS, load_tracks
from curation.fetch import FetchFailed, fetched
from curation.sandbox import JobFailed, Sandbox
from curation.schema import VIDEOS, clip_id
from curation.select import decide
from curation.thumbnail import thumbnail
from curation.video import Span, Tracks
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

    def __call__(self) -> Scanner:
        return Scanner(self)


class Scanner:
    """Scans one listing row at a time and commits it."""

    def __init__(self, settings: ScanWorker):
        config = settings.config
        self._settings, self._config = settings, config
        self._storage = Storage(config.output)
        self._ledger = scans(self._storage)
        self._sandbox = Sandbox(config.decode.memory_gb, config.decode.stall_s)
        self._folder = Path(settings.scratch) / f"worker-{os.getpid()}"

    def __call__(self, row: dict[str, Any], beat: Beat) -> dict[str, Any]:
        if not self._ledger.has(row["listing_id"]):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            try:
                record = self._scan(row, lambda frames=0: beat(frames, row["uri"]))
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)
            self._ledger.commit(row["listing_id"], record)
            return _receipt(record)
        (table,) = self._ledger.read_part(self._ledger.part_name(row["listing_id"]))
        return _receipt(table.to_pylist()[0])

    def _scan(self, row: dict[str, Any], beat: Callable[..., None]) -> dict[str, Any]:
        record: dict[str, Any] = {
            **{key: row[key] for key in ("listing_id", "run", "uri", "bytes")},
            "status": "ok",
            "shots": self._config.shots.fingerprint(),
            "measured": [token(scorer) for scorer in self._config.scorers],
            "clips": [],
        }
        clock = _Clock(record)
        try:
            if row["version"] == "missing":
                raise Failed("cannot be read: it is not there")
            if row["bytes"] == 0:
                raise Failed("empty file")
            with fetched(row["uri"], self._folder, beat) as (path, video_id):
                clock.lap("fetch_s")
                record["video_id"] = video_id
                if video_id in self._settings.forgotten:
                    raise Failed(f"forgotten: taken down on {self._settings.forgotten[video_id]}")
                if video_id in self._settings.known:
                    record["status"] = "duplicate"
                    return record
                self._measure(path, record, clock, beat)
        except (Failed, FetchFailed, JobFailed) as error:
            record |= {"status": "failed", "reason": str(error), "clips": []}
        return record

    def _measure(self, path: Path, record: dict[str, Any], clock: _Clock, beat: Callable[..., None]) -> None:
        config = self._config
        arrays = self._folder / "tracks"
        arrays.mkdir()
        result = self._sandbox.run(
            "decode",
            lambda message: beat(message["frames"]),
            path=str(path),
            folder=str(arrays),
            config=config.decode.model_dump(mode="json"),
            plan=config.plan.model_dump(mode="json"),
        )
        tracks = load_tracks(arrays, result)
        record |= _video_facts(tracks, result)
        clock.lap("decode_s")
        beat(tracks.frames)
        if config.damage == "reject" and record["decode_errors"]:
            raise Failed(f"damaged: {record['decode_errors']} of {tracks.frames} frames (damage: reject)")
        spans = config.shots.shots(tracks)
        clock.lap("shots_s")
        beat(tracks.frames)
        clips = [self._clip(record["video_id"], tracks, span, result["end_pts"]) for span in spans]
        clock.lap("score_s")
        beat(tracks.frames)
        self._cut(path, clips, record["video_id"], lambda: beat(tracks.frames))
        record["clips"] = clips
        clock.lap("cut_s")

    def _clip(self, video_id: str, tracks: Tracks, span: Span, last_pts: int | None) -> dict[str, Any]:
        frames = tracks.meters["frames"]
        start_s, end_s = tracks.seconds(span)
        hashes, pts = frames["hashes"][span.start : span.end], frames.get("pts")
        end_pts = None if pts is None else int(pts[span.end]) if span.end < tracks.frames else last_pts
        return {
            "clip_id": clip_id(video_id, *span),
            "video_id": video_id,
            "start_frame": span.start,
            "end_frame": span.end,
            "start_s": start_s,
            "end_s": end_s,
            "duration_s": end_s - start_s,
            "start_pts": None if pts is None else int(pts[span.start]),
            "end_pts": end_pts,
            "decode_errors": int(tracks.damaged[span.start : span.end].sum()),
            "first_hash": int(hashes[0]),
            "last_hash": int(hashes[-1]),
            "frames_hash": xxhash.xxh3_128_hexdigest(np.ascontiguousarray(hashes, "<u8").tobytes()),
            "cut": "none",
            "thumbnail": thumbnail(tracks.meters[THUMBNAILS], span),
            **self._config.plan.score(tracks, span),
        }

    def _cut(self, path: Path, clips: list[dict[str, Any]], video_id: str, beat: Callable[[], None]) -> None:
        """Cut what passes while the source is at hand, where no later clip can change the choice."""
        config = self._config
        if not config.select.row_wise or not clips:
            return
        table = pa.Table.from_pylist(clips, clip_schema())
        kept = decide(table, config.select, damage=config.damage).column("kept").to_pylist()
        chosen = [clip for clip, keep in zip(clips, kept, strict=True) if keep]
        cut_into(self._storage, self._sandbox, path, chosen, config.cut, self._folder, beat)


def cut_into(
    storage: Storage,
    sandbox: Sandbox,
    source: Path,
    clips: Sequence[dict[str, Any]],
    config: Any,
    folder: Path,
    beat: Callable[[], None],
) -> None:
    """Cut `clips` (rows of the clips table) from `source`, store their files and set their media, cut and cut_reason."""
    if config.mode == "none" or not clips:
        return
    requests = [
        {
            "span": [clip["start_frame"], clip["end_frame"]],
            "target": str(folder / f"{clip['clip_id']}.mp4"),
            **{key: clip[key] for key in ("start_pts", "end_pts", "first_hash", "last_hash", "frames_hash")},
        }
        for clip in clips
    ]
    results = sandbox.run(
        "cut", lambda message: beat(), path=str(source), config=config.model_dump(mode="json"), requests=requests
    )
    for clip, request, result in zip(clips, requests, results, strict=True):
        clip["cut"], clip["cut_reason"] = result["cut"], result["reason"]
        if result["cut"] != "none":
            clip["media"] = f"media/{clip['video_id']}/{clip['clip_id']}.mp4"
            storage.put_file(Path(request["target"]), clip["media"])
            beat()


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
        **{key: record.get(key) for key in ("fetch_s", "decode_s", "shots_s", "score_s", "cut_s")},
        "frames": record.get("frames_decoded") or 0,
        "clips": len(clips),
        "cut": sum(clip["cut"] in ("copy", "encode") for clip in clips),
    }
