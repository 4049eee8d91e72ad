"""index.json of a bucket's folder: what its shards hold, to the byte. Written last: what no index names is not there.

    {"bucket": "17x256x384", "format": "rushes-latents-1", "samples": 2,
     "sets": {SET: {"encoder": {...}, "empty": {"bytes": ..., "name": "SET-empty.safetensors", "sha256": ...},
                    "shards": [{"name": "SET-000000.tar", "bytes": ..., "sha256": ..., "keys": [KEY, ...],
                                "tensors": {"at": [...], "bytes": [...]}, "facts": {"at": [...], "bytes": [...]},
                                "digests": [...]}, ...]}},
     "sha256": ...}

Canonical JSON: sorted keys, no spaces. `sha256`, the last, is that of the bytes of the file before it. The other terms
are ShardEntry's. An index is believed only if its offsets are those that the sizes give, so that a shard holds nothing
else, and names nothing outside of its folder, except the empty caption's embedding beside it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from latents.shard import BLOCK, END, KEY, MAX_FACTS, MAX_TENSORS, ShardEntry, ShardError, canonical, padded, span
from orchestration.storage import Storage

FORMAT = "rushes-latents-1"
FOLDER = "latents"  # of a data set
DECODED = f"{FOLDER}/decoded"  # videos for people to look at
NAME = "index.json"
BUCKET = re.compile(r"[1-9]\d{0,4}x[1-9]\d{0,4}x[1-9]\d{0,4}")  # frames x height x width
SET = re.compile(r"[0-9a-f]{16}")
SHA256 = re.compile(r"[0-9a-f]{64}")
COLUMNS = ("tensors_at", "tensors_bytes", "facts_at", "facts_bytes")


@dataclass(frozen=True)
class EmptyText:
    """The file beside the buckets that holds the empty caption's embedding: `text.0` [L, D] and `text.0.tokens`."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class LatentSet:
    """The samples of one bucket that were made with one encoder fingerprint; shards by name."""

    encoder: Mapping[str, Any]
    empty: EmptyText | None
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True)
class BucketIndex:
    bucket: str
    sets: Mapping[str, LatentSet]  # by fingerprint


def empty_name(fingerprint: str) -> str:
    return f"{fingerprint}-empty.safetensors"


def shard_name(fingerprint: str, number: int) -> str:
    return f"{fingerprint}-{number:06d}.tar"


def place(bucket: str, name: str = NAME) -> str:
    """Where a file of a bucket lies in the data set."""
    return f"{FOLDER}/{bucket}/{name}"


def buckets(storage: Storage) -> list[str]:
    """Sorted names of the folders of buckets, with or without an index."""
    folder = storage.path(FOLDER)
    if not storage.fs.exists(folder):
        return []
    names = (str(path).rstrip("/").rpartition("/")[2] for path in storage.fs.ls(folder, detail=False))
    return sorted(name for name in names if BUCKET.fullmatch(name))


def read_index(storage: Storage, bucket: str) -> BucketIndex:
    """Raises ShardError for one that is damaged, FileNotFoundError where there is none."""
    name = place(bucket)
    return parse_index(storage.read_bytes(name), bucket, f"{storage.uri}/{name}")


def write_index(storage: Storage, index: BucketIndex) -> None:
    """Publish: all that the index names has to be there already. Raises ShardError for what no reader would believe."""
    name = place(index.bucket)
    data = index_bytes(index)
    parse_index(data, index.bucket, f"{storage.uri}/{name}")
    storage.write_bytes(name, data)


def index_bytes(index: BucketIndex) -> bytes:
    sets = {}
    for fingerprint, each in index.sets.items():
        empty = each.empty and {"name": each.empty.name, "bytes": each.empty.bytes, "sha256": each.empty.sha256}
        shards = [_columns(shard) for shard in each.shards]
        sets[fingerprint] = {"encoder": dict(each.encoder), "empty": empty, "shards": shards}
    samples = sum(len(shard.keys) for each in index.sets.values() for shard in each.shards)
    body = canonical({"format": FORMAT, "bucket": index.bucket, "samples": samples, "sets": sets})[:-1]
    return body + _seal(body)


def parse_index(data: bytes, bucket: str, where: str) -> BucketIndex:
    """Raises ShardError, which says what in the file `where` is wrong."""
    size = len(_seal(b""))
    try:
        if data[-size:] != _seal(data[:-size]):
            raise ValueError("it is damaged or cut: its own checksum does not match")
        found = json.loads(data)
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {str(found['format'])[:40]!r}, this version of rushes reads {FORMAT!r}")
        if found["bucket"] != bucket or not BUCKET.fullmatch(bucket):
            raise ValueError(f"it is of the bucket {str(found['bucket'])[:40]!r}")
        sets = {fingerprint: _parse_set(fingerprint, each) for fingerprint, each in sorted(found["sets"].items())}
        samples = sum(len(shard.keys) for each in sets.values() for shard in each.shards)
        if found["samples"] != samples:
            raise ValueError(f"it says {found['samples']} samples and names {samples}")
    except ValueError as error:
        raise ShardError(where, None, str(error)) from None
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ShardError(where, None, f"it is no index: {error!r}") from None
    return BucketIndex(bucket, sets)


