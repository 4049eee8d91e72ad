"""Negative labels that a vision-language model gave clips (`rushes caption labels`), and which of them count."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.scorers.labels import LABELS
from orchestration.ledger import Ledger
from orchestration.storage import Storage
from orchestration.tables import published

KIND = "label_vlm"
LEDGER = f"scores/{KIND}"
MARK = b"rushes.label_vlm"  # in the files of the clips table: the labels that they were made with
_CLIP = pa.struct(
    [
        ("clip_id", pa.string()),
        ("status", pa.string()),  # ok, or failed: then all labels are null
        *((name, pa.float32()) for name in LABELS),  # null: the model is unsure, or the label is none of this clip
        ("evidence", pa.string()),  # what the model says that it sees
        ("reason", pa.string()),  # why it failed
        ("retry", pa.bool_()),  # failed for a reason that may pass
        ("text", pa.string()),  # the answer that could not be read
        ("tries", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("seconds", pa.float64()),  # of the backend
    ]
)


def vlm_labels(storage: Storage) -> Ledger:
    """One row a video and set of clips that were asked about together."""
    fields = [
        pa.field("key", pa.string()),
        pa.field("video_id", pa.string()),
        pa.field("measured", pa.string()),  # names who was asked what, as a scorer's token does
        pa.field("run", pa.int64()),  # of several answers on a clip the one of the latest run counts
        pa.field("model", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("clips", pa.list_(_CLIP)),
    ]
    return Ledger(storage, LEDGER, pa.schema(fields), "key")


def latest(storage: Storage) -> dict[str, tuple[str, tuple[float | None, ...]]]:
    """clip_id → (`measured`, the values of LABELS in their order). An answer outlasts a later failure."""
    found: dict[str, tuple[str, tuple[float | None, ...]]] = {}
    ranks: dict[str, tuple[int, str]] = {}
    for rank, record, clip in _answers(storage):
        name = clip["clip_id"]
        if name not in ranks or rank > ranks[name]:
            ranks[name] = rank
            found[name] = record["measured"], tuple(clip[label] for label in LABELS)
    return found


def find(storage: Storage, clip: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer that counts on a row of the clips table: a clip of the ledger, with `measured`, `model`, `prompt`."""
    said = [answer for answer in _answers(storage, clip["video_id"]) if answer[2]["clip_id"] == clip["clip_id"]]
    if not said:
        return None
    _, record, answer = max(said, key=lambda answer: answer[0])
    return {**answer, **{name: record[name] for name in ("measured", "model", "prompt")}}


def _answers(
    storage: Storage, video_id: str | None = None
) -> Iterator[tuple[tuple[int, str], dict[str, Any], dict[str, Any]]]:
    """(rank, row of the ledger, clip) of all answers that could be read."""
    for table in vlm_labels(storage).read():
        if video_id is not None:
            table = table.filter(pc.equal(table.column("video_id"), video_id))
        for record in table.to_pylist():
            rank = record["run"] or 0, record["key"]
            yield from ((rank, record, clip) for clip in record["clips"] or [] if clip["status"] == "ok")


def digest(storage: Storage) -> str:
    """Changes whenever labels are added or removed; empty where there are none. Only lists files."""
    names = storage.list(LEDGER, ".parquet")
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] if names else ""


def are_published(storage: Storage) -> bool:
    """Whether the clips table was made with the labels that there are; opens one footer."""
    files = published(storage, "clips")
    if not files:
        return True
    with storage.open_read(files[0]) as file:
        metadata = pq.read_schema(file).metadata or {}
    return metadata.get(MARK, b"").decode() == digest(storage)
