"""Boxes of text and faces as outlines over a thumbnail: numbers of the data become a drawing, never markup."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from curation.video import BOXES, Column

KINDS = {
    "scene": "text in the scene",
    "overlay": "overlay text",
    "subtitle": "subtitle",
    "watermark": "watermark",
    "face": "face",
    "person": "person",
    "other": "another box",
}
MOST = 40  # boxes on a picture, the largest ones


@dataclass(frozen=True)
class Outlines:
    """What parts.html draws: SVG paths in pixels of the thumbnail, one for each kind of box."""

    view: str  # viewBox
    paths: dict[str, str]  # kind -> path
    counts: dict[str, int]  # kind -> boxes, those that are not drawn included

    @property
    def text(self) -> str:
        """`subtitle 3, face 1`"""
        names = ", ".join(f"{KINDS[kind]} {n}" for kind, n in self.counts.items())
        return names + (f"; the {MOST} largest are drawn" if sum(self.counts.values()) > MOST else "")


def box_columns(columns: Iterable[Column]) -> list[str]:
    return [column.name for column in columns if column.type == BOXES]


def outlines(row: Mapping[str, Any], columns: Iterable[str], jpeg: bytes | None) -> Outlines | None:
    """Of the boxes in these columns of a clip's row; None where there is none, or no picture to draw them on."""
    boxes = [box for name in columns for box in map(_inside, row.get(name) or ()) if box]
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE) if boxes and jpeg else None
    if picture is None:
        return None
    height, width = picture.shape
    boxes.sort(key=lambda box: -box[2] * box[3])
    paths: dict[str, str] = {}
    for x, y, w, h, kind in boxes[:MOST]:
        side = f"{w * width:.1f}"
        path = f"M{x * width:.1f} {y * height:.1f}h{side}v{h * height:.1f}h-{side}z"
        paths[kind] = paths.get(kind, "") + path
    counts = Counter(kind for *_, kind in boxes)
    return Outlines(f"0 0 {width} {height}", paths, {kind: counts[kind] for kind in KINDS if counts[kind]})


def counted(boxes: Sequence[Any]) -> str:
    """`2 boxes`, for a table."""
    return f"{len(boxes)} box{'' if len(boxes) == 1 else 'es'}"


def _inside(box: Mapping[str, Any] | None) -> tuple[float, float, float, float, str] | None:
    """Left, top, width, height inside the picture, and one of KINDS; None for what cannot be drawn."""
    if not box:
        return None
    x, y, w, h = (math.nan if box.get(side) is None else box[side] for side in "xywh")
    if not all(map(math.isfinite, (x, y, w, h))):
        return None
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, 1.0), min(y + h, 1.0)
    if right <= left or bottom <= top:
        return None
    kind = box.get("kind")
    return left, top, right - left, bottom - top, kind if kind in KINDS else "other"