def _seal(body: bytes) -> bytes:
    return b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def _columns(shard: ShardEntry) -> dict[str, Any]:
    return {
        "name": shard.name,
        "bytes": shard.bytes,
        "sha256": shard.sha256,
        "keys": list(shard.keys),
        "tensors": {"at": shard.tensors_at.tolist(), "bytes": shard.tensors_bytes.tolist()},
        "facts": {"at": shard.facts_at.tolist(), "bytes": shard.facts_bytes.tolist()},
        "digests": [digest.tobytes().hex() for digest in shard.digests],
    }


def _parse_set(fingerprint: str, found: Mapping[str, Any]) -> LatentSet:
    if not SET.fullmatch(fingerprint):
        raise ValueError(f"{fingerprint[:40]!r} is no fingerprint of a set")
    shards: list[Any] = found["shards"]
    names = [shard["name"] for shard in shards]
    for name in names:
        # Exactly what shard_name makes: nothing that leads out of the folder gets past this.
        if not re.fullmatch(rf"{fingerprint}-\d{{6}}\.tar", name, re.ASCII):
            raise ValueError(f"{name[:80]!r} is no name of a shard of the set {fingerprint}")
    if names != sorted(set(names)):
        raise ValueError("its shards are not in order, or one is named twice")
    keys: list[str] = list(chain.from_iterable(shard["keys"] for shard in shards))
    for key in keys:
        if not KEY.fullmatch(key):
            raise ValueError(f"{key[:80]!r} is no key of a sample")
    if len(set(keys)) < len(keys):
        twice = next(key for key, again in zip(sorted(keys), sorted(keys)[1:], strict=False) if key == again)
        raise ValueError(f"the set {fingerprint} has the key {twice} twice")
    empty = found["empty"]
    if empty is not None:
        if empty["name"] != empty_name(fingerprint) or not SHA256.fullmatch(empty["sha256"]):
            raise ValueError(f"{str(empty['name'])[:80]!r} is no file of the empty caption of the set {fingerprint}")
        empty = EmptyText(empty["name"], _size(empty["bytes"]), empty["sha256"])
    if not isinstance(found["encoder"], dict):
        raise ValueError(f"the set {fingerprint} does not say its encoder")
    return LatentSet(found["encoder"], empty, tuple(_parse_shards(shards)))


def _parse_shards(shards: list[Any]) -> list[ShardEntry]:
    """Columns of all shards are checked together: a bucket may have a thousand of them."""
    counts = np.array([len(shard["keys"]) for shard in shards], np.int64)
    columns = []
    for name in COLUMNS:
        member, _, field = name.partition("_")
        lists = [shard[member][field] for shard in shards]
        column = np.array(list(chain.from_iterable(lists)))
        if [len(each) for each in lists] != counts.tolist() or (len(column) and column.dtype != np.int64):
            raise ValueError(f"{member}.{field} is no list of one number a sample")
        columns.append(column.astype(np.int64))
    digests = list(chain.from_iterable(shard["digests"] for shard in shards))
    sizes, hexadecimal = [len(shard["digests"]) for shard in shards], "".join(digests)
    whole = set(map(len, digests)) <= {64} and re.fullmatch(r"[0-9a-f]*", hexadecimal)
    if sizes != counts.tolist() or not whole:
        raise ValueError("digests is no list of one SHA-256 a sample")
    hashes = np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 32)
    tensors_at, tensors_bytes, facts_at, facts_bytes = columns
    for column, most in ((tensors_bytes, MAX_TENSORS), (facts_bytes, MAX_FACTS)):
        if len(column) and not 0 < column.min() <= column.max() <= most:
            raise ValueError("sizes of members that cannot be")
    # What the sizes give: members one behind the other, in each shard from 0 on.
    bounds = np.concatenate([[0], np.cumsum(counts)])
    ends = np.concatenate([[0], np.cumsum(span(tensors_bytes, facts_bytes))])
    begins = ends[:-1] - np.repeat(ends[bounds[:-1]], counts)
    fits = (tensors_at == begins + BLOCK) & (facts_at == begins + 2 * BLOCK + padded(tensors_bytes))
    totals = (np.diff(ends[bounds]) + len(END)).tolist()
    entries = []
    for number, (shard, total) in enumerate(zip(shards, totals, strict=True)):
        part = slice(bounds[number], bounds[number + 1])
        size = _size(shard["bytes"])
        if not counts[number] or not fits[part].all() or size != total:
            raise ValueError(f"{shard['name']}: offsets and sizes leave gaps, overlap or do not fill its {size} bytes")
        if not SHA256.fullmatch(shard["sha256"]):
            raise ValueError(f"{shard['name']} has no SHA-256")
        a, b, c, d = (column[part] for column in columns)
        entries.append(ShardEntry(shard["name"], size, shard["sha256"], tuple(shard["keys"]), a, b, c, d, hashes[part]))
    return entries


def _size(value: Any) -> int:
    if type(value) is not int or not 0 < value < 2**48:
        raise ValueError(f"{str(value)[:40]} is no size of a file")
    return value
