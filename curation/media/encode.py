"""Encoding the clips whose packets cannot be copied: one decode of the file, frames chosen by their index.

Each frame that begins or ends a clip must have the scan's hash: what is encoded is what was scanned.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.audio.stream import AudioStream
from av.filter import Graph
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from curation.container import NotVideo, frame_hash
from curation.media.audio import AudioDecoder, AudioTrack, open_audio
from curation.media.guard import MEDIA_ERRORS, Guard, fault
from curation.media.mp4 import trim_edits
from curation.media.packets import linear_frames
from curation.media.pixels import MATRICES, matrix_of
from curation.media.remux import RECENT, movie_options
from curation.media.verify import frames_hash

if TYPE_CHECKING:
    from curation.cut import CutConfig, CutRequest

UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED


class CannotEncode(ValueError):
    """Why a clip could not be encoded."""


def encode_clips(
    source: Path, requests: Sequence[CutRequest], config: CutConfig, guard: Guard | None = None
) -> list[str | None]:
    """Encode the spans to their targets. Returns, for each, why it failed (no file is left); None where it is there."""
    guard = guard or Guard()
    try:
        container, video = guard.open(source)
    except NotVideo as error:
        return [str(error)] * len(requests)
    with container:
        sound = container.streams.best("audio") if config.audio else None
        wanted = _Wanted(video, sound if isinstance(sound, AudioStream) else None, requests, config, guard)
        packets = guard.watch(container.demux([s for s in (video, wanted.sound) if s is not None]))
        for index, frame in enumerate(guard.watch(linear_frames(video, packets, wanted.hear))):
            if not wanted.add(index, frame):
                break
        return wanted.finish()


class _Wanted:
    """The clips of a file while its frames go by."""

    def __init__(
        self,
        video: VideoStream,
        sound: AudioStream | None,
        requests: Sequence[CutRequest],
        config: CutConfig,
        guard: Guard,
    ):
        self.video, self.sound, self.requests, self.config, self.guard = video, sound, requests, config, guard
        self.reasons: list[str | None] = ["the file ended before the clip"] * len(requests)
        self.waiting = sorted(range(len(requests)), key=lambda clip: requests[clip].span.start)
        self.open: dict[int, ClipEncoder] = {}
        self.decode = AudioDecoder()
        self.recent: deque[av.Packet] = deque(maxlen=RECENT)

    def hear(self, packet: av.Packet) -> None:
        if packet.size:
            self.recent.append(packet)
            for clip in list(self.open):
                self._guard(clip, lambda encoder: encoder.hear(packet))

    def add(self, index: int, frame: av.VideoFrame) -> bool:
        """Take the next frame of the file; False when no clip needs any more."""
        pts = frame.pts
        while self.waiting and self.requests[self.waiting[0]].span.start <= index:
            clip = self.waiting.pop(0)
            self._start(clip, frame)
        for clip in list(self.open):
            request = self.requests[clip]
            if index < request.span.end:
                self._guard(clip, lambda encoder: encoder.add(frame, pts))
            late = index + 1 - request.span.end
            encoder = self.open.get(clip)
            if encoder is not None and late >= 0 and (not encoder.waits_for_sound or late >= RECENT):
                self._close(clip)
        return bool(self.waiting or self.open)

    def finish(self) -> list[str | None]:
        for clip in list(self.open):
            span = self.requests[clip].span
            if self.open[clip].count == span.end - span.start:
                self._close(clip)
            else:
                self.open.pop(clip).abort()
        return self.reasons

    def _start(self, clip: int, frame: av.VideoFrame) -> None:
        try:
            facts = (self.requests[clip], self.config, self.video, frame, self.sound, self.decode, self.guard)
            encoder = ClipEncoder(*facts)
        except MEDIA_ERRORS as error:
            self.requests[clip].target.unlink(missing_ok=True)
            self.reasons[clip] = f"{self.config.codec} cannot encode it ({fault(error)})"
            return
        self.open[clip] = encoder
        for packet in self.recent:
            self._guard(clip, lambda encoder, p=packet: encoder.hear(p))

    def _close(self, clip: int) -> None:
        self.reasons[clip] = None
        self._guard(clip, lambda encoder: encoder.close())
        self.open.pop(clip, None)

    def _guard(self, clip: int, action) -> None:
        if clip not in self.open:
            return
        try:
            action(self.open[clip])
        except MEDIA_ERRORS as error:
            self.open.pop(clip).abort()
            failed = isinstance(error, CannotEncode)
            self.reasons[clip] = str(error) if failed else f"{self.config.codec} cannot encode it ({fault(error)})"


class ClipEncoder:
    """One clip on its way into its file."""

    def __init__(
        self,
        request: CutRequest,
        config: CutConfig,
        video: VideoStream,
        frame: av.VideoFrame,
        sound: AudioStream | None,
        decode: AudioDecoder,
        guard: Guard,
    ):
        self.request, self.config, self.guard, self.begun = request, config, guard, time.monotonic()
        self.count, self.time, self.hashes = 0, -1, []
        rate = video.average_rate or video.guessed_rate or Fraction(25)
        self.timed = request.start_pts is not None and request.end_pts is not None and video.time_base is not None
        self.time_base: Fraction = video.time_base if self.timed else 1 / Fraction(rate)  # type: ignore[assignment]
        self.picture = PictureFormat(frame, config.codec)
        self.output = av.open(str(request.target), "w", format="mp4", options=movie_options(self.time_base))
        self.sound: AudioTrack | None = None
        try:
            self.stream = self._open_video(video, frame, rate)
            if sound is not None and self.timed:
                start = (request.start_pts or 0) * self.time_base
                self.sound = open_audio(self.output, sound, start, start + self._length() * self.time_base, decode)
            self.output.start_encoding()
        except BaseException:
            self.abort()
            raise

    def _open_video(self, video: VideoStream, frame: av.VideoFrame, rate: Fraction) -> VideoStream:
        options = encoder_options(self.config, frame.interlaced_frame)
        stream = self.output.add_stream(self.config.codec, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height = self.picture.size
        context.pix_fmt = self.picture.name
        context.time_base = self.time_base
        context.gop_size = self.config.gop
        context.thread_count = 1  # equal frames, equal bytes
        context.color_range, context.colorspace = self.picture.range, self.picture.matrix
        context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
        if video.sample_aspect_ratio:
            context.sample_aspect_ratio = video.sample_aspect_ratio
        matrix = _display_matrix(frame)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        return stream

    @property
    def waits_for_sound(self) -> bool:
        return self.sound is not None and not self.sound.ended

    def _length(self) -> int:
        if self.timed:
            return self.request.end_pts - self.request.start_pts  # type: ignore[operator]
        return self.request.span.end - self.request.span.start

    def hear(self, packet: av.Packet) -> None:
        if self.sound is not None:
            self.sound.add(packet)

    def add(self, frame: av.VideoFrame, pts: int | None) -> None:
        """The clip's next frame; `pts` is its time in the source (the frame's own is overwritten)."""
        last = self.request.span.end - self.request.span.start - 1
        if self.count in (0, last) or self.config.verify == "full":
            self.hashes.append(frame_hash(frame))
            expected = {0: self.request.first_hash, last: self.request.last_hash}.get(self.count, self.hashes[-1])
            if self.hashes[-1] != expected:
                number = self.request.span.start + self.count
                raise CannotEncode(f"the source's frame {number} is not the one that was scanned")
        place = self.count if pts is None or not self.timed else pts - (self.request.start_pts or 0)
        self.time = max(self.time + 1, place)  # encoders want ascending times
        picture = self.picture.convert(frame)
        picture.pts, picture.time_base = self.time, self.time_base
        picture.pict_type = 0  # else the encoder repeats the source's choice of key and B frames
        self.output.mux(self.stream.encode(picture))
        self.count += 1

    def close(self) -> None:
        if self.config.verify == "full" and frames_hash(self.hashes) != self.request.frames_hash:
            raise CannotEncode("the source's frames are not those that were scanned")
        self.guard.patience(time.monotonic() - self.begun)  # the pictures that it still holds cost no more than all
        self.output.mux(self.stream.encode(None))
        if self.sound is not None:
            self.sound.finish()
        self.guard.rewrites(self.request.target)  # the muxer moves everything to put the index in front
        self.output.close()
        trim_edits(self.request.target, max(self._length(), self.time + 1) * self.time_base)
        with av.open(str(self.request.target)) as written:
            shown = sum(1 for p in self.guard.watch(written.demux(video=0)) if p.size and not p.is_discard)
        if shown != self.count:
            raise CannotEncode(f"the encoded clip shows {shown} frames for {self.count}")

    def abort(self) -> None:
        with contextlib.suppress(*MEDIA_ERRORS):
            self.output.close()
        self.request.target.unlink(missing_ok=True)


def _display_matrix(frame: av.VideoFrame) -> list[int] | None:
    """How a player has to turn and mirror the picture, libav's 9 numbers."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know all kinds of side data, such as the EXIF of cameras' MJPEG: no mirror then
        angle = math.radians(frame.rotation)
        cos, sin = round(math.cos(angle) * 65536), round(math.sin(angle) * 65536)
        return [cos, -sin, 0, sin, cos, 0, 0, 0, 1 << 30] if frame.rotation else None
    return None if matrix is None else np.frombuffer(matrix, np.int32, 9).tolist()


