"""Which clips are to be asked about: kept ones, as rows that reading and asking need."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from curation.dataset.records import clip_schema
from curation.select import SELECTION, kept_clips
from orchestration.errors import ConfigError
from orchestration.storage import Storage
from orchestration.tables import snapshot

VIDEO = ("uri", "width", "height", "rotation", "pixel_aspect", "hdr", "interlaced", "pix_fmt", "fps", "codec")
# Of a clip all but pictures, boxes and what only cutting needs.
WITHOUT = {"thumbnail", "text_boxes", "face_boxes", "measured", "frames_hash", "cut_settings", "cut_reason"}


def require_clips(storage: Storage) -> None:
    """Raises ConfigError where nothing was curated: before a folder is made there."""
    if not storage.list("clips", ".parquet") or not storage.exists(SELECTION):
        raise ConfigError(f"dataset: {storage.uri} holds no curated clips; run `rushes curate` first")


def chosen(storage: Storage, limit: int | None = None) -> set[str]:
    """Clips that are kept; `limit`: so many of them, the same ones each time. Raises ConfigError without any."""
    kept = kept_clips(storage)
    if not kept:
        raise ConfigError(f"dataset: {storage.uri} has no kept clip; loosen its rules with `rushes select`")
    if limit is not None and limit < len(kept):
        return set(heapq.nsmallest(limit, kept, key=lambda name: hashlib.sha256(name.encode()).digest()))
    return kept


def clip_rows(storage: Storage, wanted: Collection[str]) -> Iterator[dict[str, Any]]:
    """Rows of the clips table, each with its video's columns VIDEO, for `curation.read.read_clip`; nulls left out."""
    videos: dict[str, Mapping[str, Any]] = {}
    for table in snapshot(storage, "videos", ["video_id", "status", *VIDEO]):
        for row in table.to_pylist():
            if row["status"] == "ok":
                videos[row["video_id"]] = {name: row[name] for name in VIDEO}
    columns = [name for name in clip_schema().names if name not in WITHOUT]
    for table in snapshot(storage, "clips", columns):
        for row in table.to_pylist():
            if row["clip_id"] in wanted:
                joined = {**videos.get(row["video_id"], {}), **row}
                yield {name: value for name, value in joined.items() if value is not None}
