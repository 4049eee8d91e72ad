"""How alike two nearby frames are, for every pair at once: a banded Gram matrix over a film's thumbnails.

Everything the refiner asks (is this frame a blend of those two? do these two ends look alike? is this step a spike?)
is arithmetic on inner products of frames that lie at most `BAND` apart, so they are computed once, as blocked matrix
products. A film costs 520 bytes a frame here, and thumbnails are only ever touched a chunk at a time.
"""

from __future__ import annotations

import cv2
import numpy as np

BAND = 64
_CHUNK = 1024
# Grid for colours: coarse, so that a moving arm is a small change and another shot is a large one.
GRID = (13, 24)
# Squared grey levels of contrast below which a picture counts as flat (codec noise), so that ratios stay calm.
_NOISE = 4.0


class Likeness:
    """Compares frames `i` and `i + lag`, `0 <= lag <= BAND`; `i` and `lag` are integers or integer arrays.

    Args:
        thumbs: [N, 27, 48, 3] uint8 RGB, may be memory-mapped.
    """

    def __init__(self, thumbs: np.ndarray):
        self.frames = len(thumbs)
        self._colour = np.zeros((self.frames, BAND + 1), np.float32)
        self._detail = np.zeros((self.frames, BAND + 1), np.float32)
        self.spread = np.zeros(self.frames, np.float32)  # [N] standard deviation of luma, grey levels
        tail: tuple[np.ndarray, ...] | None = None
        for start in range(0, self.frames, _CHUNK):
            # Each chunk needs the next BAND frames; their features are handed on, not made twice.
            done = 0 if tail is None else len(tail[0])
            stop = min(start + _CHUNK + BAND, self.frames)
            fresh = features(thumbs[start + done : stop])
            colour, detail, spread = fresh if tail is None else map(np.concatenate, zip(tail, fresh, strict=True))
            rows = min(_CHUNK, self.frames - start)
            self.spread[start : start + rows] = spread[:rows]
            _fill(self._colour[start : start + rows], colour)
            _fill(self._detail[start : start + rows], detail)
            tail = (colour[rows:], detail[rows:], spread[rows:])
        self.contrast = self._detail[:, 0]  # [N] squared grey levels of local detail
        self.steps = np.zeros(self.frames, np.float32)  # [N] grey levels (RMS) from the frame before
        if self.frames > 1:
            self.steps[1:] = np.sqrt(self.change(np.arange(self.frames - 1), 1))

    def change(self, i: np.ndarray | int, lag: np.ndarray | int) -> np.ndarray:
        """Mean squared colour difference on a coarse grid, squared grey levels."""
        i = np.asarray(i)
        return np.maximum(self._colour[i, 0] + self._colour[i + lag, 0] - 2 * self._colour[i, lag], 1e-3)

    def structure(self, i: np.ndarray | int, lag: np.ndarray | int) -> np.ndarray:
        """Correlation of local detail, -1 to 1: blind to gain, offset and large soft gradients."""
        i = np.asarray(i)
        return self._detail[i, lag] / np.sqrt((self.contrast[i] + _NOISE) * (self.contrast[i + lag] + _NOISE))

    def blend(self, i: np.ndarray, middle: int, lag: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Explain frame `i + middle` as `(1 - alpha) * frame[i] + alpha * frame[i + lag]`.

        Returns `alpha` by least squares; the share of the change A-B left unexplained (0: a perfect blend, 0.25: half
        of the pixels have switched, as in a wipe); and the dip, the middle's contrast relative to what its ends have:
        two superposed pictures average their detail away (about 0.5), whereas a moving camera keeps it (about 1).
        """
        whole = self.change(i, lag)
        first = self.change(i, middle)
        alpha = (1 + (first - self.change(i + middle, lag - middle)) / whole) / 2
        residual = np.maximum(first / whole - alpha * alpha, 0)
        share = np.clip(alpha, 0, 1)
        ends = (1 - share) * self.contrast[i] + share * self.contrast[i + lag]
        dip = (self.contrast[i + middle] + _NOISE / 2) / (ends + _NOISE / 2)
        return alpha, residual, dip


def features(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours [N, 13*24*3] and local luma detail [N, 27*48], scaled so that dot products are means; luma spread [N]."""
    count = len(thumbs)
    colour = np.empty((count, *GRID, 3), np.uint8)
    detail = np.empty((count, 27, 48), np.float32)
    spread = np.empty(count, np.float32)
    for k in range(count):
        thumb = np.ascontiguousarray(thumbs[k])
        cv2.resize(thumb[:26], GRID[::-1], dst=colour[k], interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY)
        cv2.subtract(grey, cv2.blur(grey, (9, 9)), dst=detail[k], dtype=cv2.CV_32F)
        spread[k] = cv2.meanStdDev(grey)[1][0, 0]
    flat = colour.reshape(count, -1).astype(np.float32)
    flat -= 128
    flat /= np.sqrt(flat.shape[1])
    detail = detail.reshape(count, -1)
    detail /= np.sqrt(detail.shape[1])
    return flat, detail, spread


def _fill(band: np.ndarray, vectors: np.ndarray) -> None:
    """band[k, lag] = vectors[k] . vectors[k + lag]."""
    block = 64  # larger ones compute more products outside the band
    for start in range(0, len(band), block):
        rows = min(block, len(band) - start)
        products = vectors[start : start + rows] @ vectors[start : start + rows + BAND].T
        for k in range(rows):
            row = products[k, k : k + BAND + 1]
            band[start + k, : len(row)] = row
