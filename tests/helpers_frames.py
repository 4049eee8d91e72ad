"""Pictures to Frames, and a decoder-free stand-in for the scan: feed meters, get Tracks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from curation.video import ClipView, Frame, Meter, Picture, Scorer, ShotDetector, Tracks, VideoInfo

INFO = VideoInfo(
    codec="h264",
    container="mov",
    width=0,
    height=0,
    fps=24.0,
    rotation=0,
    pixel_aspect=1.0,
    pix_fmt="yuv420p",
    bits=8,
    full_range=False,
    interlaced=False,
    hdr="",
)


def read_bgr(path: Path | str, start: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
    """[H, W, 3] pictures of a trusted sample, from frame `start`."""
    capture = cv2.VideoCapture(str(path))
    number = 0
    while count is None or number < start + count:
        ok, picture = capture.read()
        if not ok:
            break
        if number >= start:
            yield picture
        number += 1
    capture.release()


def to_frames(
    pictures: Iterable[np.ndarray], fps: float = 24.0, times: Sequence[float] | None = None, **info: object
) -> Iterator[Frame]:
    """BGR [H, W, 3] or luma [H, W] pictures as 4:2:0 Frames; colour becomes limited range, luma is taken as it is."""
    described: VideoInfo | None = None
    for index, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        if described is None:
            described = dataclasses.replace(INFO, **{"width": width, "height": height, "fps": fps, **info})
        chroma = (max(1, (width + 1) // 2), max(1, (height + 1) // 2))
        if picture.ndim == 2:
            y, u, v = picture, *(np.full(chroma[::-1], 128, np.uint8) for _ in range(2))
        else:
            y, v, u = cv2.split(cv2.cvtColor(picture, cv2.COLOR_BGR2YCrCb))
            y = cv2.convertScaleAbs(y, alpha=219 / 255, beta=16)
            u, v = (cv2.resize(plane, chroma, interpolation=cv2.INTER_AREA) for plane in (u, v))
        time = index / fps if times is None else times[index]
        yield Frame(index, time, (y, u, v), described, described.interlaced)


def run_meters(watchers: Sequence[Scorer | ShotDetector], frames: Iterable[Frame]) -> Tracks:
    """Show every frame to the watchers' meters (shared by name), as the guarded decoder does."""
    meters: dict[str, Meter] = {}
    times: list[float] = []
    info = INFO
    for frame in frames:
        if not times:
            info = frame.info
            for watcher in watchers:
                for name, meter in watcher.meters(info).items():
                    meters.setdefault(name, meter)
        for meter in meters.values():
            meter.see(frame)
        times.append(frame.time)
    step = times[-1] - times[-2] if len(times) > 1 else 1 / info.fps
    left = {name: meter.finish() for name, meter in meters.items()}
    return Tracks(info, np.array(times), times[-1] + step, np.zeros(len(times), bool), left)


def view(*pictures: np.ndarray, **row: object) -> ClipView:
    """A clip of these pictures ([H, W, 3] RGB), half a second apart, as picture scorers see it."""
    shown = [Picture(12 * place, place / 2, np.ascontiguousarray(rgb)) for place, rgb in enumerate(pictures)]
    return ClipView(shown, {"clip_id": "clip", **row}, INFO)
