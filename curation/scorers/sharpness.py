"""Sharpness: Laplacian energy of the sharpest tiles, so that a blurred background does not count against a clip."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.sampling import SAMPLES, Clock, black_and_white, picture
from curation.video import Column, Frame, Meter, Scorer, Span, Tracks, VideoInfo, within

MIN_SIDE = 16  # px; smaller pictures have no tile to measure


def laplacian_energy(luma: np.ndarray, tiles: int, percentile: float) -> float:
    """RMS Laplacian of the tile at `percentile`, of [H, W] luma, in codes.

    Every other one of tiles x tiles, as on a chessboard, is looked at: that halves the cost, and what is in focus is
    larger than one tile.
    """
    rows, columns = _steps(luma.shape[0], tiles), _steps(luma.shape[1], tiles)
    energy = []
    for i, (y0, y1) in enumerate(rows):
        for x0, x1 in columns[i % 2 :: 2] or columns:
            edges = cv2.Laplacian(luma[y0:y1, x0:x1], cv2.CV_16S)
            energy.append(cv2.norm(edges, cv2.NORM_L2) ** 2 / edges.size)
    return float(np.sqrt(np.percentile(energy, percentile)))


def _steps(size: int, parts: int) -> list[tuple[int, int]]:
    return list(pairwise(size * part // parts for part in range(parts + 1)))


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
    rate: float = Field(SAMPLES, gt=0, le=30, description="samples per second")
    tiles: int = Field(default=8, ge=1, le=16, description="tiles along each side")
    percentile: float = Field(default=90, ge=0, le=100, description="which tile stands for the frame")

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