def encoder_options(config: CutConfig, interlaced: bool) -> dict[str, str]:
    quality = str(config.quality)
    if config.codec.endswith("_nvenc"):
        return {"preset": config.preset or "p4", "rc": "vbr", "cq": quality, "b": "0"}
    options = {"preset": config.preset or "veryfast", "crf": quality}
    if config.codec == "libx265":
        return options | {"x265-params": "pools=none:frame-threads=1:log-level=error"}
    options |= {"x264-params": "asm=AVX2"} if _has_avx512() else {}
    return options | ({"flags": "+ilme+ildct"} if interlaced else {})


@cache
def _has_avx512() -> bool:
    """x264's AVX-512 code is not repeatable: the same frames give other bytes, by what lay in memory before."""
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


class PictureFormat:
    """How frames are handed to the encoder: 4:2:0, 10 bits where source and encoder have them, even size."""

    def __init__(self, frame: av.VideoFrame, codec: str):
        bits = max(component.bits for component in frame.format.components)
        deep = {"libx264": "yuv420p10le", "libx265": "yuv420p10le", "hevc_nvenc": "p010le"}.get(codec)
        self.name = deep if bits > 8 and deep else "yuv420p"
        self.size = (max(2, frame.width & ~1), max(2, frame.height & ~1))
        rgb = frame.format.is_rgb or "pal8" in frame.format.name
        full = frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG
        self.range = int(ColorRange.JPEG if full and not rgb else ColorRange.MPEG)
        self.source_range = int(ColorRange.JPEG) if rgb else self.range
        # What is not tagged is tagged as it is read (pixels.convert), so that every reader sees the same colours.
        self.matrix = 1 if rgb else int(matrix_of(frame)) if frame.colorspace == UNSPECIFIED else frame.colorspace
        self.source_size = (frame.width, frame.height, frame.format.name)
        self.graph: Graph | None = None
        if self.size != (frame.width, frame.height):  # 4:2:0 encoders want even sizes: the odd row or column goes
            graph = Graph()
            buffer = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
            )
            crop = graph.add("crop", f"{self.size[0]}:{self.size[1]}:0:0")
            graph.link_nodes(buffer, crop, graph.add("buffersink")).configure()
            self.graph = graph

    def convert(self, frame: av.VideoFrame) -> av.VideoFrame:
        if (frame.width, frame.height, frame.format.name) != self.source_size:
            raise CannotEncode("the picture changes its size or format inside the clip")
        if self.graph is not None:
            self.graph.vpush(frame)
            frame = self.graph.vpull()
        if frame.format.name == self.name:
            return frame
        matrix = MATRICES.get(self.matrix)
        return frame.reformat(
            format=self.name,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=self.source_range,
            dst_color_range=self.range,
            interpolation="BICUBIC",
            threads=1,
        )
