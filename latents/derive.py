"""Buckets found from the clips, and how well clips fit into buckets. Arithmetic, no pictures."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from latents.buckets import ROUNDING, Bucket, BucketsConfig, Window
from latents.windows import Facts, Row, covered, facts_of, starts, steps
from orchestration.errors import RushesError

NEAR = 0.85  # shapes have at least so much of the largest area that is possible
SAVED = 0.001  # of all pixels: what a further shape has to save
DECIDING = 4096  # different sizes of clips, the most frequent ones, that shapes are chosen by


def derive(rows: Iterable[Row], config: BucketsConfig) -> tuple[Bucket, ...]:
    """The buckets for these clips, sorted: those of `config.table`, or found from the rows in one pass.

    `rows`: of the clips table, joined with their videos' (windows.COLUMNS), in any order; the result does not depend on
    it. What is kept of them is a count for each size. An area gets the `shapes` that cut least off the clips that are
    large enough for it and not for a larger one, and fewer where more would save nothing; each shape comes in all of
    `frames`. Clips that are too short for all of them do not count. Raises RushesError where no clip fills any area.
    """
    if config.buckets is not None:
        return config.buckets
    left: Counter[tuple[float, float]] = Counter()
    seen = 0
    for row in rows:
        seen += 1
        try:
            facts = facts_of(row)
        except ValueError:
            continue
        if _lasts(facts, config):
            left[facts.height, facts.width] += 1
    largest = max((height * width for height, width in left), default=0.0)
    shapes: set[tuple[int, int]] = set()
    for area in sorted(config.areas, reverse=True):
        candidates = _candidates(area, config.multiple)
        sizes = sorted(left, key=lambda size: (-left[size], size))
        sizes = [size for size in sizes if _fills(size, candidates, config)]
        if sizes:
            decisive = sizes[:DECIDING]
            shapes |= set(_choose(decisive, [left[size] for size in decisive], candidates, config))
        for size in sizes:
            del left[size]
    if not shapes:
        smallest = min(config.areas)
        raise RushesError(
            f"no buckets: of {seen:,} clips none is long enough for {min(config.frames)} frames and large enough for "
            f"{smallest:,} pixels (the largest has {largest:,.0f}); set buckets.areas, buckets.frames, buckets.fps or "
            "buckets.max_upscale"
        )
    return tuple(sorted(Bucket(count, *shape) for count in set(config.frames) for shape in shapes))


def _lasts(facts: Facts, config: BucketsConfig) -> bool:
    """Is it long enough for any number of frames, at any rate?"""
    if facts.fps is None or (config.stills_from_video and 1 in config.frames):
        return 1 in config.frames
    patterns = (
        steps(facts.fps, fps, count) for fps in config.fps or (facts.fps,) for count in config.frames if count > 1
    )
    return any(pattern and starts(facts.length, pattern[-1] + 1, 1) for pattern in patterns)


def _candidates(area: int, multiple: int) -> np.ndarray:
    """[C, 2] (height, width), sorted: multiples whose product is `area` at most, and not far below it."""
    most = area // multiple**2
    products = [(tall, wide) for tall in range(1, most + 1) for wide in _range(most, tall)]
    best = max(tall * wide for tall, wide in products)
    return multiple * np.array([(tall, wide) for tall, wide in products if tall * wide >= NEAR * best])


def _range(most: int, tall: int) -> range:
    """Widths in multiples; shapes are no narrower than 1 to 8."""
    low, high = max(1, math.ceil(NEAR * NEAR * most / tall), math.ceil(tall / 8)), min(most // tall, tall * 8)
    return range(low, high + 1)


def _fit(sizes: np.ndarray, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scale, share of the picture kept), each [S, C], of sizes [S, 2] that cover shapes [C, 2]."""
    ratio = shapes[None] / sizes[:, None]
    return ratio.max(-1), ratio.min(-1) / ratio.max(-1)


def _fills(size: tuple[float, float], shapes: np.ndarray, config: BucketsConfig) -> bool:
    scale, _ = _fit(np.array([size]), shapes)
    return bool(scale.min() <= config.max_upscale * (1 + ROUNDING))


