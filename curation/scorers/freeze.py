"""Freeze: how much of a clip's time nothing changes at all."""

from __future__ import annotations

from array import array
from collections import deque
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.video import Column, Frame, Meter, Scorer, Span, Tracks, VideoInfo, halve

BLOCK = 8  # px of the working picture, up to 256 px wide
CERTAIN = 16.0  # codes; a change that no tolerance allows


class FreezeMeter:
    """Leaves, per frame [N]: change from the frame before, change from the one `seconds` ago, and that one's number.

    A change is the largest mean absolute difference of any block, in codes: a moving hand is not averaged away by a
    still room, while codec noise is by the block. The older frame catches drifts too slow to see from frame to frame.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._past: deque[tuple[int, float, np.ndarray]] = deque()
        self._changed = 0
        self._step, self._drift, self._since = array("f"), array("f"), array("i")  # compact: one value a frame

    def see(self, frame: Frame) -> None:
        picture = frame.small
        self._past.append((frame.index, frame.time, picture))
        # Keep the newest frame that is old enough, and all since.
        while len(self._past) > 1 and self._past[1][1] <= frame.time - self._seconds + 1e-6:
            self._past.popleft()
        index, time, oldest = self._past[0]
        step = _change(self._past[-2][2], picture) if len(self._past) > 1 else np.inf
        if step > CERTAIN:
            self._changed = frame.index
        # Most video moves: after a certain change nothing older can be the start of a frozen run.
        comparable = time <= frame.time - self._seconds + 1e-6 and index >= self._changed
        self._step.append(step)
        self._drift.append(_change(oldest, picture) if comparable else np.inf)
        self._since.append(index)

    def finish(self) -> dict[str, np.ndarray]:
        return {
            "step": np.array(self._step, np.float16),
            "drift": np.array(self._drift, np.float16),
            "since": np.array(self._since, np.int32),
        }


def _change(before: np.ndarray, after: np.ndarray) -> float:
    if before.shape != after.shape:
        return float("inf")
    difference = cv2.absdiff(before, after)
    if min(difference.shape) < BLOCK:
        return float(difference.mean())
    # Three exact halvings: a direct resize by 8 costs several times as much.
    return float(halve(halve(halve(difference.astype(np.float32)))).max())


class Freeze(Scorer):
    kind: Literal["freeze"] = "freeze"
    seconds: float = Field(default=0.5, gt=0, description="how long a picture must stay unchanged to count as frozen")
    tolerance: float = Field(
        2.0, ge=0, le=CERTAIN, description="largest change that is still codec noise, 8-bit codes per block"
    )

    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "freeze",
                pa.float32(),
                "share of time, 0-1",
                "time in runs of at least 0.5 s (setting) without change; codec noise is no change",
                "after ffmpeg freezedetect, per block instead of per picture",
                temporal=True,
            ),
        )

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        return {f"freeze@{self.seconds:g}": FreezeMeter(self.seconds)}

    def score(self, tracks: Tracks, span: Span) -> dict[str, Any]:
        meter = tracks.meters[f"freeze@{self.seconds:g}"]
        size = span.end - span.start
        if size < 2:
            return {"freeze": None}
        ends = np.append(tracks.times[span.start + 1 : span.end], tracks.seconds(span)[1])
        shown = np.maximum(ends - tracks.times[span.start : span.end], 0)  # [size] seconds each frame is shown
        since = meter["since"][span.start : span.end].astype(np.int64) - span.start
        moved = np.cumsum(np.append(0, meter["step"][span.start : span.end] > self.tolerance))
        place = np.arange(size)
        still = (since >= 0) & (meter["drift"][span.start : span.end] <= self.tolerance)
        # No step from the old frame to this one changed anything.
        still[still] = moved[place[still] + 1] == moved[since[still] + 1]
        edges = np.zeros(size + 1, np.int64)
        np.add.at(edges, since[still], 1)
        np.add.at(edges, place[still] + 1, -1)
        frozen = (np.cumsum(edges[:-1]) > 0) | (shown >= self.seconds)
        return {"freeze": float(shown[frozen].sum() / shown.sum()) if shown.sum() > 0 else None}
