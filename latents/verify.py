"""Everything that can be wrong with the latents of a data set, found by reading all of it."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from latents.dataset import read_empty
from latents.index import DECODED, FOLDER, BucketIndex, LatentSet, buckets, empty_name, place, read_index
from latents.records import rows, sets
from latents.shard import BLOCK, END, KEY, ShardEntry, ShardError, header, padded, parse_sample, span
from orchestration.lock import WriterLock
from orchestration.storage import Storage

if TYPE_CHECKING:
    import torch

RUNS_CODE = re.compile(r"\.(pkl|pickle|pyd|pth|pt|npy|npz|joblib|dill)$", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    file: str  # in the data set
    key: str | None  # of the sample, where it is about one
    what: str
    damaged: bool = False  # the file is there and can be read, and holds what it should not: `remove` takes it away

    def __str__(self) -> str:
        return f"{self.file}{f', sample {self.key}' if self.key else ''}: {self.what}"


def verify(storage: Storage, only: str | None = None) -> list[Problem]:
    """All problems of the latents of the data set (or of the bucket `only`), by file and sample; none: all is well.

    Reads every byte: indexes, sizes and SHA-256 of shards and samples, tar headers, tensors and facts, and what lies
    there that no index names. Nothing that is read is run.
    """
    folders = [bucket for bucket in buckets(storage) if only in (None, bucket)]
    found: list[Problem] = []
    named: set[str] = set()  # all files that belong
    seen: dict[tuple[str, str], str] = {}  # (set, key) → bucket
    damaged: list[str] = []  # buckets whose files nobody can tell
    for bucket in folders:
        name = place(bucket)
        named.add(name)
        try:
            index = read_index(storage, bucket)
        except (ShardError, FileNotFoundError) as error:
            if not storage.list(place(bucket, "").rstrip("/")):
                continue  # an empty folder, of a bucket that nothing is left of
            what = error.what if isinstance(error, ShardError) else "missing: the shards beside it count for nothing"
            found.append(Problem(name, None, what))  # the next run writes it anew
            damaged.append(place(bucket, ""))
            continue
        named |= {place(bucket, shard.name) for each in index.sets.values() for shard in each.shards}
        named |= {f"{FOLDER}/{empty_name(fingerprint)}" for fingerprint in index.sets}
        found += _bucket(storage, index)
        for fingerprint, each in index.sets.items():
            for key in (key for shard in each.shards for key in shard.keys):
                if (other := seen.setdefault((fingerprint, key), bucket)) != bucket:
                    found.append(Problem(name, key, f"the same sample is in the bucket {other}"))
    if only is None and not folders:
        found.append(Problem(FOLDER, None, "no folder of any bucket"))
    for name in storage.list(FOLDER if only is None else place(only, "").rstrip("/")):
        unknown = name.startswith(tuple(damaged)) or (damaged and name.endswith(empty_name("")))
        if name not in named and not unknown and not name.startswith(f"{DECODED}/"):
            found.append(Problem(name, None, "no index names it: a run that was stopped left it, or it is not ours"))
    return found


def remove(storage: Storage, problems: Sequence[Problem]) -> list[str]:
    """Remove the damaged files that `rushes latents` can make again, and none else; returns their names.

    Raises Locked while a run writes.
    """
    known = {f"{FOLDER}/{empty_name(fingerprint)}" for fingerprint in sets(storage)}
    known |= {place(row["bucket"], row["name"]) for row in rows(storage) if row["name"] is not None}
    with WriterLock(storage, "latents verify"):
        names = sorted({one.file for one in problems if one.damaged and storage.exists(one.file)} & known)
        for name in names:
            storage.remove(name)
    return names


def _bucket(storage: Storage, index: BucketIndex) -> Iterator[Problem]:
    for fingerprint, each in index.sets.items():
        name = f"{FOLDER}/{empty_name(fingerprint)}"
        try:
            read_empty(storage, each)
        except ShardError as error:
            yield Problem(name, None, error.what, damaged=True)
        yield from _set(storage, index.bucket, each)


def _set(storage: Storage, bucket: str, of: LatentSet) -> Iterator[Problem]:
    shapes: dict[tuple[Any, ...], str] = {}  # the first sample's
    for entry in of.shards:
        file = place(bucket, entry.name)
        try:
            size = storage.fs.info(storage.path(file))["size"]
            with storage.open_read(file) as opened:
                found = [Problem(file, key, what, True) for key, what in _samples(opened, entry, bucket, shapes)]
            if size != entry.bytes:
                found.append(Problem(file, None, f"it has {size} bytes, the index says {entry.bytes}", True))
            if found:
                with storage.open_read(file) as opened:
                    found += [Problem(file, key, what, True) for key, what in _members(opened, entry)]
            yield from found
        except FileNotFoundError:
            yield Problem(file, None, f"the shard is missing, with {len(entry.keys)} samples")
        except OSError as error:
            yield Problem(file, None, f"the shard cannot be read: {error}")


def _samples(
    file: IO[bytes], entry: ShardEntry, bucket: str, shapes: dict[tuple[Any, ...], str]
) -> Iterator[tuple[str | None, str]]:
    """What is wrong with the samples where the index says that they are."""
    whole = hashlib.sha256()
    spans = span(entry.tensors_bytes, entry.facts_bytes).tolist()
    for number, (key, size) in enumerate(zip(entry.keys, spans, strict=True)):
        data = bytearray(file.read(size))
        whole.update(data)
        if len(data) < size:
            yield key, f"the shard is cut here, {len(entry.keys) - number} samples are not whole"
            return
        tensors_bytes, facts_bytes = int(entry.tensors_bytes[number]), int(entry.facts_bytes[number])
        if hashlib.sha256(data).digest() != entry.digests[number].tobytes():
            yield key, "its bytes are not those that the index names (SHA-256)"
            continue
        try:
            middle = BLOCK + padded(tensors_bytes)
            heads = (data[:BLOCK], data[middle : middle + BLOCK])
            tensors, facts = parse_sample(data, key, tensors_bytes, facts_bytes)
            if heads != (header(f"{key}.safetensors", tensors_bytes), header(f"{key}.json", facts_bytes)):
                raise ValueError("its tar headers are not those that rushes writes")
            _check(tensors, facts, bucket, shapes, key)
        except ValueError as error:
            yield key, str(error)
    rest = file.read(len(END) + 1)
    whole.update(rest)
    if rest != END:
        yield None, "its end is not that of a tar, or more follows"
    if whole.hexdigest() != entry.sha256:
        yield None, "the whole file is not what the index names (SHA-256)"


def _check(
    tensors: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    bucket: str,
    shapes: dict[tuple[Any, ...], str],
    key: str,
) -> None:
    """Content that belongs into the bucket. Raises ValueError."""
    import torch

    frames, height, width = (int(side) for side in bucket.split("x"))
    mean, logvar = tensors.get("mean"), tensors.get("logvar")
    if mean is None or mean.ndim != 4:
        raise ValueError("it has no mean of four dimensions")
    _, times, high, wide = mean.shape
    # Whatever the VAE: one ratio for both sides; the first frame alone, then equal groups.
    even = height % high == 0 and width % wide == 0 and height // high == width // wide
    if not even or (frames == 1) != (times == 1) or (times > 1 and (frames - 1) % (times - 1)):
        raise ValueError(f"latents of {list(mean.shape)} are not those of {bucket}")
    if logvar is not None and logvar.shape != mean.shape:
        raise ValueError("logvar and mean differ in shape")
    texts = sorted(name for name in tensors if re.fullmatch(r"text\.\d+", name))
    expected = {f"text.{number}{part}" for number in range(len(texts)) for part in ("", ".tokens")}
    if set(tensors) - {"mean", "logvar"} != expected:
        raise ValueError(f"it holds {sorted(tensors)}")
    for name in texts:
        text, tokens = tensors[name], tensors[f"{name}.tokens"]
        if text.ndim != 2 or tokens.numel() != 1 or not 0 <= int(tokens) <= len(text):
            raise ValueError(f"{name} {list(text.shape)} has {tokens.tolist()} real tokens")
    if texts and isinstance(captions := facts.get("captions"), list) and len(captions) != len(texts):
        raise ValueError(f"{len(captions)} captions and {len(texts)} embeddings")
    shape = (mean.dtype, tuple(mean.shape), logvar is None, bool(texts))
    if shapes and shape not in shapes:
        (first,) = shapes.values()
        raise ValueError(f"its latents {mean.dtype} {list(mean.shape)}, or what is beside them, differ from {first}'s")
    shapes.setdefault(shape, key)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has values that are not finite")


def _members(file: IO[bytes], entry: ShardEntry) -> Iterator[tuple[str | None, str]]:
    """What a tar reader would find that the index does not name, or not there. Headers only; contents stay closed."""
    expected = {}
    for number, key in enumerate(entry.keys):
        expected[f"{key}.safetensors"] = (int(entry.tensors_at[number]), int(entry.tensors_bytes[number]))
        expected[f"{key}.json"] = (int(entry.facts_at[number]), int(entry.facts_bytes[number]))
    at, seen = 0, set()
    while (block := file.read(BLOCK)) and any(block):
        try:
            member = tarfile.TarInfo.frombuf(block, "ascii", "backslashreplace")
        except tarfile.HeaderError as error:
            yield None, f"the tar header at byte {at} is damaged ({error}): tar readers lose what follows"
            return
        at += BLOCK
        name, key = member.name, member.name.rpartition("/")[2].partition(".")[0]
        key = key if KEY.fullmatch(key) else None
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or not member.isreg():
            yield key, f"the member {name!r} is not a file of this folder: do not extract it"
        elif RUNS_CODE.search(name):
            yield key, f"the member {name!r} could run code when it is loaded: it was not opened"
        elif name in seen:
            yield key, f"the member {name!r} is there twice"
        elif name not in expected:
            yield key, f"the index does not name the member {name!r}"
        elif expected[name] != (at, member.size):
            yield key, f"the member {name!r} has {member.size} bytes at {at}, the index says {expected[name]}"
        seen.add(name)
        at += padded(member.size)
        file.seek(at)
    for name in sorted(set(expected) - seen):
        yield name.partition(".")[0], f"the member {name!r} is not there"
