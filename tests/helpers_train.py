"""A small data set of latents that the tiny transformer takes, made of numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from helpers_shards import SET, keys, put

from latents.index import BucketIndex, EmptyText, LatentSet, empty_name, shard_name, write_index
from latents.shard import pack_tensors
from latents.text import TextConfig, TextEncoder
from latents.vae import VaeConfig, VideoEncoder
from orchestration.storage import Storage

TOKENS = 8  # of a text
BUCKETS = ("1x32x32", "9x32x48")
WIDTH = 384  # of the texts


def make(root: Path, samples: int = 20, channels: int = 16, width: int = WIDTH, poison: str | None = None) -> None:
    """`samples` of each of BUCKETS; `poison`: the key of one that is not finite."""
    storage = Storage(str(root))
    empty = pack_tensors({"text.0": torch.ones(TOKENS, width), "text.0.tokens": torch.tensor([1], dtype=torch.int32)})
    storage.write_bytes(f"latents/{empty_name(SET)}", empty)
    named = EmptyText(empty_name(SET), len(empty), hashlib.sha256(empty).hexdigest())
    vae, text = VideoEncoder(VaeConfig()).facts, TextEncoder(TextConfig(max_tokens=TOKENS)).facts
    encoder = {"vae": {**vae, "latent_channels": channels}, "text": text}
    for bucket in BUCKETS:
        made = [_sample(key, bucket, channels, width, key == poison) for key in keys(int(bucket[0]), samples)]
        entry = put(storage, bucket, shard_name(SET, 0), made)
        write_index(storage, BucketIndex(bucket, {SET: LatentSet(encoder, named, (entry,))}))


def _sample(
    key: str, bucket: str, channels: int, width: int, poisoned: bool
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    random = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]))
    frames, height, breadth = (int(side) for side in bucket.split("x"))
    shape = (channels, (frames - 1) // 4 + 1, height // 8, breadth // 8)
    mean = torch.randn(shape, generator=random)
    tensors = {"mean": mean * (float("nan") if poisoned else 1.0), "logvar": torch.full(shape, -4.0)}
    for number in range(2):
        tensors[f"text.{number}"] = torch.randn(TOKENS, width, generator=random)
        tensors[f"text.{number}.tokens"] = torch.tensor([5], dtype=torch.int32)
    facts = {"key": key, "clip_id": key.rpartition("-w")[0], "captions": ["a", "b"], "set": SET}
    return key, tensors, facts | {"bucket": [frames, height, breadth]}
