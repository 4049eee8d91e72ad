"""Which samples of a set are there, and which shards are to be made again: their files are gone or have another size.

What a shard held is in the ledger, so that it is made again under its name, of the same samples, to the same bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from latents.index import FOLDER, place
from latents.plan import shard_key
from latents.records import ledger, rows, shard_row
from orchestration.storage import Storage

Remade = tuple[dict[str, Any], list[dict[str, Any]]]  # the ledger's row of a shard, the samples that it held


def lost(storage: Storage) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of all sets whose shard is not there whole, each with what is wrong. One listing, no file is read."""
    found = storage.fs.find(storage.path(FOLDER), detail=True)
    there = {str(path)[len(storage.root) + 1 :]: about["size"] for path, about in found.items()}
    for row in rows(storage):
        if row["name"] is not None:
            size = there.get(place(row["bucket"], row["name"]))
            if size != row["bytes"]:
                yield row, "is missing" if size is None else f"has {size:,} bytes, {row['bytes']:,} were written"


def standing(storage: Storage, fingerprint: str, again: bool) -> dict[str, set[str]]:
    """By bucket: keys of samples that are there, or failed for good (with `again` only those that are there)."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows(storage, fingerprint):
        found[row["bucket"]] |= {one["key"] for one in row["failed"] or [] if not (again or one["retry"])}
        found[row["bucket"]] |= set(row["keys"] or [])
    return found


def remade(storage: Storage, fingerprint: str, samples: Mapping[str, Sequence[dict[str, Any]]]) -> list[Remade]:
    """Shards that were set aside, with those of the `samples` that they held."""
    left = {(bucket, sample["key"]): sample for bucket, some in samples.items() for sample in some}
    aside = [row for row in rows(storage, fingerprint) if row["name"] is None]
    found: list[Remade] = []
    for row in sorted(aside, key=lambda row: len(row["planned"])):  # a shard that was taken apart after its parts
        held = sorted(set(row["planned"]) - {one["key"] for one in row["failed"] or []})
        if some := [left.pop((row["bucket"], key)) for key in held if (row["bucket"], key) in left]:
            found.append((row, some))
    if found:
        ledger(storage).pack(at_least=1)  # workers take a loose row for a shard that is made
    return found


def set_aside(storage: Storage, row: dict[str, Any]) -> None:
    """Say in the ledger that a shard is not there, and what it held: kills change nothing from here on."""
    failed = [one["key"] for one in row["failed"] or []]
    held = [key for key in row["planned"] if key not in failed]
    nothing = {**row, **shard_row(None)}
    if failed:  # they keep a row of their own
        key = shard_key(row["set"], row["bucket"], row["number"], failed)
        ledger(storage).commit(key, {**nothing, "key": key, "planned": failed})
    ledger(storage).commit(row["key"], {**nothing, "planned": held, "failed": []})