def _choose(
    sizes: Sequence[tuple[float, float]], counts: Sequence[int], shapes: np.ndarray, config: BucketsConfig
) -> list[tuple[int, int]]:
    """Of `shapes` those that waste least: added one by one, then each exchanged for any other while that is better."""
    scale, kept = _fit(np.array(sizes), shapes)
    cost = 1 - kept + np.maximum(0, 1 - 1 / np.maximum(scale, 1) ** 2)
    cost -= config.prefer_larger * np.log2(shapes.prod(-1) / shapes.prod(-1).max())
    cost[scale > config.max_upscale * (1 + ROUNDING)] = 2.0
    weights = np.array(counts) / sum(counts)
    chosen: list[int] = []
    least = np.full(len(cost), 2.0)
    while len(chosen) < min(config.shapes, len(shapes)):
        further, total = _exchange(cost, weights, least)
        if chosen and weights @ least - total < SAVED:
            break
        chosen.append(further)
        chosen = _improve(cost, weights, chosen)
        least = cost[:, chosen].min(1)
    return sorted((int(tall), int(wide)) for tall, wide in shapes[chosen])


def _exchange(cost: np.ndarray, weights: np.ndarray, least: np.ndarray) -> tuple[int, float]:
    """(the shape that helps most where each size has cost `least` already, mean cost then)."""
    # Rounded, so that the last bits of a sum do not decide between equals.
    totals = np.round(weights @ np.minimum(cost, least[:, None]), 9)
    return int(totals.argmin()), float(totals.min())


def _improve(cost: np.ndarray, weights: np.ndarray, chosen: list[int]) -> list[int]:
    best = float(np.round(weights @ cost[:, chosen].min(1), 9))
    place = 0
    while place < len(chosen) and len(chosen) > 1:
        others = chosen[:place] + chosen[place + 1 :]
        instead, total = _exchange(cost, weights, cost[:, others].min(1))
        if total < best:
            chosen, best, place = [*others, instead], total, 0
        else:
            place += 1
    return chosen


@dataclasses.dataclass
class _Line:
    clips: int = 0
    windows: int = 0
    frames: int = 0
    enlarged: int = 0
    seconds: float = 0.0  # of samples
    time: float = 0.0  # of the clips
    shown: float = 0.0  # of the clips' time what samples show
    kept: float = 0.0
    waste: float = 0.0

    def to_dict(self, name: str) -> dict[str, Any]:
        clips = max(1, self.clips)
        return {
            "bucket": name,
            "clips": self.clips,
            "windows": self.windows,
            "frames": self.frames,
            "seconds": self.seconds,
            "cut_off": 100 * (1 - self.kept / clips),
            "left_out": 100 * (1 - self.shown / self.time) if self.time else 0.0,
            "waste": 100 * self.waste / clips,
            "enlarged": self.enlarged,
        }


class Tally:
    """Counts what `assign` said, clip by clip; every clip is in a bucket or has a reason."""

    def __init__(self, buckets: Iterable[Bucket]):
        self.lines = {bucket: _Line() for bucket in sorted(buckets)}
        self.total = _Line()
        self.reasons: Counter[str] = Counter()

    def add(self, row: Row, outcome: list[Window] | str) -> None:
        """`outcome`: what assign(row, …) returned."""
        if isinstance(outcome, str):
            self.reasons[outcome.partition(":")[0]] += 1
            return
        facts = facts_of(row)
        first = outcome[0]
        time = facts.length / facts.fps if facts.fps else 0.0
        length = len(first.frames) / first.fps if first.fps else 1 / facts.fps if facts.fps else 0.0
        for line in (self.lines[first.bucket], self.total):
            line.clips += 1
            line.windows += len(outcome)
            line.frames += len(outcome) * len(first.frames)
            line.enlarged += first.scale > 1 + ROUNDING
            line.seconds += len(outcome) * length
            line.time += time
            line.shown += time and time * covered([w.seconds for w in outcome], length, time)
            line.kept += first.kept
            line.waste += first.waste

    def to_dict(self) -> dict[str, Any]:
        """Plain data.

        "buckets": a dict each, empty ones included, "total": the same of all. seconds: of samples; cut_off: per cent of
        the picture (mean of clips), left_out: per cent of the clips' time, waste: per cent (mean of clips), enlarged:
        clips. "left": {reason: clips without a sample}, most frequent first; "clips": how many were counted.
        """
        return {
            "buckets": [line.to_dict(bucket.name) for bucket, line in self.lines.items()],
            "total": self.total.to_dict("total"),
            "left": dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))),
            "clips": self.total.clips + self.reasons.total(),
        }
