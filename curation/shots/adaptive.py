"""PySceneDetect's adaptive detector: a frame difference that stands out from its neighbours'. The default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from scenedetect.detectors import AdaptiveDetector

from curation.shots.pyscenedetect import CutMeter, PySceneDetectShots
from curation.video import Meter, VideoInfo


class Adaptive(PySceneDetectShots):
    """Cut where a frame's HSV difference is `threshold` times the mean of its `window` neighbours on either side."""

    kind: Literal["adaptive"] = "adaptive"
    threshold: float = Field(default=3.0, gt=1)  # ratio to the neighbours
    min_content: float = Field(default=15.0, ge=0)  # and at least this difference (0 to 255)
    window: int = Field(default=2, ge=1)  # frames on either side

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        detector = AdaptiveDetector(
            adaptive_threshold=self.threshold,
            min_content_val=self.min_content,
            window_width=self.window,
            min_scene_len=0,  # raw cuts: flashes and short shots are the refiner's business
        )
        return super().meters(info) | {"cuts": CutMeter(detector)}
