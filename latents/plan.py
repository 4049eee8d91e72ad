"""Which samples a set is to hold, in which shards: decided before any picture is read, so that no kill changes it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from captioning.publish import TABLE
from latents.buckets import Bucket, BucketsConfig, assign
from latents.config import LatentsConfig
from latents.windows import Row
from orchestration.errors import ConfigError
from orchestration.storage import Storage
from orchestration.tables import snapshot


@dataclass(frozen=True)
class Caption:
    """What a clip trains with."""

    fingerprint: str
    texts: tuple[str, ...]  # the first is the caption, the others further ones


@dataclass
class Plan:
    """Samples by bucket, each {"key", "clip": row, "window": {...}, "texts": [...]}, and clips that give none."""

    samples: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (clip_id, reason)

    @property
    def total(self) -> int:
        return sum(map(len, self.samples.values()))


def captions(storage: Storage, wanted: set[str], config: LatentsConfig) -> dict[str, Caption]:
    """The captions that train, by clip. Raises ConfigError where there are none."""
    found: dict[str, Caption] = {}
    for table in snapshot(storage, TABLE, ["clip_id", "fingerprint", "train", "dense", "short", "others"]):
        for row in table.to_pylist():
            if row["train"] and row["clip_id"] in wanted:
                texts = [text for name in config.captions for text in _texts(row[name]) if text]
                found[row["clip_id"]] = Caption(row["fingerprint"], tuple(dict.fromkeys(texts)))
    if not found:
        raise ConfigError(f"dataset: {storage.uri} has no kept clip with a caption to train with; run `rushes caption`")
    return found


def _texts(value: Any) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value or ()


def plan(rows: Iterable[Row], texts: Mapping[str, Caption], buckets: Sequence[Bucket], config: BucketsConfig) -> Plan:
    """Lay clips into buckets. Sorted by key: the order in which clips come makes no difference."""
    made = Plan()
    for row in rows:
        clip_id = str(row["clip_id"])
        caption = texts.get(clip_id)
        if caption is None or not caption.texts:
            made.skipped.append((clip_id, "no caption to train with"))
            continue
        windows = assign(row, buckets, config)
        if isinstance(windows, str):
            made.skipped.append((clip_id, windows))
            continue
        for window in windows:
            sample = {
                "key": window.key(clip_id),
                "clip": dict(row),
                "frames": list(window.frames),
                "seconds": window.seconds,
                "fps": window.fps,
                "kept": window.kept,
                "texts": list(caption.texts),
                "caption": caption.fingerprint,
            }
            made.samples[window.bucket.name].append(sample)
    for samples in made.samples.values():
        samples.sort(key=lambda sample: sample["key"])
    made.skipped.sort()
    return made


def shards(
    samples: Sequence[dict[str, Any]], size: int, taken: set[int]
) -> Iterator[tuple[int, Sequence[dict[str, Any]]]]:
    """(number, samples) of shards of `size` samples; numbers are the lowest that are not `taken`.

    A run that was killed left whole shards of these very samples, so what is left falls into the same shards, with the
    same numbers.
    """
    free = (number for number in range(len(samples) + len(taken) + 1) if number not in taken)
    for start in range(0, len(samples), size):
        yield next(free), samples[start : start + size]


def shard_key(fingerprint: str, bucket: str, number: int, keys: Iterable[str]) -> str:
    """Names a shard's row; the same samples in the same place have the same name."""
    names = "\0".join([fingerprint, bucket, str(number), *keys])
    return hashlib.sha256(names.encode()).hexdigest()[:24]


def missing(plan: Plan, done: Callable[[str, str], bool]) -> Plan:
    """The plan without the samples of which `done(bucket, key)` holds."""
    left = Plan(skipped=plan.skipped)
    for bucket, samples in plan.samples.items():
        kept = [sample for sample in samples if not done(bucket, sample["key"])]
        if kept:
            left.samples[bucket] = kept
    return left
