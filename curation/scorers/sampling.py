"""Which frames a meter looks at, and where the picture is inside black bars."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from curation.video import Frame, VideoInfo

SAMPLES = 1.2  # a second, of the scorers that look at every pixel: at least one in every clip of a second
LIT_EDGE = 0.4  # share of a bar's neighbouring line that must be lit: text on black is not a picture beside a bar


class Clock:
    """Picks the first frame of every 1/rate second slot of the video, so picks do not depend on clips.

    Frames between two picks last less than 1/rate, so every span at least that long holds a pick.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._slot = -1

    def ticks(self, time: float) -> bool:
        slot = int(time * self.rate + 1e-6)  # container times are rounded: a frame at 0.9999999 s belongs to second 1
        if slot <= self._slot:
            return False
        self._slot = slot
        return True


class Bars(NamedTuple):
    """Black lines at each side of a picture, px, and how much of the next line is lit (0-1)."""

    top: int
    bottom: int
    left: int
    right: int
    top_lit: float
    bottom_lit: float
    left_lit: float
    right_lit: float

    def sides(self) -> tuple[int, int, int, int]:
        """Bars with a lit edge; 0 where darkness is more likely than a bar."""
        sizes, lit = self[:4], self[4:]
        top, bottom, left, right = (size if share >= LIT_EDGE else 0 for size, share in zip(sizes, lit, strict=True))
        return top, bottom, left, right


def black_and_white(info: VideoInfo) -> tuple[int, int]:
    """Luma codes of black and white."""
    return (0, 255) if info.full_range else (16, 235)


def find_bars(luma: np.ndarray, info: VideoInfo) -> Bars:
    """Measure black bars of [H, W] luma. A line is black when 99 % of it is within 16 codes of black."""
    black, _ = black_and_white(info)
    lit = cv2.threshold(luma, black + 16, 1, cv2.THRESH_BINARY)[1]
    height, width = luma.shape
    rows = cv2.reduce(lit, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() / width
    top, bottom, top_lit, bottom_lit = _ends(rows)
    # Columns are judged between the horizontal bars: under letterbox even full columns are lit only in part.
    inside = lit[top : height - bottom] if top + bottom < height else lit
    columns = cv2.reduce(inside, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() / len(inside)
    left, right, left_lit, right_lit = _ends(columns)
    shown = 1 - (left + right) / width
    if 0 < shown < 1:
        top_lit, bottom_lit = top_lit / shown, bottom_lit / shown
    return Bars(top, bottom, left, right, top_lit, bottom_lit, left_lit, right_lit)


def _ends(share: np.ndarray) -> tuple[int, int, float, float]:
    lines = np.flatnonzero(share > 0.01)
    if len(lines) == 0:
        return 0, 0, 0.0, 0.0
    first, last = int(lines[0]), int(lines[-1])
    # A bar's edge may fall inside a line and codecs blur it: look up to three lines in.
    return (
        first,
        len(share) - 1 - last,
        float(share[first : first + 4].max()),
        float(share[max(0, last - 3) : last + 1].max()),
    )


def frame_bars(frame: Frame) -> Bars:
    """Black bars of a frame, measured once for all meters."""
    if "bars" not in frame.shared:
        frame.shared["bars"] = find_bars(frame.luma, frame.info)
    return frame.shared["bars"]


def picture(frame: Frame) -> tuple[np.ndarray, int, int]:
    """The frame's luma without its black bars, and the coded x and y of its first pixel."""
    luma = frame.luma
    height, width = luma.shape
    top, bottom, left, right = frame_bars(frame).sides()
    return luma[top : height - bottom, left : width - right], left, top
