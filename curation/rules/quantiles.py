"""Exact quantiles of more values than fit in memory."""

from __future__ import annotations

from typing import IO

import numpy as np

_CHUNK = 1 << 20  # values read back at a time


class Spill:
    """Values on their way to a quantile, in a temporary file, 8 bytes each: an exact quantile needs them all."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.count = 0

    def add(self, values: np.ndarray) -> None:
        """values: [n] float64 without NaN."""
        self._file.write(_ordered(values).tobytes())
        self.count += len(values)

    def nth(self, rank: int) -> float:
        """The value at `rank` (0 <= rank < count) in ascending order: found 16 bits at a time, from the top."""
        self._file.flush()
        prefix = 0
        for shift in (48, 32, 16, 0):
            histogram = np.zeros(1 << 16, np.int64)
            self._file.seek(0)
            while len(keys := np.fromfile(self._file, np.uint64, _CHUNK)):
                if shift < 48:
                    keys = keys[keys >> np.uint64(shift + 16) == prefix]
                digits = (keys >> np.uint64(shift)).astype(np.int64) & 0xFFFF
                histogram += np.bincount(digits, minlength=1 << 16)
            below = np.cumsum(histogram)
            digit = int(np.searchsorted(below, rank, side="right"))
            rank -= int(below[digit] - histogram[digit])
            prefix = prefix << 16 | digit
        bits = prefix ^ (1 << 63 if prefix >> 63 else (1 << 64) - 1)
        return float(np.array(bits, np.uint64).view(np.float64))


def _ordered(values: np.ndarray) -> np.ndarray:
    """[n] float64 -> [n] uint64 in the same order: IEEE 754 bits, all flipped for negative values, else the sign."""
    bits = (values + 0.0).view(np.uint64)  # -0.0 becomes 0.0, its equal
    return bits ^ np.where(bits >> np.uint64(63), np.uint64((1 << 64) - 1), np.uint64(1 << 63))
