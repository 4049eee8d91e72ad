"""The one decode of a video: frames go once through every meter; what they leave is saved as arrays. Runs in the sandbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from curation.container import NotVideo, frame_hash, open_video
from curation.plan import MeasurePlan
from curation.thumbnail import ThumbnailMeter
from curation.video import Frame, Meter, Tracks, VideoInfo
from orchestration.config import Config

BEAT_S = 1.0
NO_TIME = -(2**62)
THUMBNAILS = "thumbnails"


class DecodeConfig(Config):
    """Guards around the decoder."""

    memory_gb: float = 6.0  # address space of one decoder process
    stall_s: float = 60.0  # a decoder that delivers no frame for so long is ended
    max_pixels: int = 8192 * 4320  # a picture; larger videos are refused before a frame is decoded
    max_hours: float = 24.0  # of video; what decodes longer than this is refused


class DecodeFailed(ValueError):
    """Carries the reason that the videos table shows."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def probe(path: str) -> dict[str, Any]:
    """Header facts without decoding: {"duration_s", "width", "height", "codec"}; duration is null where unknown."""
    container, stream = _open(path)
    with container:
        duration = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
        if duration is None and container.duration:
            duration = container.duration / av.time_base
        codec = stream.codec_context
        return {"duration_s": duration, "width": codec.width, "height": codec.height, "codec": codec.name}


def decode(
    path: Path, folder: Path, config: DecodeConfig, plan: MeasurePlan, send: Callable[[dict[str, int]], None]
) -> dict[str, Any]:
    """Decode `path` once, feed the plan's meters, save their arrays into `folder`; returns what `load_tracks` needs.

    `send` gets {"frames": n} about once a second. Raises DecodeFailed with a reason.
    """
    container, stream = _open(path)
    with container:
        context = stream.codec_context
        if context.width * context.height > config.max_pixels:
            raise DecodeFailed(f"too large: {context.width}x{context.height} is over decode.max_pixels")
        context.options = {"max_pixels": str(config.max_pixels), "err_detect": "crccheck+bitstream+buffer"}
        recording = _Recording(container, stream, plan)
        beat = time.monotonic()
        for frame, damaged in _frames(container, stream):
            recording.add(frame, damaged)
            if time.monotonic() - beat > BEAT_S:
                beat = time.monotonic()
                send({"frames": recording.count})
                if recording.hours > config.max_hours:
                    raise DecodeFailed(f"too long: over {config.max_hours:g} hours (decode.max_hours)")
        return recording.save(folder)


def load_tracks(folder: Path, result: dict[str, Any]) -> Tracks:
    """What `decode` saved, memory-mapped."""
    meters: dict[str, dict[str, np.ndarray]] = {}
    for name, keys in result["meters"].items():
        meters[name] = {key: np.load(folder / f"{name}.{key}.npy", mmap_mode="r") for key in keys}
    frames = meters.pop("frames")
    info = VideoInfo(**result["info"])
    return Tracks(info, frames["times"], result["end_time"], frames["damaged"], {**meters, "frames": frames})


