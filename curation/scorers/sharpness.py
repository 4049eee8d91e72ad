"""Sharpness: Laplacian energy of the sharpest tiles, so that a blurred background does not count against a clip."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.sampling import Clock, black_and_white, picture
from curation.video import Column, Frame, Meter, Scorer, Span, Tracks, VideoInfo, within

MIN_SIDE = 16  # px; smaller pictures have no tile to measure


def laplacian_energy(luma: np.ndarray, tiles: int, percentile: float) -> float:
    """RMS Laplacian of the tile at `percentile`, of tiles x tiles over [H, W] luma, in codes."""
    edges = cv2.Laplacian(luma, cv2.CV_16S)
    height, width = edges.shape
    energy = [
        cv2.norm(edges[y0:y1, x0:x1], cv2.NORM_L2) ** 2 / ((y1 - y0) * (x1 - x0))
        for y0, y1 in _steps(height, tiles)
        for x0, x1 in _steps(width, tiles)
    ]
    return float(np.sqrt(np.percentile(energy, percentile)))


def _steps(size: int, parts: int) -> list[tuple[int, int]]:
    marks = [size * part // parts for part in range(parts + 1)]
    return list(pairwise(marks))


class SharpnessMeter:
    """Leaves the tile-percentile Laplacian energy of sampled frames, luma codes per full 8-bit range."""

    def __init__(self, rate: float, tiles: int, percentile: float) -> None:
        self._clock = Clock(rate)
        self._tiles, self._percentile = tiles, percentile
        self._index: list[int] = []
        self._energy: list[float] = []

    def see(self, frame: Frame) -> None:
        if not self._clock.ticks(frame.time):
            return
        luma, _, _ = picture(frame)
        if frame.interlaced or frame.info.interlaced:
            luma = np.ascontiguousarray(luma[::2])  # one field: comb teeth would pass for detail
        if min(luma.shape) < MIN_SIDE:
            return
        black, white = black_and_white(frame.info)
        self._index.append(frame.index)
        self._energy.append(laplacian_energy(luma, self._tiles, self._percentile) * 255 / (white - black))

    def finish(self) -> dict[str, np.ndarray]:
        return {"index": np.array(self._index, np.int32), "energy": np.array(self._energy, np.float32)}


class Sharpness(Scorer):
    kind: Literal["sharpness"] = "sharpness"
    rate: float = Field(1.5, gt=0, description="samples per second")
    tiles: int = Field(8, ge=1, le=16, description="tiles along each side")
    percentile: float = Field(90, ge=0, le=100, description="which tile stands for the frame")

    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "sharpness",
                pa.float32(),
                "RMS Laplacian, 8-bit luma codes",
                "Laplacian energy of the sharpest tenth of the picture, median over the clip; high is sharp (or noisy)",
                "Pech-Pacheco et al. 2000, per tile",
            ),
        )

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        return {self._name: SharpnessMeter(self.rate, self.tiles, self.percentile)}

    @property
    def _name(self) -> str:
        return f"sharpness@{self.rate:g},{self.tiles},{self.percentile:g}"

    def score(self, tracks: Tracks, span: Span) -> dict[str, Any]:
        meter = tracks.meters[self._name]
        energy = meter["energy"][within(meter["index"], span)]
        return {"sharpness": float(np.median(energy)) if len(energy) else None}
