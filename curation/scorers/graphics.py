"""What pictures show that no camera made: straight seams, flat areas, few colours, jumps, noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SIDE = 480  # px, longer side of the pictures that are looked at
BLOCK = 16  # px
SMALLEST = 64  # px; lines are not looked for in pictures with a smaller side
NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # Immerkaer, CVIU 1996
GAP, LEAST = 9, 0.15  # px that a line may be interrupted for; least length of one, share of the picture


@dataclass(frozen=True)
class Graphics:
    """Signals of a clip's pictures. `jump` is None of a single one."""

    seam: float  # 0-1: length of the longest straight step across columns or rows that is there in the pictures
    pair: float  # 0-1: the same of two steps that mirror each other left and right, or top and bottom
    soft_pair: float  # 0-1: `pair`, where what is outside of the two is much softer than what is inside
    corners: float  # meetings of an upright and a level step
    lines: float  # straight steps, in lengths of the picture
    flat: float  # 0-1: share of 8 px blocks within 2 codes
    palette: float  # 0-1: share of pixels with one of the four most common of 32 768 colours
    noise: float | None  # standard deviation in the smoothest blocks, codes
    detail: float | None  # detail of the sharpest tenth beside its detail at half size; a picture blown up has none
    jump: float | None  # 0-1: the most that two neighbouring pictures differ, by colours and by likeness, moved or not


def graphics(pictures: Sequence[np.ndarray]) -> Graphics:
    """Of [H, W, 3] uint8 RGB pictures in order of time, all of one size."""
    shown = [_reduced(rgb) for rgb in pictures]
    lumas = np.stack([cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in shown])
    upright = _steps(lumas)
    level = _steps(lumas.transpose(0, 2, 1)).T  # as they lie in the picture
    columns, rows = upright.mean(0), level.mean(1)
    detail = np.abs(np.stack([cv2.Laplacian(luma, cv2.CV_32F, ksize=1) for luma in lumas])).mean(0)
    across, along = _pair(columns, detail), _pair(rows, detail.T)
    noises = [value for luma in lumas if (value := _noise(luma)) is not None]
    details = [value for rgb in pictures if (value := _detail(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))) is not None]
    return Graphics(
        seam=float(max(_inner(columns).max(initial=0), _inner(rows).max(initial=0))),
        pair=max(across[0], along[0]),
        soft_pair=max(across[1], along[1]),
        corners=float(_corners(upright, level)),
        lines=float(columns.sum() + rows.sum()),
        flat=float(np.mean([_flat(luma) for luma in lumas])),
        palette=float(np.mean([_palette(rgb) for rgb in shown])),
        noise=float(np.median(noises)) if noises else None,
        detail=float(np.median(details)) if details else None,
        jump=max(_jump(*two) for two in itertools.pairwise(shown)) if len(shown) > 1 else None,
    )


def _reduced(rgb: np.ndarray) -> np.ndarray:
    scale = SIDE / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def _steps(lumas: np.ndarray) -> np.ndarray:
    """[H, W - 1] bool: on long upright lines at which luma, [N, H, W] uint8, steps between two columns, in at least
    half of the pictures. A step stands out from the changes 2 and 3 px beside it."""
    _, height, width = lumas.shape
    if min(width, height) < SMALLEST:
        return np.zeros((height, max(0, width - 1)), bool)
    steps = np.abs(np.diff(lumas.astype(np.int16), axis=2))
    padded = np.pad(steps, ((0, 0), (0, 0), (3, 3)), mode="edge")
    beside = sum(padded[:, :, 3 + k : 3 + k + steps.shape[2]] for k in (-3, -2, 2, 3))
    there = (steps > 8 + 0.6 * beside).mean(0) >= 0.5
    closed = cv2.morphologyEx(there.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((GAP, 1), np.uint8))
    length = max(12, round(LEAST * height))
    return cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((length, 1), np.uint8)) > 0


def _inner(lengths: np.ndarray) -> np.ndarray:
    """Without the outermost hundredths, where bars were cut off."""
    rim = math.ceil(len(lengths) / 100) + 1
    return lengths[rim:-rim]