def _open(path: str | Path) -> tuple[InputContainer, VideoStream]:
    try:
        return open_video(path)
    except NotVideo as error:
        raise DecodeFailed(str(error)) from error


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Frames in presentation order with whether they are damaged.

    libav conceals errors and goes on; the signs are what it logs and frames that it marks. From a sign on, every frame up
    to the next keyframe may hold the damage, so all of them count.
    """
    av.logging.set_level(av.logging.ERROR)
    tainted_since: int | None = None
    with av.logging.Capture() as complaints:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.FFmpegError as error:
                complaints.append((av.logging.ERROR, "demuxer", str(error)))
                packet = None
            pictures: list[av.VideoFrame] = []
            try:
                pictures = stream.codec_context.decode(packet if packet is not None and packet.size else None)
            except av.FFmpegError as error:
                if not isinstance(error, av.EOFError):
                    complaints.append((av.logging.ERROR, "decoder", str(error)))
            if complaints or (packet is not None and packet.is_corrupt):
                complaints.clear()
                at = packet.pts if packet is not None and packet.pts is not None else None
                tainted_since = at if at is not None else NO_TIME
            for picture in pictures:
                if picture.is_corrupt and tainted_since is None:
                    tainted_since = picture.pts if picture.pts is not None else NO_TIME
                elif tainted_since is not None and picture.key_frame and not picture.is_corrupt:
                    if picture.pts is None or picture.pts > tainted_since:
                        tainted_since = None
                yield picture, tainted_since is not None
            if packet is None or packet.size == 0:
                break


class _Recording:
    """Per-frame facts and meters of one video."""

    def __init__(self, container: InputContainer, stream: VideoStream, plan: MeasurePlan):
        self._container, self._stream, self._plan = container, stream, plan
        self._info: VideoInfo | None = None
        self._meters: dict[str, Meter] = {}
        self._pts: list[int | None] = []
        self._hashes: list[int] = []
        self._damaged: list[bool] = []
        self._bidirectional: list[bool] = []
        self._interlaced = 0
        self._last_duration = 0
        self._size = (0, 0)
        self._format = ""
        self._time_base = Fraction(stream.time_base or Fraction(1, 1000))
        self._fps = float(stream.average_rate or stream.guessed_rate or 25)

    @property
    def count(self) -> int:
        return len(self._hashes)

    @property
    def hours(self) -> float:
        return self.count / self._fps / 3600

    def add(self, picture: av.VideoFrame, damaged: bool) -> None:
        if self._info is None:
            self._info = _video_info(self._container, self._stream, picture, self._fps)
            self._size, self._format = (picture.width, picture.height), picture.format.name
            self._meters = {**self._plan.meters(self._info), THUMBNAILS: ThumbnailMeter()}
        changed = (picture.width, picture.height) != self._size or picture.format.name != self._format
        first = next((pts for pts in self._pts if pts is not None), picture.pts)
        known = picture.pts is not None and first is not None
        seconds = float((picture.pts - first) * self._time_base) if known else self.count / self._fps
        planes = picture_planes(picture, self._size if changed else None)
        frame = Frame(self.count, seconds, planes, self._info, bool(picture.interlaced_frame))
        for meter in self._meters.values():
            meter.see(frame)
        self._pts.append(picture.pts)
        self._hashes.append(frame_hash(picture))
        # A change of size or format inside a stream: no clip may span it.
        self._damaged.append(damaged or changed)
        self._bidirectional.append(picture.pict_type == PictureType.B)
        if damaged:  # B frames shown before a damaged frame were predicted from it
            before = self.count - 2
            while before >= 0 and self._bidirectional[before] and not self._damaged[before]:
                self._damaged[before] = True
                before -= 1
        self._interlaced += bool(picture.interlaced_frame)
        self._last_duration = picture.duration or 0

    def save(self, folder: Path) -> dict[str, Any]:
        if self._info is None:
            raise DecodeFailed("damaged: no frame could be decoded")
        times, pts = self._clock()
        step = (times[-1] - times[0]) / max(1, len(times) - 1) if len(times) > 1 else 1 / self._fps
        last = float(self._last_duration * self._time_base) if self._last_duration and pts is not None else step
        end_pts = None
        if pts is not None:
            end_pts = int(pts[-1]) + max(1, round(last / float(self._time_base)))
        saved = {name: meter.finish() for name, meter in self._meters.items()}
        saved["frames"] = {
            "times": times,
            "hashes": np.array(self._hashes, np.uint64),
            "damaged": np.array(self._damaged, bool),
            **({"pts": pts} if pts is not None else {}),
        }
        for name, arrays in saved.items():
            for key, array in arrays.items():
                np.save(folder / f"{name}.{key}.npy", array)
        info = asdict(self._info) | {"interlaced": self._interlaced * 2 > self.count}
        return {
            "info": info,
            "meters": {name: list(arrays) for name, arrays in saved.items()},
            "end_time": float(times[-1]) + (last or 1 / self._fps),
            "end_pts": end_pts,
            "frames_promised": self._stream.frames or None,
        }

    def _clock(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Seconds of each frame, and timestamps, which are null unless every frame has one and they ascend."""
        if all(pts is not None for pts in self._pts):
            pts = np.array(self._pts, np.int64)
            if len(pts) < 2 or bool((np.diff(pts) > 0).all()):
                return (pts - pts[0]) * float(self._time_base), pts
        return np.arange(self.count) / self._fps, None


def picture_planes(
    picture: av.VideoFrame, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y, U, V as uint8 arrays, [H, W] each (chroma at its own size); views where the format allows.

    `size` (width, height): rescale to it.
    """
    name = picture.format.name
    planar = name.startswith(("yuv4", "yuvj4", "yuva4")) and len(picture.planes) >= 3 and not name.endswith("be")
    if size is not None or not planar:
        width, height = size or (picture.width, picture.height)
        picture = picture.reformat(width=width, height=height, format="yuv420p")
    bits = picture.format.components[0].bits
    planes = []
    for plane in list(picture.planes)[:3]:
        if bits > 8:
            wide = np.frombuffer(plane, np.uint16).reshape(-1, plane.line_size // 2)  # type: ignore[arg-type]
            planes.append((wide[: plane.height, : plane.width] >> (bits - 8)).astype(np.uint8))
        else:
            data = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[arg-type]
            planes.append(data[: plane.height, : plane.width])
    return planes[0], planes[1], planes[2]


def _video_info(container: InputContainer, stream: VideoStream, picture: av.VideoFrame, fps: float) -> VideoInfo:
    transfer = {16: "pq", 18: "hlg"}.get(int(picture.color_trc or 0), "")
    return VideoInfo(
        codec=stream.codec_context.name,
        container=container.format.name,
        width=picture.width,
        height=picture.height,
        fps=fps,
        # libav reports the display matrix counter-clockwise.
        rotation=round(-picture.rotation / 90) * 90 % 360,
        pixel_aspect=float(stream.sample_aspect_ratio or 1) or 1.0,
        pix_fmt=picture.format.name,
        bits=picture.format.components[0].bits,
        full_range=int(picture.color_range or 0) == 2 or picture.format.name.startswith("yuvj"),
        interlaced=bool(picture.interlaced_frame),
        hdr=transfer,
    )
