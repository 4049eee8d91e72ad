"""The one decode of a video: frames go once through every meter, and what they leave is saved as arrays.

Runs in the sandbox.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
from av import logging as av_logging
from av.container import InputContainer
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.video.frame import PictureType
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream

from curation.container import MAX_PIXELS, NotVideo, frame_hash, open_video, picture_planes
from curation.media.guard import fault
from curation.media.integrity import integrity_check
from curation.media.packets import NONE
from curation.media.pixels import matrix_of
from curation.media.still import Still, read_still
from curation.plan import MeasurePlan
from curation.stills import JPEG, STILLS, StillsMeter
from curation.video import Frame, Meter, Span, Tracks, VideoInfo
from orchestration.config import Config

BEAT_S = 1.0
JPEGS = "stills.jpegs"  # file of the stills, beside the arrays
YUV = {Colorspace.ITU709: "709", Colorspace.BT2020: "2020"}
LONGEST_S = 86400.0  # that a frame may be shown; what a clock claims beyond that is nonsense
DEEPEST = 64  # packets that a decoder may hold before it delivers their pictures
FASTEST = 240.0  # frames a second; a header that claims more does not stretch decode.max_hours


class DecodeConfig(Config):
    """Guards around the decoder."""

    memory_gb: float = 6.0  # address space of one decoder process
    stall_s: float = 60.0  # a decoder that delivers no frame for so long is ended
    slow_s: float = 10.0  # nor may a frame take longer on average
    max_work_h: float = 48.0  # of work on one video; a decoder that is not done by then is ended
    max_pixels: int = MAX_PIXELS  # a picture; larger videos are refused before a frame is decoded
    max_hours: float = 24.0  # of video, by its frames; a longer one is refused


class DecodeFailed(ValueError):
    """Carries the reason that the videos table shows."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def probe(path: str) -> dict[str, Any]:
    """Header facts without decoding: {"duration_s", "width", "height", "codec"}; duration is null where unknown."""
    container, stream = _open(path, _still(path))
    with container:
        duration = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
        if duration is None and container.duration:
            duration = container.duration / av.time_base
        codec = stream.codec_context
        return {"duration_s": duration, "width": codec.width, "height": codec.height, "codec": codec.name}


def decode(
    path: Path,
    folder: Path,
    config: DecodeConfig,
    plan: MeasurePlan,
    send: Callable[[dict[str, int]], None],
    images: bool = True,
) -> dict[str, Any]:
    """Decode `path` once, feed the plan's meters, save their arrays into `folder`; returns what `load_tracks` needs.

    `send` gets {"frames": n} about once a second. `images`: take pictures, as videos of one frame. Raises DecodeFailed
    with a reason.
    """
    still = _still(path)
    if still is not None and not images:
        raise DecodeFailed(f"a picture ({still.kind}), and images is false")
    container, stream = _open(path, still, config.max_pixels)
    with container:
        if still is not None:
            return _decode_still(still, container, stream, plan, folder)
        stream.codec_context.options = {"max_pixels": str(config.max_pixels), "err_detect": _checks(stream)}
        recording = _Recording(container, stream, plan, folder)
        begun = beat = time.monotonic()
        for frame, damaged in _frames(container, stream):
            recording.add(frame, damaged)
            now = time.monotonic()
            if now - beat > BEAT_S:
                beat = now
                send({"frames": recording.count})
                if recording.hours > config.max_hours:
                    raise DecodeFailed(f"too long: over {config.max_hours:g} hours (decode.max_hours)")
                if now - begun > config.stall_s + config.slow_s * recording.count:
                    raise DecodeFailed(f"too slow: a frame takes over {config.slow_s:g} s (decode.slow_s)")
        return recording.save()


def load_tracks(folder: Path, result: dict[str, Any]) -> Tracks:
    """What `decode` saved, memory-mapped."""
    meters: dict[str, dict[str, np.ndarray]] = {}
    for name, keys in result["meters"].items():
        meters[name] = {key: np.load(folder / f"{name}.{key}.npy", mmap_mode="r") for key in keys}
    stills = folder / JPEGS
    meters[STILLS][JPEG] = np.memmap(stills, np.uint8, "r") if stills.stat().st_size else np.zeros(0, np.uint8)
    frames = meters.pop("frames")
    info = VideoInfo(**result["info"])
    return Tracks(info, frames["times"], result["end_time"], frames["damaged"], {**meters, "frames": frames})


def span_pts(frames: Mapping[str, np.ndarray], span: Span, end_pts: int | None = None) -> tuple[int | None, int | None]:
    """Timestamps at which a span begins and ends, from the meter "frames", or (None, None).

    A span has them where each of its frames has one and they ascend; what the rest of the file has does not matter.
    `end_pts`: when the file's last frame ends.
    """
    pts = np.asarray(frames["pts"][span.start : span.end + 1])
    own = pts[: span.end - span.start]
    if not len(own) or (own == NONE).any() or (np.diff(own) <= 0).any():
        return None, None
    following = int(pts[-1]) if len(pts) > len(own) else end_pts
    if following is None or following <= own[-1]:  # the clock starts anew there
        following = int(own[-1]) + max(1, round(float(np.median(np.diff(own))) if len(own) > 1 else 1))
    return int(own[0]), following


