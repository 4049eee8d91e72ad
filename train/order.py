"""Which samples each step trains on: a pure function of seed, data and step. A run's whole state is a number of steps.

A *round* is as many batches as show every sample at least once; in each round every bucket has the same number of
batches, in an order that is drawn anew. A bucket's samples are an endless stream of permutations, cut into batches:
what does not fill a batch begins the next one, and nothing is left out. A batch is global: ranks take equal parts of
it, so that on any number of ranks a step trains on the same samples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestration.errors import ConfigError


@dataclass(frozen=True)
class Batch:
    """samples: numbers in the data set, of one bucket, the global batch of a step."""

    bucket: str
    samples: tuple[int, ...]

    def of_rank(self, rank: int, size: int) -> tuple[int, ...]:
        """A rank's part. The batch's size is a multiple of the number of ranks."""
        each = len(self.samples) // size
        return self.samples[rank * each : (rank + 1) * each]


class Order:
    """The batches of all steps.

    buckets: numbers of each bucket's samples, as `LatentDataset.buckets`. batch: samples of a global batch, by bucket.
    images: the share of batches that are of one-frame buckets; None: as many as their samples make. manifest: what
    names the data; other data are in another order.

    Raises ConfigError where a bucket cannot give its batches.
    """

    def __init__(
        self,
        buckets: Mapping[str, Sequence[int]],
        batch: Mapping[str, int],
        seed: int,
        manifest: str,
        images: float | None = None,
    ):
        for name, numbers in buckets.items():
            if not len(numbers):
                raise ConfigError(f"bucket {name} has no sample: leave it out of the stage's buckets")
            if not 1 <= batch[name] <= len(numbers):
                raise ConfigError(
                    f"bucket {name} has {len(numbers):,} samples, and a batch takes {batch[name]:,}: the same sample "
                    f"would be in it twice. Lower the batch to {len(numbers):,} at most, or leave the bucket out"
                )
        self._buckets, self._batch = dict(sorted(buckets.items())), dict(batch)
        self._seed = int.from_bytes(hashlib.sha256(f"{seed} {manifest}".encode()).digest()[:8], "big")
        self.batches = _weighed(
            {name: math.ceil(len(numbers) / batch[name]) for name, numbers in self._buckets.items()}, images
        )
        self._names = list(self.batches)
        self._round: tuple[int, np.ndarray, np.ndarray] | None = None
        self._permutations: dict[tuple[str, int], np.ndarray] = {}

    @property
    def steps(self) -> int:
        """Of a round."""
        return sum(self.batches.values())

    def __call__(self, step: int) -> Batch:
        """The global batch of a step, from 0."""
        number, place = divmod(step, self.steps)
        which, before = self._arranged(number)
        name = self._names[which[place]]
        size = self._batch[name]
        start = (number * self.batches[name] + int(before[place])) * size
        return Batch(name, tuple(self._sample(name, start + i) for i in range(size)))

    def _arranged(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a round: which bucket each batch is of, and how many of that bucket came before it."""
        if self._round is None or self._round[0] != number:
            counts = [self.batches[name] for name in self._names]
            all_of_them = np.repeat(np.arange(len(counts)), counts)
            which = np.random.default_rng([self._seed, 0, number]).permutation(all_of_them)
            before = np.zeros(len(which), np.int64)
            for bucket in range(len(counts)):
                before[which == bucket] = np.arange(counts[bucket])
            self._round = number, which, before
        return self._round[1], self._round[2]

    def _sample(self, name: str, place: int) -> int:
        """The sample at a place of a bucket's endless stream."""
        numbers = self._buckets[name]
        turn, at = divmod(place, len(numbers))
        if (name, turn) not in self._permutations:
            if len(self._permutations) > 2 * len(self._names):  # a batch spans two turns at most
                self._permutations.clear()
            bucket = self._names.index(name)
            drawn = np.random.default_rng([self._seed, 1, bucket, turn]).permutation(len(numbers))
            self._permutations[name, turn] = drawn
        return numbers[int(self._permutations[name, turn][at])]


def _weighed(counts: dict[str, int], images: float | None) -> dict[str, int]:
    """Batches of a round by bucket: more of pictures or of videos, until pictures have their share; never fewer."""
    pictures = {name for name in counts if name.startswith("1x")}
    if images is None:
        return counts
    has = sum(counts[name] for name in pictures)
    others = sum(counts.values()) - has
    if images > 0 and not has:
        raise ConfigError("images is above 0, but no bucket is of one frame: add one, or set images to 0")
    if not others or not 0 <= images < 1:
        if others or images != 1:
            raise ConfigError(f"images is {images}; with these buckets it has to be {'below 1' if others else '1'}")
        return counts
    if images == 0:
        return {name: count for name, count in counts.items() if name not in pictures}
    factor = images * others / ((1 - images) * has)
    scale = {True: max(1.0, factor), False: max(1.0, 1 / factor)}
    return {name: math.ceil(count * scale[name in pictures]) for name, count in counts.items()}
