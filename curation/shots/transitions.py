"""Finds transitions in thumbnails by physics: steps, blends of two pictures, and pictures replaced piece by piece.

A transition is a Span of the frames that mix two shots; a hard cut is an empty Span at the new shot's first frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from curation.shots.likeness import BAND, GRID, Likeness, features
from curation.video import Span

# Window lengths: the last frame of one shot to the first of the next. 2 and 3 are one- and two-frame blends.
_LENGTHS = (2, 3, 4, 6, 8, 10, 12, 14, 17, 20, 24, 28, 32, 36, 42, 48, 56, 64)
_WIPES = (8, 12, 16, 24, 32, 48)
_EASED = 0.9  # share of a straight ramp's error under which an eased one is believed
_SWING = 1.5  # thumbnail pixels a frame: three quarters of the picture's width a second
_FLAT = 6.0  # luma spread, in grey levels, under which a picture is blank (black, white, a plain card)


@dataclass(frozen=True)
class _Window:
    """Frames `first` (pure old shot) to `last` (pure new shot)."""

    score: float
    first: int
    last: int


def is_step(like: Likeness, cuts: np.ndarray, own: bool) -> np.ndarray:
    """Which frames of `cuts` start a new shot, seen against their neighbours: a cut is a spike, a whip pan a plateau.

    `own` asks for more evidence, for cuts that no detector has reported. `cuts` [K] int, none of them 0.
    """
    if not len(cuts):
        return np.zeros(0, bool)
    padded = np.pad(like.steps, 3)
    before = np.max([padded[cuts + 3 - k] for k in (1, 2, 3)], 0)
    after = np.max([padded[cuts + 3 + k] for k in (1, 2, 3)], 0)
    calm, busy = np.minimum(before, after), np.maximum(before, after)
    height, over_calm, over_busy, unlike = (8.0, 3.0, 2.0, 0.4) if own else (4.0, 1.8, 1.0, 0.3)
    step = like.steps[cuts]
    spike = (step > height) & (step > over_calm * np.maximum(calm, 1.0)) & (step > over_busy * busy)
    return spike & (like.structure(cuts - 1, 1) < 1 - unlike)


def find_cuts(like: Likeness) -> list[Span]:
    """Hard cuts."""
    candidates = np.flatnonzero(like.steps > 8)
    return [Span(int(c), int(c)) for c in candidates[is_step(like, candidates, own=True)]]


def find_blends(like: Likeness, thumbs: np.ndarray) -> list[Span]:
    """Dissolves, fades and blends of one or two frames: the middle is a mix of the ends and has lost contrast."""
    windows = []
    for length in _LENGTHS:
        starts, alphas, residual, dip = _ramps(like, length)
        score = (1 - dip) * (1 - residual / 0.4)
        good = (score > 0.2) & (residual < 0.25) & (dip < 0.8) & np.all((alphas > 0.06) & (alphas < 0.94), 0)
        if length > 4:  # a blend moves in even steps; whatever jumps is a cut, a flash or a whip
            jump = np.max([like.steps[starts + k] for k in range(1, length + 1)], 0)
            good &= (np.abs(alphas[len(alphas) // 2] - 0.5) < 0.3) & (jump**2 < 0.15 * like.change(starts, length))
        else:
            good &= (residual < 0.1) & _stands_out(like, starts, length)
        windows += [_Window(float(s), int(i), int(i) + length) for s, i in zip(score[good], starts[good], strict=True)]
    found = [w for w in _best(windows, thumbs) if w.last - w.first <= 4 or not _swings(thumbs, w.first, w.last)]
    return [_blend_bounds(thumbs, like.spread, window) for window in found]


def find_wipes(like: Likeness, thumbs: np.ndarray) -> list[Span]:
    """Wipes: no picture is mixed, but place after place switches from one shot to the other and stays there."""
    windows = []
    for length in _WIPES:
        starts, alphas, residual, _ = _ramps(like, length, unlike=0.35, change=300)
        whole = like.change(starts, length)
        # The ends hold still, compared with the window: the same walk over a pan goes on outside it.
        half = max(8, length // 2)
        before = like.change(np.maximum(starts - half, 0), np.minimum(starts, half))
        rest = np.minimum(like.frames - 1 - length - starts, half)
        restless = (before + like.change(starts + length, rest)) / whole
        jump = np.max([like.steps[starts + k] for k in range(1, length + 1)], 0) if len(starts) else whole
        good = (residual > 0.08) & (residual < 0.4) & np.all(np.diff(alphas, axis=0) > 0.12, 0)
        good &= (alphas[0] > 0.02) & (alphas[-1] < 0.98)
        good &= (restless < 0.6) & (jump < 0.55 * np.sqrt(whole))
        for i, unrest in zip(starts[good], restless[good], strict=True):
            error = _switch_error(thumbs, int(i), length) + 0.1 * float(unrest)
            if error < 0.09:
                windows.append(_Window(-error, int(i), int(i) + length))
    found = [w for w in _best(windows, thumbs) if not _swings(thumbs, w.first, w.last)]
    return [_wipe_bounds(thumbs, window) for window in found]


def find_fades(like: Likeness) -> list[Span]:
    """Fades to and from black, white or a plain colour: luma's spread falls steadily to a valley, or rises from one.

    Also those that a cut interrupts before the picture is quite blank.
    """
    spread = like.spread
    gaps = []
    # One valley a stretch: the first of equal lowest frames.
    lowest = np.flatnonzero((spread[1:-1] <= spread[:-2]) | (spread[1:-1] <= spread[2:])) + 1
    for valley in (0, *map(int, lowest), like.frames - 1):
        left, right = _climb(like, valley, -1), _climb(like, valley, 1)
        if left < valley or right > valley:
            gaps.append(Span(left + 1 if left < valley else valley, right if right > valley else valley + 1))
    return gaps


def _climb(like: Likeness, valley: int, way: int) -> int:
    """Where a steady ramp of luma spread up from `valley` reaches its plateau; the valley itself if that is no fade."""
    spread = like.spread
    k = valley
    while 0 <= k + 2 * way < len(spread) and abs(k - valley) < BAND - 2:
        # Two frames together, since compression wobbles; 1.2 % of a full picture a frame is a fade of three seconds.
        if spread[k + 2 * way] < spread[k] + max(0.5, 0.024 * spread[k]):
            break
        k += way
    top = k + way
    length = abs(top - valley)
    if length < 6 or spread[top] < 2.5 * spread[valley] or spread[top] < 2 * _FLAT:
        return valley
    first = min(valley, top)
    residual = like.blend(np.array([first]), length // 2, length)[1][0]
    jump = like.steps[first + 1 : first + length + 1].max()
    return top if residual < 0.12 and jump**2 < 0.25 * like.change(first, length) else valley


def is_blank(like: Likeness, frame: int) -> bool:
    return bool(like.spread[frame] < _FLAT)


def _ramps(
    like: Likeness, length: int, unlike: float = 0.5, change: float = 60
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Windows of `length` with unlike ends, along which alpha climbs: starts [K], alphas [Q, K], residual, dip [K]."""
    starts = np.arange(max(0, like.frames - length))
    starts = starts[(like.change(starts, length) > change) & (like.structure(starts, length) < unlike)]
    points = sorted({max(1, min(length - 1, round(length * q))) for q in (0.25, 0.5, 0.75)})
    fits = [like.blend(starts, point, length) for point in points]
    alphas = np.array([fit[0] for fit in fits])
    climbs = np.all(np.diff(alphas, axis=0) > 0.04, 0)
    residual = np.mean([fit[1] for fit in fits], 0)
    dip = fits[len(fits) // 2][2]
    return starts[climbs], alphas[:, climbs], residual[climbs], dip[climbs]


def _stands_out(like: Likeness, starts: np.ndarray, length: int) -> np.ndarray:
    """Whether the change over a short window exceeds the motion just outside it, as a cut's does."""
    whole = np.sqrt(like.change(starts, length))
    padded = np.pad(like.steps, 2)
    before = np.maximum(padded[starts + 2], padded[starts + 1])
    after = np.maximum(padded[starts + length + 3], padded[starts + length + 4])
    return (whole > 4 * np.maximum(np.minimum(before, after), 1)) & (whole > 2 * np.maximum(before, after))


def _best(windows: list[_Window], thumbs: np.ndarray) -> list[_Window]:
    """The best-scoring windows that do not overlap and whose ends differ nearly everywhere, in order.

    A title that appears or somebody who turns around changes a part of the picture, another shot changes all of it.
    """
    chosen: list[_Window] = []
    for window in sorted(windows, key=lambda w: -w.score):
        if all(window.last <= other.first or window.first >= other.last for other in chosen):
            whole = _cells(thumbs, window.first, window.last, [])[2]
            if np.mean(whole > min(8.0**2, whole.mean() / 4)) > 0.65:
                chosen.append(window)
    return sorted(chosen, key=lambda w: w.first)


def _swings(thumbs: np.ndarray, first: int, last: int) -> bool:
    """Whether the whole picture travels from frame to frame, as when a camera swings from one view to another.

    By phase correlation (Kuglin & Hines 1975); in a wipe or a dissolve both pictures stay where they are, or nearly.
    """
    greys = [cv2.cvtColor(np.ascontiguousarray(t), cv2.COLOR_RGB2GRAY) for t in thumbs[first : last + 1]]
    greys = [grey[:26].astype(np.float32) for grey in greys]  # odd sizes are padded, which looks like half a pixel
    window = cv2.createHanningWindow(greys[0].shape[::-1], cv2.CV_32F)
    steps = np.array([cv2.phaseCorrelate(a, b, window)[0] for a, b in pairwise(greys)])
    return bool(np.median(np.abs(steps), 0).max() > _SWING)


def _blend_bounds(thumbs: np.ndarray, spread: np.ndarray, window: _Window) -> Span:
    """Fit an alpha ramp, straight or eased at its ends as editors make it, to the frames around a window; returns the
    frames strictly between pure and pure, with a margin."""
    first, last = window.first, window.last
    if last - first <= 4:
        return Span(first + 1, last)
    reach = (last - first) // 3 + 2
    lowest, highest = max(0, first - reach), min(len(thumbs) - 1, last + reach)
    for _ in range(2):
        # Beyond a blank frame the next shot begins: a fade's ramp must not be fitted to it.
        low = max(0, first - 1) if spread[first] < _FLAT else lowest
        high = min(len(thumbs) - 1, last + 1) if spread[last] < _FLAT else highest
        alpha = _alphas(thumbs, low, high, max(low, first - 2), min(high, last + 2))
        at = np.arange(low, high + 1)
        starts = np.arange(low, (first + last) // 2)
        ends = np.arange((first + last) // 2 + 1, high + 1)
        ramp = np.clip((at - starts[:, None, None]) / (ends[:, None] - starts[:, None, None]), 0, 1)
        straight, eased = (((shape - alpha) ** 2).sum(-1) for shape in (ramp, ramp * ramp * (3 - 2 * ramp)))
        errors = eased if eased.min() < _EASED * straight.min() else straight
        s, e = np.unravel_index(np.argmin(errors), errors.shape)
        first, last = int(starts[s]), int(ends[e])
    margin = 2 + (last - first) // 8
    return Span(max(0, first + 1 - margin), min(len(thumbs), last + margin))


def _alphas(thumbs: np.ndarray, low: int, high: int, first: int, last: int) -> np.ndarray:
    """How far frames low..high have gone from frame `first` to frame `last`, by projection."""
    colour = features(thumbs[low : high + 1])[0]
    old, new = colour[first - low], colour[last - low]
    way = new - old
    return np.clip((colour - old) @ way / max(float(way @ way), 1e-6), -0.2, 1.2)


def _cells(thumbs: np.ndarray, first: int, last: int, frames: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean squared distance of each grid cell of `frames` to the old and the new picture [K, cells], and between those.

    Squared grey levels.
    """
    cells = GRID[0] * GRID[1]
    picked = features(np.stack([thumbs[k] for k in (first, last, *frames)]))[0].reshape(-1, cells, 3) * np.sqrt(cells)
    old, new, mixed = picked[0], picked[1], picked[2:]
    return ((mixed - old) ** 2).sum(-1), ((mixed - new) ** 2).sum(-1), ((new - old) ** 2).sum(-1)


def _switch_error(thumbs: np.ndarray, first: int, length: int) -> float:
    """Share of the change that is neither old nor new picture in mid-window, or that switches back. 0: a clean wipe."""
    points = [first + max(1, round(length * q)) for q in (0.25, 0.5, 0.75)]
    to_old, to_new, whole = _cells(thumbs, first, first + length, points)
    total = max(float(whole.sum()), 1e-6)
    neither = float(np.minimum(to_old, to_new).sum()) / (3 * total)
    switched = to_new < to_old
    back = sum(float(whole[switched[k] & ~switched[k + 1]].sum()) for k in (0, 1)) / total
    return neither + back


def _wipe_bounds(thumbs: np.ndarray, window: _Window) -> Span:
    """Walk outwards while any clearly changed place still shows the other shot."""
    reach = window.last - window.first

    def mixed(low: int, high: int, old_side: bool) -> list[int]:
        frames = list(range(max(0, low), min(len(thumbs), high)))
        to_old, to_new, whole = _cells(thumbs, window.first, window.last, frames)
        clear = whole > 0.25 * whole.mean()
        foreign = (to_new < 0.4 * to_old) if old_side else (to_old < 0.4 * to_new)
        return [k for k, share in zip(frames, foreign[:, clear].mean(1), strict=True) if share > 0.012]

    middle = (window.first + window.last) // 2
    old = mixed(window.first - reach // 2, middle, old_side=True)
    new = mixed(middle, window.last + reach // 2, old_side=False)
    start, end = _run_from(middle, old, -1), _run_from(middle, new, 1)
    margin = 3 + reach // 8
    return Span(max(0, start - margin), min(len(thumbs), end + 1 + margin))


def _run_from(frame: int, marked: list[int], direction: int) -> int:
    """The last frame reached from `frame` over marked ones, allowing holes of one."""
    known = set(marked)
    while frame + direction in known or frame + 2 * direction in known:
        frame += direction
    return frame
