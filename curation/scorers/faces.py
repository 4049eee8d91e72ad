"""Faces and people, and whether the clip is a talking head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.nudenet import Detector, Part, package_model
from curation.video import BOXES, ClipView, Column, Look, PictureScorer
from orchestration.errors import ConfigError

SOURCE = "NudeNet's detector (package nudenet)"
TORSO = ("BREAST", "BELLY", "BUTTOCKS", "GENITALIA", "ARMPITS")  # hands pass for feet: those are not taken
# Of a talking head's factors: where each is a half, and how far from there it is 0.73 or 0.27.
LARGE = (math.log(0.012), 0.35)  # log of the face's share of the picture: head and shoulders have 0.03 and more
OFF_CENTRE = (0.27, 0.03)  # of the picture's width: a head in one third (0.17) is centred enough
WANDERS = (1.0, 0.2)  # face sizes
CAMERA = (10.0, 2.0)  # % / s; lax: who fills the picture is in part taken for the camera


class Faces(PictureScorer):
    """Counts faces and people on the clip's pictures."""

    kind: Literal["faces"] = "faces"
    side: int = Field(
        default=480,
        ge=64,
        le=1280,
        description="longer side in px of the pictures that faces are sought in; cost grows squared",
    )
    model: str | None = Field(
        default=None, description="ONNX file of another NudeNet network, such as 640m.onnx; null: the package's"
    )
    least: float = Field(default=0.5, ge=0.2, le=1, description="score from which on a face or body counts")

    def columns(self) -> tuple[Column, ...]:
        return (
            Column("faces", pa.float32(), "per picture", "human faces, mean of the pictures", SOURCE),
            Column(
                "face_area",
                pa.float32(),
                "share of picture, 0-1",
                "the largest face, mean of the pictures that have one; 0 where none has",
                SOURCE,
            ),
            Column(
                "persons",
                pa.float32(),
                "per picture",
                "faces and bodies without a face, mean of the pictures; a lower bound: small people are not found",
                SOURCE,
            ),
            Column(
                "talking_head",
                pa.float32(),
                "0-1",
                "one large face near the middle that stays in place before a still camera; null of a single picture",
                "product of five factors (curation/scorers/faces.py)",
                temporal=True,
            ),
            Column("face_boxes", BOXES, "", "faces (`face`) and bodies without (`person`) in the thumbnail", SOURCE),
        )

    def notice(self) -> str | None:
        if self.model and not Path(self.model).is_file():
            raise ConfigError(f"scorer faces: no file {self.model}")
        return None

    def setup(self) -> Look:
        detect = Detector(self.model or package_model(), self.side, self.device)

        def look(views: Sequence[ClipView]) -> list[dict[str, Any]]:
            return [self._score(view, detect) for view in views]

        return look

    def _score(self, view: ClipView, detect: Detector) -> dict[str, Any]:
        found = {id(p): [part for part in detect(p.rgb) if part.score >= self.least] for p in view.pictures}
        parts = [found[id(picture)] for picture in view.pictures]
        faces = [[part for part in of_picture if "FACE" in part.name] for of_picture in parts]
        persons = [bodies(of_picture) for of_picture in parts]
        largest = [max(part.w * part.h for part in of_picture) for of_picture in faces if of_picture]
        middle = next(place for place, picture in enumerate(view.pictures) if picture is view.middle)
        return {
            "faces": float(np.mean([len(of_picture) for of_picture in faces])),
            "face_area": float(np.mean(largest)) if largest else 0.0,
            "persons": float(np.mean([len(f) + len(b) for f, b in zip(faces, persons, strict=True)])),
            "talking_head": talking_head(faces, view.row) if len(view.pictures) > 1 else None,
            "face_boxes": [
                {"x": part.x, "y": part.y, "w": part.w, "h": part.h, "kind": kind}
                for kind, boxes in (("face", faces[middle]), ("person", persons[middle]))
                for part in boxes
            ],
        }


def bodies(parts: Sequence[Part]) -> list[Part]:
    """Boxes around the parts of each body that shows no face.

    A part belongs to a face that it is at most two face widths beside and eight face heights below; other parts are of
    one body where they are nearer to each other than the larger one is wide or high.
    """
    faces = [part for part in parts if "FACE" in part.name]
    found: list[Part] = []
    for part in parts:
        if not any(name in part.name for name in TORSO) or any(_hangs_from(part, face) for face in faces):
            continue
        for near in [body for body in found if _near(body, part)]:
            found.remove(near)
            part = _around(near, part)
        found.append(part)
    return found


def _hangs_from(part: Part, face: Part) -> bool:
    beside = abs(part.x + part.w / 2 - face.x - face.w / 2)
    below = part.y + part.h / 2 - face.y - face.h / 2
    return beside <= 2 * face.w + part.w / 2 and -face.h <= below <= 8 * face.h


def _near(one: Part, other: Part) -> bool:
    across = max(one.x, other.x) - min(one.x + one.w, other.x + other.w)
    along = max(one.y, other.y) - min(one.y + one.h, other.y + other.h)
    return across < max(one.w, other.w) and along < max(one.h, other.h)


def _around(one: Part, other: Part) -> Part:
    x, y = min(one.x, other.x), min(one.y, other.y)
    right, bottom = max(one.x + one.w, other.x + other.w), max(one.y + one.h, other.y + other.h)
    return Part(one.name, max(one.score, other.score), x, y, right - x, bottom - y)


def talking_head(faces: Sequence[Sequence[Part]], row: Mapping[str, Any]) -> float:
    """Product of: share of pictures with exactly one face, and four logistic factors of the faces of those: large,
    near the middle of the width, in one place and of one size, before a camera that does not move (`row`'s camera
    columns; one that was not measured counts as still)."""
    alone = [of_picture[0] for of_picture in faces if len(of_picture) == 1]
    if not alone:
        return 0.0
    x, y, w, h = (np.array([getattr(face, name) for face in alone]) for name in "xywh")
    centre_x, centre_y, size = x + w / 2, y + h / 2, np.sqrt(w * h)
    path = max(np.ptp(centre_x) / w.mean(), np.ptp(centre_y) / h.mean())
    wanders = float(path + abs(np.log2(size.max() / size.min())))
    moves = [row.get(f"camera_{name}") for name in ("pan", "tilt", "zoom", "shake")]
    camera = max((abs(move) for move in moves if move is not None), default=0.0)
    return (
        len(alone)
        / len(faces)
        * _rises(math.log((w * h).mean() + 1e-9), LARGE)
        * _rises(-abs(centre_x.mean() - 0.5), (-OFF_CENTRE[0], OFF_CENTRE[1]))
        * _rises(-wanders, (-WANDERS[0], WANDERS[1]))
        * _rises(-camera, (-CAMERA[0], CAMERA[1]))
    )


def _rises(value: float, half: tuple[float, float]) -> float:
    return float(1 / (1 + np.exp(-np.clip((value - half[0]) / half[1], -50, 50))))