def _still(path: str | Path) -> Still | None:
    try:
        return read_still(path)
    except NotVideo as error:
        raise DecodeFailed(str(error)) from error


def _open(path: str | Path, still: Still | None, max_pixels: int = MAX_PIXELS) -> tuple[InputContainer, VideoStream]:
    try:
        return open_video(path, max_pixels) if still is None else still.open(max_pixels)
    except NotVideo as error:
        raise DecodeFailed(str(error)) from error


def _decode_still(
    still: Still, container: InputContainer, stream: VideoStream, plan: MeasurePlan, folder: Path
) -> dict[str, Any]:
    recording = _Recording(container, stream, plan, folder, still)
    try:
        recording.add(still.frame(container, stream), False)
    except NotVideo as error:
        raise DecodeFailed(str(error)) from error
    return recording.save()


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Frames in presentation order with whether they are damaged.

    libav conceals errors and goes on; the signs are what it logs, frames that it marks, and packets that cannot be
    whole (media.integrity). From a sign on, every frame up to the next keyframe may hold the damage, so all of them
    count, and one at least: no clip may reach across a place where pictures are missing.
    """
    av_logging.set_level(av_logging.ERROR)
    torn = integrity_check(stream.codec_context)
    tainted_since: int | None = None
    lost = False  # something was amiss, and no picture shows it yet: it may be one that is missing
    shown = NONE  # timestamp of the picture before
    keys: deque[int] = deque(maxlen=DEEPEST)  # timestamps of the last packets that the file calls keyframes
    with av_logging.Capture() as complaints:
        packets = container.demux(stream)
        packet, after_gap = _next(packets, complaints), False
        while True:
            if packet is not None and packet.is_keyframe:
                keys.append(NONE if packet.pts is None else packet.pts)
            pictures: list[av.VideoFrame] = []
            try:
                pictures = stream.codec_context.decode(packet if packet is not None and packet.size else None)
            except FFmpegError as error:
                if not isinstance(error, EndOfFile):
                    complaints.append((av_logging.ERROR, "decoder", fault(error)))
            last = packet is None or packet.size == 0
            # What is amiss between two packets may have begun in the first and reach into the second.
            heard = len(complaints)
            following = None if last else _next(packets, complaints)
            gap = len(complaints) > heard
            broken = packet is not None and (packet.is_corrupt or bool(torn and packet.size and torn(bytes(packet))))
            if complaints or broken or after_gap:
                complaints.clear()
                at = packet.pts if packet is not None and packet.pts is not None else None
                tainted_since = at if at is not None else NONE
                lost = True
            for picture in pictures:
                if tainted_since is not None and picture.pts is not None and picture.pts < min(shown, tainted_since):
                    tainted_since = NONE  # the file's clock starts anew: any later keyframe is after the damage
                shown = shown if picture.pts is None else picture.pts
                if picture.is_corrupt and tainted_since is None:
                    tainted_since = picture.pts if picture.pts is not None else NONE
                elif tainted_since is not None and picture.key_frame and not picture.is_corrupt:
                    after = picture.pts is None or picture.pts > tainted_since
                    # A decoder that has lost its way takes other pictures for keyframes.
                    sure = picture.pts is None or picture.pts in keys or NONE in keys
                    tainted_since = None if after and sure else tainted_since
                yield picture, lost or tainted_since is not None
                lost = False
            if last:
                break
            packet, after_gap = following, gap


def _checks(stream: VideoStream) -> str:
    """What the decoder looks at besides (libav's err_detect)."""
    # In MPEG-1 and 2 `bitstream` takes the zeros for damage by which an encoder keeps to a constant rate.
    stuffed = stream.codec_context.name in ("mpeg1video", "mpeg2video")
    return "crccheck+buffer" if stuffed else "crccheck+bitstream+buffer"


def _next(packets: Iterator[av.Packet], complaints: list[tuple[int, str, str]]) -> av.Packet | None:
    """None where the file ends, or cannot be read on."""
    try:
        return next(packets, None)
    except FFmpegError as error:
        complaints.append((av_logging.ERROR, "demuxer", fault(error)))
        return None


class _Recording:
    """Per-frame facts and meters of one video; what it leaves lies in `folder`."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        plan: MeasurePlan,
        folder: Path,
        still: Still | None = None,
    ):
        self._container, self._stream, self._plan, self._still = container, stream, plan, still
        self._folder, self._jpegs = folder, (folder / JPEGS).open("wb")
        self._info: VideoInfo | None = None
        self._meters: dict[str, Meter] = {}
        self._pts: list[int] = []  # NONE where a frame has no timestamp
        self._ticks: list[float] = []  # the same as a clock that only goes forward, from 0
        self._hashes: list[int] = []
        self._damaged: list[bool] = []
        self._bidirectional: list[bool] = []
        self._interlaced = 0
        self._last_duration = 0
        self._size = (0, 0)
        self._format = ""
        self._time_base = Fraction(stream.time_base or Fraction(1, 1000))
        self._fps = float(stream.average_rate or stream.guessed_rate or 25)
        self._step = 1 / (self._fps * float(self._time_base))  # in ticks

    @property
    def count(self) -> int:
        return len(self._hashes)

    @property
    def hours(self) -> float:
        return self.count / min(max(self._fps, 1.0), FASTEST) / 3600

    def add(self, picture: av.VideoFrame, damaged: bool) -> None:
        shown = picture if self._still is None else self._still.plain(picture)
        if self._info is None:
            self._info = _video_info(self._container, self._stream, picture, shown, self._fps, self._still)
            self._size, self._format = (picture.width, picture.height), picture.format.name
            self._meters = {**self._plan.meters(self._info), STILLS: StillsMeter(self._jpegs)}
        changed = (picture.width, picture.height) != self._size or picture.format.name != self._format
        self._tick(NONE if picture.pts is None or self._still is not None else picture.pts)
        seconds = float(self._ticks[-1] * self._time_base)
        planes = picture_planes(shown, self._size if changed else None)
        frame = Frame(self.count, seconds, planes, self._info, bool(picture.interlaced_frame))
        for meter in self._meters.values():
            meter.see(frame)
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
        length = picture.duration or 0
        self._last_duration = length if 0 < length * self._time_base <= LONGEST_S else 0

    def _tick(self, pts: int) -> None:
        """Where timestamps are missing, go back or leap, the clock takes a step of the frame rate."""
        now = 0.0
        if self._ticks:
            known = pts != NONE and NONE != self._pts[-1] < pts <= self._pts[-1] + LONGEST_S / self._time_base
            now = self._ticks[-1] + (pts - self._pts[-1] if known else self._step)
        self._ticks.append(now)
        self._pts.append(pts)

    def save(self) -> dict[str, Any]:
        self._jpegs.close()
        if self._info is None:
            raise DecodeFailed("damaged: no frame could be decoded")
        times = np.array(self._ticks, np.float64) * float(self._time_base)
        mean = times[-1] / (len(times) - 1) if len(times) > 1 else 1 / self._fps
        last = 0.0 if self._still is not None else float(self._last_duration * self._time_base) or mean
        end_pts = None
        if self._pts[-1] != NONE:
            end_pts = self._pts[-1] + max(1, round(last / float(self._time_base)))
        saved = {name: meter.finish() for name, meter in self._meters.items()}
        saved["frames"] = {
            "times": times,
            "hashes": np.array(self._hashes, np.uint64),
            "damaged": np.array(self._damaged, bool),
            "pts": np.array(self._pts, np.int64),
        }
        for name, arrays in saved.items():
            for key, array in arrays.items():
                with (self._folder / f"{name}.{key}.npy").open("wb") as file:
                    # numpy writes into true files by C, and its error then does not tell a full disk.
                    writer: Any = SimpleNamespace(write=file.write)
                    np.save(writer, array)
        info = asdict(self._info) | {"interlaced": self._interlaced * 2 > self.count}
        return {
            "info": info,
            "meters": {name: list(arrays) for name, arrays in saved.items()},
            "end_time": float(times[-1]) + last,
            "end_pts": end_pts,
            "frames_promised": self._stream.frames or None,
        }


def _video_info(
    container: InputContainer,
    stream: VideoStream,
    picture: av.VideoFrame,
    shown: av.VideoFrame,
    fps: float,
    still: Still | None,
) -> VideoInfo:
    """`picture` as decoded, `shown` as meters see it."""
    transfer = {16: "pq", 18: "hlg"}.get(int(picture.color_trc or 0), "")
    as_coded = shown.format.name.startswith("yuv")  # else picture_planes converts it, to BT.601 of the same range
    # libav reports the display matrix counter-clockwise, and of one that turns nothing at all an absurd number.
    turn = -picture.rotation if abs(picture.rotation) <= 360 else 0
    rotation = round(turn / 90) * 90 % 360 if still is None else still.rotation
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    return VideoInfo(
        codec=stream.codec_context.name,
        container=container.format.name,
        width=picture.width,
        height=picture.height,
        fps=fps if still is None else 0.0,
        rotation=rotation,
        pixel_aspect=aspect if still is None else 1.0,  # a picture's says how it was meant to be printed
        pix_fmt=picture.format.name,
        bits=picture.format.components[0].bits,
        full_range=int(shown.color_range or 0) == 2 or shown.format.name.startswith("yuvj"),
        interlaced=bool(picture.interlaced_frame),
        hdr=transfer,
        matrix=YUV.get(matrix_of(shown), "601") if as_coded else "601",
    )
