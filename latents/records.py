"""What workers leave of a shard: the append-only truth that indexes and every resume are made from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from latents.index import EmptyText, empty_name
from latents.shard import BLOCK, ShardEntry, padded, span
from orchestration.ledger import Ledger
from orchestration.storage import Storage

LEDGER = "encoded"
SETS = f"{LEDGER}/sets"
_FILE = re.compile(r"media/.*?\.\w+ in .*?(?=: |$)")
FAILURE = pa.struct([("key", pa.string()), ("clip_id", pa.string()), ("reason", pa.string()), ("retry", pa.bool_())])
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("set", pa.string()),
        ("bucket", pa.string()),
        ("run", pa.int64()),
        ("number", pa.int64()),  # of the shard in its bucket and set
        ("planned", pa.list_(pa.string())),  # keys that it was to hold
        ("failed", pa.list_(FAILURE)),
        ("name", pa.string()),  # null: not one sample could be made, there is no file
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("keys", pa.list_(pa.string())),
        ("tensors_bytes", pa.list_(pa.int64())),
        ("facts_bytes", pa.list_(pa.int64())),
        ("digests", pa.list_(pa.binary(32))),
    ]
)


def ledger(storage: Storage) -> Ledger:
    """One row a shard."""
    return Ledger(storage, LEDGER, SCHEMA, "key")


def shard_row(entry: ShardEntry | None) -> dict[str, Any]:
    """The columns from `name` on."""
    if entry is None:
        return {"name": None, "keys": [], "tensors_bytes": [], "facts_bytes": [], "digests": []}
    return {
        "name": entry.name,
        "bytes": entry.bytes,
        "sha256": entry.sha256,
        "keys": list(entry.keys),
        "tensors_bytes": entry.tensors_bytes.tolist(),
        "facts_bytes": entry.facts_bytes.tolist(),
        "digests": [digest.tobytes() for digest in entry.digests],
    }


def entry_of(row: Mapping[str, Any]) -> ShardEntry:
    """The index's entry of a row that has a file; offsets follow from the sizes."""
    tensors, facts = (np.array(row[name], np.int64) for name in ("tensors_bytes", "facts_bytes"))
    begins = np.concatenate([[0], np.cumsum(span(tensors, facts))])[:-1]
    digests = np.frombuffer(b"".join(row["digests"]), np.uint8).reshape(-1, 32)
    tensors_at, facts_at = begins + BLOCK, begins + 2 * BLOCK + padded(tensors)
    return ShardEntry(
        row["name"], row["bytes"], row["sha256"], tuple(row["keys"]), tensors_at, tensors, facts_at, facts, digests
    )


@dataclass(frozen=True)
class SetFacts:
    """What the samples of one fingerprint have in common; kept as `encoded/sets/FINGERPRINT.json`."""

    fingerprint: str
    run: int  # that made it first
    encoder: Mapping[str, Any]  # VAE, dtype, chunking, tiling, text encoder
    buckets: Sequence[Sequence[int]]  # frames, height, width
    settings: str  # fingerprint of the settings that `buckets` were derived with
    captions: Sequence[str]  # fingerprints of the caption versions
    empty: Mapping[str, Any] | None = None  # bytes and sha256 of the empty caption's file, once it is there

    @property
    def empty_text(self) -> EmptyText | None:
        """The index's entry."""
        return EmptyText(empty_name(self.fingerprint), **self.empty) if self.empty else None

    def differs(self, encoder: Mapping[str, Any], settings: str, captions: Sequence[str]) -> list[str]:
        """What in it is not so, for people; nothing: it is this set."""
        pairs = {
            "the VAE or its settings": (self.encoder["vae"], encoder["vae"]),
            "the text encoder": (self.encoder["text"], encoder["text"]),
            "which texts are embedded": (self.encoder["captions"], encoder["captions"]),
            "the settings of buckets": (self.settings, settings),
            "the caption versions": (list(self.captions), list(captions)),
        }
        return [name for name, (mine, other) in pairs.items() if mine != other]

    def write(self, storage: Storage) -> None:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        storage.write_bytes(f"{SETS}/{self.fingerprint}.json", json.dumps(data, indent=1).encode())


def sets(storage: Storage) -> dict[str, SetFacts]:
    """By fingerprint, in the order in which they were made first."""
    found = [SetFacts(**json.loads(storage.read_bytes(name))) for name in storage.list(SETS, ".json")]
    return {one.fingerprint: one for one in sorted(found, key=lambda one: (one.run, one.fingerprint))}


def rows(storage: Storage, fingerprint: str | None = None) -> Iterator[dict[str, Any]]:
    """Of all shards, or of those of one set."""
    for table in ledger(storage).read():
        for row in table.to_pylist():
            if fingerprint in (None, row["set"]):
                yield row


def kind_of(reason: str | None) -> str:
    """What reasons of one kind have in common: no names of clips and files, and no figures of the one clip."""
    own, _, said = (reason or "").partition(": ")
    if own.startswith("clip ") and said:  # reading says so of every clip
        return _FILE.sub("its file", said.partition(";")[0])[:160]
    return own.partition(":")[0].strip()[:160] or "no reason recorded"
