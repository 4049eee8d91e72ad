"""The published table: each sample of each set with its shard, each clip that gave none with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from latents.index import place
from latents.records import rows
from latents.standing import lost
from orchestration.errors import RushesError
from orchestration.runs import log
from orchestration.storage import Storage
from orchestration.tables import snapshot

TABLE = "samples"
OK, FAILED, SKIPPED = "ok", "failed", "skipped"
SAMPLES = pa.schema(
    [
        ("key", pa.string()),  # null: a clip that gives no sample
        ("clip_id", pa.string()),
        ("set", pa.string()),
        ("bucket", pa.string()),
        ("status", pa.string()),  # OK, FAILED, or SKIPPED: in no bucket
        ("reason", pa.string()),
        ("shard", pa.string()),  # relative to the data set
    ]
)


def sample_rows(storage: Storage, fingerprint: str, skipped: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """All rows of the table, after a run of the set `fingerprint` that skipped these clips, each with its reason."""
    yield from _made(storage)
    for clip_id, reason in skipped:
        yield {"clip_id": clip_id, "set": fingerprint, "status": SKIPPED, "reason": reason}
    try:  # clips that other sets skipped are nowhere else
        for table in snapshot(storage, TABLE, SAMPLES.names):
            for row in table.to_pylist():
                if row["status"] == SKIPPED and row["set"] != fingerprint:
                    yield row
    except RushesError as error:
        log.warning("what other sets skipped is lost: %s", error)


def _made(storage: Storage) -> Iterator[dict[str, Any]]:
    """A row for each sample of each set: the file that holds it, or why none does. None for those of lost shards."""
    gone = {row["key"] for row, _ in lost(storage)}
    made: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows(storage):
        for failure in row["failed"] or []:
            name = row["set"], row["bucket"], failure["key"]
            made.setdefault(name, _row(row, failure["key"], failure["clip_id"], failure["reason"]))
        for key in row["keys"] or [] if row["key"] not in gone else []:
            made[row["set"], row["bucket"], key] = _row(row, key, key.rpartition("-w")[0], None)
    for name in sorted(made):
        yield made[name]


def _row(shard: Mapping[str, Any], key: str, clip_id: str, reason: str | None) -> dict[str, Any]:
    return {
        "key": key,
        "clip_id": clip_id,
        "set": shard["set"],
        "bucket": shard["bucket"],
        "status": OK if reason is None else FAILED,
        "reason": reason,
        "shard": None if reason is not None else place(shard["bucket"], shard["name"]),
    }
