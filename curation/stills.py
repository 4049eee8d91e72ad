"""Pictures of a video kept along the way as JPEG: clips' thumbnails, and what picture scorers look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO

import cv2
import numpy as np

from curation.media.pixels import HLG, PQ, tone_map
from curation.scorers.sampling import Clock
from curation.video import Frame, Picture, Span, Tracks, VideoInfo, within

STILLS = "stills"  # the meter's name among the tracks
JPEG = "jpeg"  # key of what its file holds, uint8
RATE = 2.0  # a second; every clip of 1.5 s has three
QUALITY = 95  # of JPEG: what it takes away is far below what scorers react to
THUMBNAIL_WIDTH, THUMBNAIL_QUALITY = 224, 75
# Luma's and chroma's weights in R, G, B of full-range video (ITU-R BT.601, BT.709, BT.2020).
MATRICES = {
    "601": ((1, 0, 1.402), (1, -0.344136, -0.714136), (1, 1.772, 0)),
    "709": ((1, 0, 1.5748), (1, -0.187324, -0.468124), (1, 1.8556, 0)),
    "2020": ((1, 0, 1.4746), (1, -0.164553, -0.571353), (1, 1.8814, 0)),
}


class StillsMeter:
    """Writes a JPEG about every half second to `file`, and leaves `index` [K] int64 and `offsets` [K + 1] int64 in it.

    A day of video has 17 GB of them: too much for the memory of a decoder.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._clock = Clock(RATE)
        self._file = file
        self._index: list[int] = []
        self._offsets = [0]

    def see(self, frame: Frame) -> None:
        if not self._clock.ticks(frame.time):
            return
        bgr = np.ascontiguousarray(displayed(frame)[..., ::-1])
        jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        self._file.write(jpeg)
        self._offsets.append(self._offsets[-1] + len(jpeg))
        self._index.append(frame.index)

    def finish(self) -> dict[str, np.ndarray]:
        return {"index": np.array(self._index, np.int64), "offsets": np.array(self._offsets, np.int64)}


def displayed(frame: Frame) -> np.ndarray:
    """[H, W, 3] uint8 RGB of a frame as a player shows it: upright, square pixels, full range, SDR."""
    info = frame.info
    planes = frame.large_yuv
    rgb = cv2.transform(cv2.merge(planes), _to_rgb(info))
    if info.hdr:
        rgb = tone_map(rgb.astype(np.uint16) * 257, PQ if info.hdr == "pq" else HLG)
    height, width = rgb.shape[:2]
    if (frame.interlaced or info.interlaced) and planes[0].size == frame.luma.size:  # else the halving has mixed them
        rgb = rgb[::2] if info.rotation % 180 == 0 else rgb[:, ::2]
    aspect = info.pixel_aspect if info.rotation % 180 == 0 else 1 / info.pixel_aspect
    size = (max(1, round(width * min(aspect, 1))), max(1, round(height / max(aspect, 1))))
    if rgb.shape[1::-1] != size:
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)
    return rgb


def _to_rgb(info: VideoInfo) -> np.ndarray:
    """[3, 4] float32: Y, U, V, 1 to R, G, B, all in 8-bit codes."""
    luma, chroma, black = (1.0, 1.0, 0) if info.full_range else (255 / 219, 255 / 224, 16)
    weights = np.array(MATRICES[info.matrix], np.float64)
    weights = weights[:, [0, 1, 2]] * (luma, chroma, chroma)
    return np.column_stack([weights, -weights @ (black, 128, 128)]).astype(np.float32)


class Stills:
    """The pictures that a decode has kept, by clip."""

    def __init__(self, tracks: Tracks):
        self._info, self._times = tracks.info, tracks.times
        self._arrays: Mapping[str, np.ndarray] = tracks.meters[STILLS]

    def pictures(self, span: Span, count: int, crop: Mapping[str, object]) -> tuple[list[Picture], int]:
        """Up to `count` evenly spaced pictures of a clip without its black bars, and which of them is its thumbnail.

        `crop` may hold crop_x, crop_y, crop_w and crop_h, in coded pixels.
        """
        chosen, middle = self._choose(span, count), self._middle(span)
        if middle is None:
            return [], 0
        nearest = min(range(len(chosen)), key=lambda place: abs(chosen[place] - middle))
        return [self._picture(place, crop) for place in chosen], nearest

    def thumbnail(self, span: Span, crop: Mapping[str, object]) -> bytes | None:
        """JPEG of the picture nearest the middle of a clip; None where none was taken inside it."""
        place = self._middle(span)
        if place is None:
            return None
        bgr = self._picture(place, crop).rgb[..., ::-1]
        height, width = bgr.shape[:2]
        size = (THUMBNAIL_WIDTH, max(2, min(4 * THUMBNAIL_WIDTH, round(THUMBNAIL_WIDTH * height / width))))
        small = cv2.resize(np.ascontiguousarray(bgr), size, interpolation=cv2.INTER_AREA)
        return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY])[1].tobytes()

    def _middle(self, span: Span) -> int | None:
        inside = within(self._arrays["index"], span)
        if inside.start == inside.stop:
            return None
        middle = (span.start + span.end) / 2
        return inside.start + int(np.abs(self._arrays["index"][inside] - middle).argmin())

    def _choose(self, span: Span, count: int) -> list[int]:
        """Places of up to `count` stills: the nearest ones to the middles of as many equal parts of the clip."""
        inside = within(self._arrays["index"], span)
        if inside.stop - inside.start <= count:
            return list(range(inside.start, inside.stop))
        index = self._arrays["index"][inside]
        wanted = span.start + (span.end - span.start) * (np.arange(count) + 0.5) / count
        return sorted({inside.start + int(np.abs(index - at).argmin()) for at in wanted})

    def _picture(self, place: int, crop: Mapping[str, object]) -> Picture:
        start, end = self._arrays["offsets"][place : place + 2]
        index = int(self._arrays["index"][place])
        bgr = cv2.imdecode(np.array(self._arrays[JPEG][start:end]), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        assert bgr is not None
        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        return Picture(index, float(self._times[index]), _cropped(rgb, crop, self._info))


def _cropped(rgb: np.ndarray, crop: Mapping[str, object], info: VideoInfo) -> np.ndarray:
    """[H, W, 3] inside the black bars, which are given in coded pixels before rotation."""
    box = [crop.get(f"crop_{side}") for side in "xywh"]
    if any(value is None for value in box):
        return rgb
    x, y, w, h = (float(value) for value in box)  # type: ignore[arg-type]
    left, right, top, bottom = x / info.width, (x + w) / info.width, y / info.height, (y + h) / info.height
    if info.rotation == 90:
        left, right, top, bottom = 1 - bottom, 1 - top, left, right
    elif info.rotation == 180:
        left, right, top, bottom = 1 - right, 1 - left, 1 - bottom, 1 - top
    elif info.rotation == 270:
        left, right, top, bottom = top, bottom, 1 - right, 1 - left
    height, width = rgb.shape[:2]
    rows = slice(round(top * height), max(round(top * height) + 1, round(bottom * height)))
    columns = slice(round(left * width), max(round(left * width) + 1, round(right * width)))
    return np.ascontiguousarray(rgb[rows, columns])
