"""Exposure: how bright the picture is, and how much of it is crushed to black or blown out."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.sampling import SAMPLES, Clock, black_and_white, picture
from curation.video import Column, Frame, Meter, Scorer, Span, Tracks, VideoInfo, within


class ExposureMeter:
    """Leaves mean luma (0-1) and clipped share (0-1) of sampled frames, bars left out."""

    def __init__(self, rate: float) -> None:
        self._clock = Clock(rate)
        self._index: list[int] = []
        self._mean: list[float] = []
        self._clipped: list[float] = []

    def see(self, frame: Frame) -> None:
        if not self._clock.ticks(frame.time):
            return
        luma, _, _ = picture(frame)
        step = 4 if min(luma.shape) >= 128 else 1  # every 16th pixel of a large picture says the same
        black, white = black_and_white(frame.info)
        some = np.ascontiguousarray(luma[::step, ::step])
        codes = cv2.calcHist([some], [0], None, [256], [0, 256]).ravel() / some.size
        level = np.clip((np.arange(256) - black) / (white - black), 0, 1)
        self._index.append(frame.index)
        self._mean.append(float(codes @ level))
        self._clipped.append(float(codes[: black + 2].sum() + codes[white - 1 :].sum()))

    def finish(self) -> dict[str, np.ndarray]:
        return {
            "index": np.array(self._index, np.int32),
            "mean": np.array(self._mean, np.float32),
            "clipped": np.array(self._clipped, np.float32),
        }


class Exposure(Scorer):
    kind: Literal["exposure"] = "exposure"
    rate: float = Field(SAMPLES, gt=0, le=30, description="samples per second")

    def columns(self) -> tuple[Column, ...]:
        source = "luma histogram, ITU-R BT.709 range"
        return (
            Column(
                "exposure", pa.float32(), "0-1", "mean luma between black (0) and white (1), mean over clip", source
            ),
            Column(
                "exposure_clipped",
                pa.float32(),
                "share of pixels, 0-1",
                "pixels within one code of black or white (crushed or blown out), mean over the clip",
                source,
            ),
        )

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        return {f"exposure@{self.rate:g}": ExposureMeter(self.rate)}

    def score(self, tracks: Tracks, span: Span) -> dict[str, Any]:
        meter = tracks.meters[f"exposure@{self.rate:g}"]
        here = within(meter["index"], span)
        if here.start == here.stop:
            return {"exposure": None, "exposure_clipped": None}
        return {
            "exposure": float(meter["mean"][here].mean()),
            "exposure_clipped": float(meter["clipped"][here].mean()),
        }
