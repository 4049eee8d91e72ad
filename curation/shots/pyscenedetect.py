"""Feeds a PySceneDetect detector frame by frame and keeps the cuts it reports."""

from __future__ import annotations

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detector import SceneDetector

from curation.shots.refine import RefinedDetector
from curation.video import Frame, Span, Tracks

# Detectors count frames; the rate is only there because a timecode must have one.
_RATE = 25.0


class CutMeter:
    """Leaves `cuts`: [K] int64, the first frames of new shots as the detector saw them, ascending."""

    def __init__(self, detector: SceneDetector):
        self._detector = detector
        self._cuts: list[int] = []
        self._last: FrameTimecode | None = None

    def see(self, frame: Frame) -> None:
        bgr = frame.small_bgr
        height, width = bgr.shape[0] & ~1, bgr.shape[1] & ~1
        if max(height, width) > 224:
            # Same cuts as at twice the size (all 130 of a ten-minute film) in a third of the time.
            bgr = cv2.resize(bgr[:height, :width], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        self._last = FrameTimecode(frame.index, _RATE)
        self._cuts += [cut.frame_num for cut in self._detector.process_frame(self._last, bgr)]

    def finish(self) -> dict[str, np.ndarray]:
        if self._last is not None:
            self._cuts += [cut.frame_num for cut in self._detector.post_process(self._last)]
        return {"cuts": np.unique(np.array(self._cuts, np.int64))}


class PySceneDetectShots(RefinedDetector):
    """Base of the detectors that run in a CutMeter named `cuts`."""

    def cuts(self, tracks: Tracks) -> list[Span]:
        return [Span(int(cut), int(cut)) for cut in tracks.meters["cuts"]["cuts"]]
