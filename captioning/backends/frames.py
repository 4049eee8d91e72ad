"""Frames as data URLs, which is how servers are sent pictures: JPEG files, or one mp4 file of all of them."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

TICKS = 90_000  # a second, of a video's time stamps
CRF = 18  # x264's quality: close to the source, about as many bytes as the same frames in JPEG


def jpeg_urls(frames: Sequence[np.ndarray], max_pixels: int, quality: int) -> list[str]:
    """`data:image/jpeg;base64,...` of each frame ([H, W, 3] uint8 RGB), made smaller if over `max_pixels`."""
    import cv2

    urls = []
    for frame in frames:
        picture = cv2.cvtColor(capped(frame, max_pixels), cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        urls.append("data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode())
    return urls


def mp4_url(frames: Sequence[np.ndarray], seconds: Sequence[float], max_pixels: int) -> str:
    """`data:video/mp4;base64,...`: H.264 without sound, each frame shown from its own second on, the first from 0.

    frames: [H, W, 3] uint8 RGB, of equal size. seconds: one a frame, rising. Raises ValueError where those do not rise.
    """
    import av

    if any(after <= before for before, after in itertools.pairwise(seconds)):
        raise ValueError(f"a video's frames need rising times, these are {list(seconds)[:8]}")
    pictures = [capped(frame, max_pixels, even=True) for frame in frames]
    stamps = [round((second - seconds[0]) * TICKS) for second in seconds]
    step = stamps[-1] // (len(stamps) - 1) if len(stamps) > 1 else TICKS
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(TICKS, max(step, 1)))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.thread_count = 1
        stream.options = {"crf": str(CRF), "preset": "veryfast", "bf": "0"}
        for picture, stamp in zip(pictures, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return "data:video/mp4;base64," + base64.b64encode(target.getvalue()).decode()


def capped(frame: np.ndarray, max_pixels: int, even: bool = False) -> np.ndarray:
    """The frame, or a smaller one of its shape with at most `max_pixels`; of even sides where a codec needs that."""
    import cv2

    height, width = frame.shape[:2]
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))
    step = 2 if even else 1
    sides = [max(step, math.floor(side * scale / step) * step) for side in (width, height)]
    if (sides[0], sides[1]) == (width, height):
        return np.ascontiguousarray(frame)
    return cv2.resize(frame, (sides[0], sides[1]), interpolation=cv2.INTER_AREA)