def _pair(lengths: np.ndarray, detail: np.ndarray) -> tuple[float, float]:
    """(pair, soft_pair) of the lengths of upright lines by column; `detail` is [H, W]."""
    size = len(lengths)
    near = cv2.dilate(lengths.reshape(1, -1), np.ones((1, 5)))[0] if size else lengths
    best = soft = 0.0
    by_column = detail.mean(0)
    for x in range(math.ceil(0.02 * size) + 1, int(0.45 * size)):
        both = float(min(near[x], near[size - 1 - x]))
        if both < 0.2:
            continue
        best = max(best, both)
        outside = np.concatenate([by_column[: x - 2], by_column[size + 3 - x :]]).mean()
        ratio = (by_column[x + 3 : size - 2 - x].mean() + 0.1) / (outside + 0.1)
        soft = max(soft, both * min(1.0, max(0.0, math.log(ratio) / math.log(6))))
    return best, soft


def _corners(upright: np.ndarray, level: np.ndarray) -> int:
    height, width = min(upright.shape[0], level.shape[0]), min(upright.shape[1], level.shape[1])
    if not height or not width:
        return 0
    around = np.ones((5, 5), np.uint8)
    meet = [cv2.dilate(lines[:height, :width].astype(np.uint8), around) for lines in (upright, level)]
    return cv2.connectedComponents(cv2.bitwise_and(*meet))[0] - 1


def _flat(luma: np.ndarray) -> float:
    blocks = _blocks(luma, 8)
    return float((np.ptp(blocks, axis=(1, 3)) <= 2).mean()) if blocks.size else 0.0


def _palette(rgb: np.ndarray) -> float:
    bins = (rgb.reshape(-1, 3) >> 3).astype(np.int32) @ np.array([1024, 32, 1])
    return float(np.sort(np.bincount(bins))[-4:].sum() / len(bins))


def _noise(luma: np.ndarray) -> float | None:
    high = np.abs(cv2.filter2D(luma, cv2.CV_32F, NOISE))
    blocks, means = _blocks(high, BLOCK), _blocks(luma, BLOCK).mean((1, 3))
    lit = (means > 16) & (means < 239)
    if not lit.any():
        return None
    return float(np.percentile(blocks.mean((1, 3))[lit], 10) * math.sqrt(math.pi / 2) / 6)


def _detail(luma: np.ndarray) -> float | None:
    """Of the sharpest tenth of blocks; None where even the half size shows nothing."""
    half = cv2.resize(luma, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) if min(luma.shape) > 64 else None
    if half is None:
        return None
    full, halved = (
        float(np.percentile(_blocks(np.abs(cv2.Laplacian(plane, cv2.CV_32F, ksize=1)), size).mean((1, 3)), 90))
        for plane, size in ((luma, BLOCK), (half, BLOCK // 2))
    )
    return full / halved if halved >= 2 else None


def _blocks(plane: np.ndarray, size: int) -> np.ndarray:
    """[rows, size, columns, size], what does not fill a block left out."""
    height, width = plane.shape[0] // size * size, plane.shape[1] // size * size
    return plane[:height, :width].reshape(height // size, size, width // size, size)


def _jump(one: np.ndarray, two: np.ndarray) -> float:
    """The lesser of two differences, each 1 from a half on: of colour histograms, and of small pictures at the shift
    at which they are most alike."""
    small = [cv2.GaussianBlur(cv2.resize(rgb, (64, 36), interpolation=cv2.INTER_AREA), (0, 0), 1) for rgb in (one, two)]
    colours = [cv2.calcHist([rgb], [0, 1, 2], None, [6, 6, 6], [0, 256] * 3).ravel() / (64 * 36) for rgb in small]
    apart = 1 - float(np.minimum(*colours).sum())
    found = cv2.matchTemplate(small[0], np.ascontiguousarray(small[1][7:-7, 12:-12]), cv2.TM_CCOEFF_NORMED)
    unlike = 1 - float(np.nan_to_num(found).clip(-1, 1).max())
    return min(1.0, 2 * apart, 2 * unlike)
