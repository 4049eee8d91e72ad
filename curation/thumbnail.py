"""Small JPEG pictures taken along the way, one of which becomes each clip's thumbnail."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from curation.video import Frame, Span, within

EVERY_S = 0.5
WIDTH = 224


class ThumbnailMeter:
    """Keeps a JPEG about every half second: `index` [K] int64, `offsets` [K + 1] int64, `jpeg` uint8 bytes."""

    def __init__(self) -> None:
        self._index: list[int] = []
        self._jpegs: list[bytes] = []
        self._next = 0.0

    def see(self, frame: Frame) -> None:
        if frame.time < self._next:
            return
        self._next = frame.time + EVERY_S
        picture = frame.medium_bgr
        height, width = picture.shape[:2]
        upright = frame.info.rotation % 180 == 0
        aspect = frame.info.pixel_aspect if upright else 1 / frame.info.pixel_aspect
        size = (WIDTH, max(2, min(4 * WIDTH, round(WIDTH * height / (width * aspect)))))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        self._jpegs.append(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes())
        self._index.append(frame.index)

    def finish(self) -> dict[str, np.ndarray]:
        offsets = np.cumsum([0, *(len(jpeg) for jpeg in self._jpegs)])
        return {
            "index": np.array(self._index, np.int64),
            "offsets": offsets.astype(np.int64),
            "jpeg": np.frombuffer(b"".join(self._jpegs), np.uint8),
        }


def thumbnail(arrays: Mapping[str, np.ndarray], span: Span) -> bytes | None:
    """JPEG of the picture nearest the middle of `span`; None where none was taken inside it."""
    inside = within(arrays["index"], span)
    if inside.start == inside.stop:
        return None
    middle = (span.start + span.end) / 2
    chosen = inside.start + int(np.abs(arrays["index"][inside] - middle).argmin())
    start, end = arrays["offsets"][chosen : chosen + 2]
    return arrays["jpeg"][start:end].tobytes()
