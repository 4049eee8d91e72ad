"""Text: how much of the picture it covers, and how much of that was laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.text_boxes import TextBox, row_boxes, share
from curation.scorers.text_detection import DETECTION, RECOGNITION, Detector, Reader, package_model
from curation.scorers.text_persistence import tell_apart
from curation.video import BOXES, ClipView, Column, Look, PictureScorer
from orchestration.errors import ConfigError

SOURCE = "PP-OCRv6 detection (rapidocr), edges compared between pictures (curation/scorers/text_persistence.py)"


class Text(PictureScorer):
    """Text detection on the clip's pictures, and which of it stays with the frame and which goes with the scene."""

    kind: Literal["text"] = "text"
    side: int = Field(
        default=416,
        ge=64,
        le=2048,
        description="longer side in px of the pictures that text is sought in; cost grows squared",
    )
    model: str | None = Field(
        default=None, description="ONNX file of another PP-OCR detection network; null: rapidocr's own"
    )
    read: bool = Field(default=False, description="recognise the text of the middle picture (column `text`)")
    reader: str | None = Field(default=None, description="ONNX file of another PP-OCR recognition network")

    def columns(self) -> tuple[Column, ...]:
        of_picture = "share of picture, 0-1"
        return (
            Column("text_area", pa.float32(), of_picture, "covered by text, mean of the pictures", SOURCE),
            Column(
                "overlay_text",
                pa.float32(),
                of_picture,
                "covered by text laid over the scene (titles, captions, subtitles, watermarks), mean of the pictures",
                SOURCE,
            ),
            Column("subtitle_text", pa.float32(), of_picture, "overlay text centred near the bottom", SOURCE),
            Column("watermark_text", pa.float32(), of_picture, "overlay text, small and in a corner", SOURCE),
            Column("text_lines", pa.float32(), "per picture", "lines or words of text, mean of the pictures", SOURCE),
            Column(
                "text_boxes", BOXES, "", "text of the middle picture: scene, overlay, subtitle or watermark", SOURCE
            ),
            Column(
                "text",
                pa.string(),
                "",
                "what the text of the middle picture says, a line each, from top to bottom; null unless `read: true`",
                "PP-OCRv6 recognition (rapidocr)",
            ),
        )

    def notice(self) -> str | None:
        for path in (self.model, self.reader):
            if path and not Path(path).is_file():
                raise ConfigError(f"scorer text: no file {path}")
        return None

    def setup(self) -> Look:
        detect = Detector(self.model or package_model(DETECTION), self.side, self.device)
        read = Reader(self.reader or package_model(RECOGNITION), self.device) if self.read else None

        def look(views: Sequence[ClipView]) -> list[dict[str, Any]]:
            return [_score(view, find(view, detect), read) for view in views]

        return look


def find(view: ClipView, detect: Detector) -> list[list[TextBox]]:
    """The text of each of a clip's pictures."""
    pictures = [np.ascontiguousarray(picture.rgb) for picture in view.pictures]
    camera = view.row.get("camera_motion")
    moves = None if camera is None else camera != "static"
    return tell_apart(pictures, [detect(picture) for picture in pictures], moves)


def _score(view: ClipView, text: list[list[TextBox]], read: Reader | None) -> dict[str, Any]:
    shapes = [picture.rgb.shape[:2] for picture in view.pictures]

    def covered(*kinds: str) -> float:
        return float(
            np.mean([share(s, [b.corners for b in t if b.kind in kinds]) for s, t in zip(shapes, text, strict=True)])
        )

    middle = next(place for place, picture in enumerate(view.pictures) if picture is view.middle)
    ordered = sorted(text[middle], key=lambda box: (box.corners[:, 1].mean(), box.corners[:, 0].min()))
    return {
        "text_area": covered("scene", "overlay", "subtitle", "watermark"),
        "overlay_text": covered("overlay", "subtitle", "watermark"),
        "subtitle_text": covered("subtitle"),
        "watermark_text": covered("watermark"),
        "text_lines": float(np.mean([len(boxes) for boxes in text])),
        "text_boxes": row_boxes(shapes[middle], ordered),
        "text": "\n".join(read(view.pictures[middle].rgb, [box.corners for box in ordered])) if read else None,
    }
