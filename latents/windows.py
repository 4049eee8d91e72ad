"""Which frames of a clip make one sample of so many frames a second: arithmetic, nothing is opened."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from curation import read

Row = Mapping[str, Any]  # of the clips table, joined with its video's columns
COLUMNS = ("start_frame", "end_frame", "start_s", "end_s", "fps", "image", "width", "height", "rotation")
COLUMNS += ("pixel_aspect", "crop_x", "crop_y", "crop_w", "crop_h")
LONGEST = 1_000_000  # frames; a clip of 11 hours at 25 a second is a mistake
DOUBTFUL = 2.0  # a clip whose own rate is so many times its video's has frames at who knows what times


class Facts(NamedTuple):
    """What buckets depend on of a clip. height, width: as read_clip shows it, in square pixels."""

    height: float
    width: float
    length: int  # frames
    fps: float | None  # the clip's own; None of a picture


def facts_of(row: Row) -> Facts:
    """The facts in a clip's row (COLUMNS). Raises ValueError with what is wrong with it."""
    try:
        height, width = _size(row)
        if row.get("image"):
            return Facts(height, width, 1, None)
        length = int(row["end_frame"]) - int(row["start_frame"])
        if not 0 < length <= LONGEST:
            raise ValueError(f"frames {row['start_frame']} to {row['end_frame']}")
        return Facts(height, width, length, _rate(row, length))
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        what = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"its row is odd: {what}") from error


def _size(row: Row) -> tuple[float, float]:
    height, width = read.shown_size(row)
    if not (0 < height < math.inf and 0 < width < math.inf):
        raise ValueError(f"its pictures are {width} x {height}")
    if (row.get("rotation") or 0) % 90:
        raise ValueError(f"it is turned by {row.get('rotation')} degrees")
    for start, side, whole in (("crop_x", "crop_w", "width"), ("crop_y", "crop_h", "height")):
        low, size, most = row.get(start), row.get(side), row.get(whole)
        if low is not None and size is not None and most is not None and not 0 <= low <= most - size:
            raise ValueError(f"{start} {low} and {side} {size} lie outside of its {most} pixels")
    return height, width


def _rate(row: Row, length: int) -> float:
    """Frames a second of the clip: its video's, where start and end agree with that, else what start and end say."""
    fps, seconds = (_number(row.get(name)) for name in ("fps", "end_s"))
    seconds -= _number(row.get("start_s"))
    if not 0 < fps < math.inf:
        raise ValueError(f"fps is {row.get('fps')}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"it lasts from start_s {row.get('start_s')} to end_s {row.get('end_s')}")
    own = length / seconds
    if not 1 / DOUBTFUL <= own / fps <= DOUBTFUL:
        raise ValueError(f"its {length} frames last {seconds:g} s, {own:.3g} fps, but its video has {fps:g}")
    return fps if abs(seconds * fps - length) <= 0.5 else own


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


@lru_cache(maxsize=4096)
def steps(source: float, wanted: float, count: int) -> tuple[int, ...] | None:
    """Of a source with `source` frames a second those nearest to `count` times at `wanted` a second, from frame 0.

    Each is at most half a source frame beside its time; of two equally near ones the later. None where a frame would be
    shown twice. Fractions, because frames must not depend on how a float was rounded.
    """
    step = Fraction(source) / Fraction(wanted)
    half = Fraction(1, 2)
    if (count - 1) * (1 - step) > half:
        return None
    return tuple(math.floor(number * step + half) for number in range(count))


def starts(length: int, reach: int, most: int | None, stride: float | None = None) -> list[int]:
    """First frames of windows of `reach` frames in a clip of `length`, ascending, at most `most`; none if it is short.

    Without `stride` they do not overlap, and each is in the middle of an equal share of the clip. With it they begin
    `stride` frames apart, in the middle of the clip; of more than `most` evenly spaced ones are taken.
    """
    if reach > length:
        return []
    if stride is None:
        count = length // reach
        count = count if most is None else min(count, most)
        return [((2 * number + 1) * length - count * reach) // (2 * count) for number in range(count)]
    step = max(Fraction(1), Fraction(stride))  # closer together they would be the same window
    there = 1 + math.floor((length - reach) / step)
    count = there if most is None else min(there, most)
    margin = (length - reach - (there - 1) * step) / 2
    return [math.floor(margin + (2 * number + 1) * there // (2 * count) * step) for number in range(count)]


def covered(begins: Sequence[float], span: float, length: float) -> float:
    """Share of a clip's `length` that windows of `span` show, all in one unit; what several show counts once."""
    shown = span + sum(min(later - begin, span) for begin, later in itertools.pairwise(begins))
    return min(1.0, shown / length)
