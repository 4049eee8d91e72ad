"""Blockiness: steps at the 8 x 8 block grid of a codec against steps elsewhere."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.sampling import SAMPLES, Clock, picture
from curation.video import Column, Frame, Meter, Scorer, Span, Tracks, VideoInfo, within

BLOCK = 8
HIGHEST_STEP = 12  # codes
MIN_SIDE = 64  # px; fewer blocks than 8 along a side leave the grid to chance


def edge_profile(luma: np.ndarray, axis: int, offset: int) -> tuple[np.ndarray, float]:
    """How much luma steps across `axis` of [H, W] stand out at each position modulo 8, and the mean step; codes.

    A step is compared with the steps right before and after it, and counts up to 12 codes: edges of the scene are
    higher than that and straight ones would pass for a grid.
    """
    steps = cv2.absdiff(luma[:, 1:], luma[:, :-1]) if axis == 1 else cv2.absdiff(luma[1:], luma[:-1])
    cv2.threshold(steps, HIGHEST_STEP, 0, cv2.THRESH_TRUNC, dst=steps)
    line = cv2.reduce(steps, 1 - axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() / luma.shape[1 - axis]
    excess = line[1:-1] - (line[:-2] + line[2:]) / 2
    phase = (np.arange(len(excess)) + offset) % BLOCK
    return np.bincount(phase, excess, BLOCK) / np.bincount(phase, minlength=BLOCK), float(line.mean())


class BlockinessMeter:
    """Leaves sampled frames' step profiles [S, 2, 8] (across columns, across rows) and mean steps [S, 2], codes."""

    def __init__(self, rate: float) -> None:
        self._clock = Clock(rate)
        self._index: list[int] = []
        self._profile: list[list[np.ndarray]] = []
        self._mean: list[list[float]] = []

    def see(self, frame: Frame) -> None:
        if not self._clock.ticks(frame.time):
            return
        luma, left, top = picture(frame)
        if min(luma.shape) < MIN_SIDE:
            return
        # Every other line shows the columns' grid as well; between the lines of two fields lies no grid but motion.
        columns, columns_mean = edge_profile(luma[::2], 1, left)
        rows, rows_mean = (columns, columns_mean) if frame.interlaced else edge_profile(luma, 0, top)
        self._index.append(frame.index)
        self._profile.append([columns, rows])
        self._mean.append([columns_mean, rows_mean])

    def finish(self) -> dict[str, np.ndarray]:
        return {
            "index": np.array(self._index, np.int32),
            "profile": np.array(self._profile, np.float32).reshape(-1, 2, BLOCK),
            "mean": np.array(self._mean, np.float32).reshape(-1, 2),
        }


class Blockiness(Scorer):
    kind: Literal["blockiness"] = "blockiness"
    rate: float = Field(SAMPLES, gt=0, le=30, description="samples per second")

    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "blockiness",
                pa.float32(),
                "share of the mean step",
                "how far luma steps on the best-fitting 8 px grid exceed their neighbours; 0 is none",
                "after Wang, Bovik, Evan 2000 (blind measurement of blocking)",
            ),
        )

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        return {f"blockiness@{self.rate:g}": BlockinessMeter(self.rate)}

    def score(self, tracks: Tracks, span: Span) -> dict[str, Any]:
        meter = tracks.meters[f"blockiness@{self.rate:g}"]
        here = within(meter["index"], span)
        if here.start == here.stop:
            return {"blockiness": None}
        profile = np.median(meter["profile"][here], axis=0)  # [2, 8]; the grid keeps its phase, content moves
        stands_out = profile.max(axis=1) - np.median(profile, axis=1)
        # Half a code keeps rounding in flat pictures from passing for blocks.
        return {"blockiness": float(np.mean(stands_out / (meter["mean"][here].mean(axis=0) + 0.5)))}
