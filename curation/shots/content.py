"""PySceneDetect's content detector: a frame difference over a fixed threshold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from scenedetect.detectors import ContentDetector

from curation.shots.pyscenedetect import CutMeter, PySceneDetectShots
from curation.video import Meter, VideoInfo


class Content(PySceneDetectShots):
    """Cut where the mean HSV difference of two frames reaches `threshold` (0 to 255)."""

    kind: Literal["content"] = "content"
    threshold: float = Field(default=27.0, gt=0)

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        # min_scene_len 0 turns the flash filter off, which would move cuts; the refiner knows flashes.
        detector = ContentDetector(threshold=self.threshold, min_scene_len=0)
        return super().meters(info) | {"cuts": CutMeter(detector)}
