"""Lines of text as boxes: their shares of a picture, and what position and rendering say of where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from curation.scorers.text_edges import gradient

Kind = Literal["scene", "overlay", "subtitle", "watermark"]


class TextBox(NamedTuple):
    """One line or word: corners [4, 2] float32 in px, clockwise from top left."""

    corners: np.ndarray
    kind: Kind


class Place(NamedTuple):
    """What position and rendering say: for an overlay if positive; `kind` is what it would be."""

    score: float
    kind: Kind


def judge_place(line: tuple[float, float, float, float], angle: float, crispness: float) -> Place:
    """line: left, top, right, bottom as shares of the picture; angle: degrees from upright; crispness: 0-1."""
    left, top, right, bottom = line
    across, down, wide, tall = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    centred = abs(across - 0.5) < 0.05
    kind: Kind = "overlay"
    score = -1.0
    if (down > 0.8 or down < 0.15) and (wide > 0.9 or (wide > 0.3 and (left < 0.02 or right > 0.98))):
        score = 0.0  # a line that runs through the picture
    elif centred and down > 0.68 and tall < 0.14:
        kind, score = "subtitle", 0.5
    elif (left < 0.1 or right > 0.9) and (top < 0.1 or bottom > 0.9) and wide < 0.4 and tall < 0.15:
        kind, score = "watermark", 0.25
    elif centred or (down > 0.7 and 0.02 < left < 0.15):
        score = -0.5
    return Place(score + 4.0 * (crispness - 0.62) - (1.0 if angle > 3 else 0.0), kind)


def crispness(rgb: np.ndarray, corners: np.ndarray) -> float:
    """0-1: strokes of one extreme colour with edges as sharp as pixels allow, as graphics have and lenses do not."""
    left, top = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    right, bottom = np.ceil(corners.max(0)).astype(int) + 1
    grey = cv2.cvtColor(np.ascontiguousarray(rgb[top:bottom, left:right]), cv2.COLOR_RGB2GRAY)
    if min(grey.shape) < 4:
        return 0.5
    low, high = np.percentile(grey, (3, 97))
    contrast = float(high - low)
    if contrast < 16:
        return 0.3
    gx, gy = gradient(grey)
    steep = float(np.percentile(np.sqrt(gx * gx + gy * gy), 97)) / contrast  # 0.5 at most: Sobel spans two px
    extreme = max(high / 255, 1 - low / 255)
    return float(np.clip(2.2 * steep, 0, 1) * 0.6 + np.clip((extreme - 0.75) * 4, 0, 1) * 0.4)


def angle_of(corners: np.ndarray) -> float:
    """Degrees between the long sides and the nearest of the picture's axes."""
    sides = (corners[1] - corners[0], corners[3] - corners[0])
    long = max(sides, key=lambda side: float(np.linalg.norm(side)))
    turned = np.degrees(np.arctan2(long[1], long[0])) % 90
    return float(min(turned, 90 - turned))


def height_of(corners: np.ndarray) -> float:
    return float(min(np.linalg.norm(corners[1] - corners[0]), np.linalg.norm(corners[3] - corners[0])))


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    """Intersection over the smaller of the two bounding rectangles."""
    low, high = np.maximum(one.min(0), two.min(0)), np.minimum(one.max(0), two.max(0))
    if (high <= low).any():
        return 0.0
    least = min(float(np.ptp(one, axis=0).prod()), float(np.ptp(two, axis=0).prod()))
    return float((high - low).prod()) / max(least, 1e-6)


def share(shape: tuple[int, int], boxes: Sequence[np.ndarray]) -> float:
    """Share of a picture of shape (height, width) that the polygons cover together."""
    if not boxes:
        return 0.0
    scale = min(1.0, 256 / max(shape))
    mask = np.zeros([max(1, round(side * scale)) for side in shape], np.uint8)
    for corners in boxes:
        cv2.fillConvexPoly(mask, (corners * scale * 16).round().astype(np.int32), 1, shift=4)
    return float(mask.mean())


def row_boxes(shape: tuple[int, int], boxes: Sequence[TextBox]) -> list[dict[str, Any]]:
    """As the BOXES columns hold them: upright rectangles in shares of the picture."""
    height, width = shape
    rows = []
    for corners, kind in boxes:
        (left, top), (right, bottom) = np.clip([corners.min(0), corners.max(0)], 0, (width, height))
        rows.append(
            {
                "x": float(left / width),
                "y": float(top / height),
                "w": float((right - left) / width),
                "h": float((bottom - top) / height),
                "kind": kind,
            }
        )
    return rows
