"""Rows of the append-only parts: what a scan of one video leaves, and what later fills in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from curation.schema import CLIPS, VIDEOS
from curation.scorers import AnyScorer, score_columns
from orchestration.ledger import Ledger
from orchestration.storage import Storage

CUT_COLUMNS = ("clip_id", "media", "cut", "cut_reason", "cut_settings")
TIMINGS = ("fetch_s", "decode_s", "shots_s", "score_s", "pictures_s", "cut_s")


def clip_schema() -> pa.Schema:
    """Columns of the clips table, the thumbnail last."""
    fields = [pa.field(column.name, column.type) for column in (*CLIPS, *score_columns())]
    return pa.schema([*fields, pa.field("thumbnail", pa.binary())])


def scan_schema() -> pa.Schema:
    """One row a listed object. Each clip's `measured` names the scorers (see `token`) whose columns it holds."""
    return pa.schema(
        [
            pa.field("listing_id", pa.string()),
            pa.field("run", pa.int64()),
            *(pa.field(column.name, column.type) for column in VIDEOS),
            pa.field("retry", pa.bool_()),  # failed for a reason that may pass; the next run takes the file again
            pa.field("shots", pa.string()),
            *(pa.field(name, pa.float64()) for name in TIMINGS),
            pa.field("clips", pa.list_(pa.struct(list(clip_schema())))),
        ]
    )


def token(scorer: Any) -> str:
    """Names a scorer with its settings: scores made with other settings are other scores.

    Only settings that differ from the default are named, so that one which a later release adds changes nothing; where
    a release measures differently it raises `version`. On which device models run is no setting of the score.
    """
    settings = scorer.model_dump(mode="json", exclude_defaults=True, exclude={"device"})
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return f"{scorer.kind}:{scorer.version}:{digest}"


def embedding_token(scorers: Iterable[Any]) -> str | None:
    """The token of the scorer whose vectors tell near-duplicates; None where none makes vectors."""
    return next((token(scorer) for scorer in scorers if scorer.kind == "embedding"), None)


def scans(storage: Storage) -> Ledger:
    """One row a listed object and version; the commit unit of a run."""
    return Ledger(storage, "scan", scan_schema(), "listing_id")


def scores(storage: Storage, scorer: AnyScorer) -> Ledger:
    """Scores that a scan did not measure, or measured with other settings; one row a video, settings and clips."""
    columns = [pa.field("clip_id", pa.string()), *(pa.field(c.name, c.type) for c in scorer.columns())]
    schema = pa.schema(
        [
            pa.field("key", pa.string()),
            pa.field("video_id", pa.string()),
            pa.field("measured", pa.string()),
            pa.field("clips", pa.list_(pa.struct(columns))),
        ]
    )
    return Ledger(storage, f"scores/{scorer.kind}", schema, "key")


def embeddings(storage: Storage) -> Ledger:
    """Vectors of clips, of unit length; `measured` names the scorer. One row a video, settings and clips."""
    clip = pa.struct([pa.field("clip_id", pa.string()), pa.field("vector", pa.list_(pa.float16()))])
    schema = pa.schema(
        [
            pa.field("key", pa.string()),
            pa.field("video_id", pa.string()),
            pa.field("measured", pa.string()),
            pa.field("clips", pa.list_(clip)),
        ]
    )
    return Ledger(storage, "embeddings", schema, "key")


def commit_scores(ledger: Ledger, video_id: str, measured: str, clips: Sequence[dict[str, Any]]) -> None:
    """A row of `scores` or `embeddings`. The same work done twice writes the same part."""
    names = "\0".join([measured, *(clip["clip_id"] for clip in clips)])
    key = f"{video_id[:32]}-{hashlib.sha256(names.encode()).hexdigest()[:16]}"
    ledger.commit(key, {"key": key, "video_id": video_id, "measured": measured, "clips": list(clips)})


def cuts(storage: Storage) -> Ledger:
    """Clips that were chosen after their video was scanned; one row a video and set of clips."""
    clips = pa.list_(pa.struct([pa.field(name, pa.string()) for name in CUT_COLUMNS]))
    schema = pa.schema(
        [
            pa.field("key", pa.string()),
            pa.field("video_id", pa.string()),
            pa.field("run", pa.int64()),  # of several cuts of a clip the one of the latest run counts
            pa.field("clips", clips),
        ]
    )
    return Ledger(storage, "cuts", schema, "key")


TOMBSTONES = pa.schema([("video_id", pa.string()), ("date", pa.string())])


def tombstones(storage: Storage) -> Ledger:
    """Videos that were taken down; they are never taken in again."""
    return Ledger(storage, "tombstones", TOMBSTONES, "video_id")
