"""Short silent films for the report: two seconds out of a clip, small enough to lie inside an HTML file."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from curation import read
from curation.fetch import is_remote
from curation.sandbox import JobFailed, Sandbox
from orchestration.storage import Storage

SECONDS = 2.0
RATE = 12  # pictures a second, enough to judge motion
LONGER_SIDE = 256
HEAVY = 16_000  # bytes of a thumbnail; heavier ones are made smaller

Row = Mapping[str, Any]
Reader = Callable[[Row, list[int], tuple[int, int]], np.ndarray]
Maker = Callable[[Row], bytes]
FIELDS = (*read.FIELDS, "start_s", "end_s")  # what a preview needs to know of a clip
LIMIT_S = 20.0  # for one preview
FETCHED = 200_000_000  # bytes of a clip's file that are fetched for its preview


@dataclass
class Previews:
    """MP4 files by clip_id, and why there is none for the others."""

    media: dict[str, bytes] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


class NoPreview(Exception):
    """Why a clip has none."""


class GuardedMaker:
    """Makes previews of a dataset's clips in a sandbox: their packets are those of untrusted video."""

    def __init__(self, storage: Storage, memory_gb: float = 4.0):
        self._storage = storage
        self._sandbox = Sandbox(memory_gb, stall_s=LIMIT_S)

    def __call__(self, row: Row) -> bytes:
        """See `preview`. Raises NoPreview, and what the sandbox raises."""
        with tempfile.TemporaryDirectory() as folder:
            clip = {name: row.get(name) for name in FIELDS}
            root = self._storage.uri
            if clip["media"] and not self._storage.local:  # the sandbox has no credentials
                name, root = Path(str(clip["media"])).name, folder
                if self._storage.fs.size(self._storage.path(clip["media"])) > FETCHED:
                    raise NoPreview("its file is too large to be fetched")
                self._storage.fs.get_file(self._storage.path(clip["media"]), str(Path(folder) / name))
                clip["media"] = name
            elif not clip["media"] and is_remote(str(clip["uri"])):
                raise NoPreview("not cut, and its source is not on this machine")
            target = Path(folder) / "preview.mp4"
            self._sandbox.run("preview", row=clip, root=root, target=str(target))
            return target.read_bytes()

    def close(self) -> None:
        self._sandbox.close()


def make_previews(rows: Mapping[str, Row], maker: Maker, *, seconds: float, max_bytes: int) -> Previews:
    """Previews of clip rows, the most important first, until `seconds` of work or `max_bytes` are spent."""
    made = Previews()
    ends, left = time.monotonic() + seconds, max_bytes
    for clip_id, row in rows.items():
        if time.monotonic() > ends:
            made.reasons[clip_id] = f"the time for previews ({seconds:g} s) was used up"
            continue
        try:
            data = maker(row)
        except (NoPreview, JobFailed) as error:
            made.reasons[clip_id] = str(error)
            continue
        except Exception as error:  # whatever a broken file does, the report is written
            made.reasons[clip_id] = f"{type(error).__name__}: {error}"
            continue
        if len(data) > left:
            made.reasons[clip_id] = "the space for previews was used up"
            continue
        left -= len(data)
        made.media[clip_id] = data
    return made


def preview(row: Row, reader: Reader) -> bytes:
    """The middle two seconds of a clip as an MP4 file.

    reader(row, frames, (height, width)) gives uint8 RGB [T, H, W, 3] of these frames of the clip, as read_clip does.
    """
    frames, rate = _frames(row)
    return encode(reader(row, frames, _size(row)), rate)


def _frames(row: Row) -> tuple[list[int], float]:
    """Which frames of the clip to show, and how many of them a second."""
    length = int(row["end_frame"] - row["start_frame"])
    duration = float(row["end_s"] - row["start_s"])
    rate = length / duration if duration > 0 else 24.0
    step = max(1, round(rate / RATE))
    count = max(1, min(length // step, round(SECONDS * rate / step)))
    first = max(0, (length - count * step) // 2)
    return list(range(first, first + count * step, step)), rate / step


def _size(row: Row) -> tuple[int, int]:
    """Height and width as displayed, after the crop; both even, the longer one about LONGER_SIDE."""
    width = (row.get("crop_w") or row.get("width") or 16) * (row.get("pixel_aspect") or 1.0)
    height = float(row.get("crop_h") or row.get("height") or 9)
    if (row.get("rotation") or 0) % 180:
        width, height = height, width
    scale = LONGER_SIDE / max(width, height)
    return max(16, 2 * round(height * scale / 2)), max(16, 2 * round(width * scale / 2))


def small_jpeg(data: bytes | None) -> bytes | None:
    """The thumbnail as it is, or a smaller one where it is heavy; None where it is no JPEG."""
    if not data or not data.startswith(b"\xff\xd8\xff"):
        return None
    if len(data) <= HEAVY:
        return data
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_2)
    if picture is None:
        return None
    scale = LONGER_SIDE / max(picture.shape[:2])
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    for quality in (70, 50, 25):
        small = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(small) <= HEAVY:
            return small
    return None


def encode(frames: np.ndarray, rate: float) -> bytes:
    """uint8 RGB [T, H, W, 3] -> H.264 MP4. Odd sizes lose their last row or column."""
    frames = frames[:, : frames.shape[1] & ~1, : frames.shape[2] & ~1]
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # One thread: equal input gives equal bytes. High enough a quality that artefacts are the clip's own.
        stream.options = {"crf": "28", "preset": "veryfast", "threads": "1"}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()
