"""Small data sets of latents, made of numbers."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from latents.index import BucketIndex, EmptyText, LatentSet, empty_name, place, shard_name, write_index
from latents.shard import ShardEntry, pack_tensors, write_shard
from orchestration.storage import Storage

SET = "0123456789abcdef"
OTHER = "fedcba9876543210"
BUCKET = "17x64x96"
ENCODER = {"vae": "tiny", "dtype": "float32"}
SHAPES = {"17x64x96": (4, 5, 8, 12), "1x64x64": (4, 1, 8, 8)}


def sample(key: str, bucket: str = BUCKET, captions: int = 2) -> tuple[str, dict[str, torch.Tensor], dict[str, Any]]:
    """The same for the same arguments; no two keys have the same numbers."""
    random = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]))
    tensors = {name: torch.randn(SHAPES[bucket], generator=random).bfloat16() for name in ("mean", "logvar")}
    for number in range(captions):
        tensors[f"text.{number}"] = torch.randn(12, 16, generator=random)
        tensors[f"text.{number}.tokens"] = torch.tensor(3 + number, dtype=torch.int32)
    texts = [f"caption {number} of {key}, naïve" for number in range(captions)]
    facts = {"key": key, "clip_id": key.rpartition("-")[0], "captions": texts, "fps": 23.976, "scores": {"motion": 0.5}}
    return key, tensors, facts | {"set": SET, "bucket": [int(side) for side in bucket.split("x")]}


def keys(shard: int, samples: int) -> list[str]:
    return [f"{shard:016x}-{number:07d}-{number + 17:07d}-w0" for number in range(samples)]


def make(
    root: Any,
    bucket: str = BUCKET,
    shards: int = 3,
    samples: int = 4,
    *,
    fingerprint: str = SET,
    captions: int = 2,
    first: int = 0,
) -> BucketIndex:
    """Write a bucket with one set, and its index; the keys are those of keys(first + shard, samples)."""
    storage, entries = Storage(root), []
    for shard in range(shards):
        made = (sample(key, bucket, captions) for key in keys(first + shard, samples))
        entries.append(put(storage, bucket, shard_name(fingerprint, shard), made))
    empty = pack_tensors({"text.0": torch.ones(12, 16), "text.0.tokens": torch.tensor(1, dtype=torch.int32)})
    storage.write_bytes(f"latents/{empty_name(fingerprint)}", empty)
    named = EmptyText(empty_name(fingerprint), len(empty), hashlib.sha256(empty).hexdigest())
    index = BucketIndex(bucket, {fingerprint: LatentSet(ENCODER, named, tuple(entries))})
    write_index(storage, index)
    return index


def put(storage: Storage, bucket: str, name: str, samples: Iterable[Any]) -> ShardEntry:
    with storage.open_write(place(bucket, name)) as file:
        return write_shard(file, name, samples)


def shard_path(root: Path, shard: int = 0, bucket: str = BUCKET) -> Path:
    return root / place(bucket, shard_name(SET, shard))


def tar_of(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar as anyone makes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """To the bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].contiguous().view(torch.uint8).equal(other[name].contiguous().view(torch.uint8))
        if one[name].ndim
        else one[name].equal(other[name])
        for name in one
    )
