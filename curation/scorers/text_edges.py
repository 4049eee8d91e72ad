"""Edges of one crop, sought in another: whether two pictures show the same thing in a place."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

TEXTURE = 6.0  # codes per px; a weaker edge in a scene is noise
FEW_EDGES = 24  # px; fewer say nothing


class Edges(NamedTuple):
    """Pixels of a crop where its gradient is strong."""

    rows: np.ndarray  # [N]
    columns: np.ndarray
    x: np.ndarray  # [N] gradient, codes per px
    y: np.ndarray
    square: np.ndarray  # its squared length


def edges_of(slopes: tuple[np.ndarray, np.ndarray], where: np.ndarray, least: float | None = None) -> Edges | None:
    """Edges at least as strong as `least` (default: 0.4 of the strong ones); None where there are next to none."""
    gx, gy = slopes
    square = gx * gx + gy * gy
    if least is None:
        inside = square[where]
        if not inside.size:
            return None
        least = max(3.0, 0.4 * float(np.sqrt(np.percentile(inside, 95))))
    rows, columns = np.nonzero(where & (square > least * least))
    if len(rows) < FEW_EDGES:
        return None
    return Edges(rows, columns, gx[rows, columns], gy[rows, columns], square[rows, columns])


def agreement(
    edges: Edges | None, slopes: tuple[np.ndarray, np.ndarray], down: int = 0, across: int = 0
) -> float | None:
    """Share, 0-1, of the edges that another crop has, too, so many px lower and further right."""
    if edges is None:
        return None
    at = edges.rows + down, edges.columns + across
    share = np.clip((edges.x * slopes[0][at] + edges.y * slopes[1][at]) / edges.square, 0, 1)
    return float(np.average(share, weights=np.sqrt(edges.square)))


def gradient(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two [H, W] float32, codes per px."""
    return (
        cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REPLICATE),
        cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REPLICATE),
    )
