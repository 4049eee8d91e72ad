"""Lossless cuts: the source's own packets in an mp4, with what must not be seen hidden by an edit list.

A clip begins at the last keyframe from which its first frame can be decoded and ends with the last packet, in decode
order, that one of its frames needs. Time 0 is the clip's first frame: what is decoded before it has negative time, and
the edit ends with the clip's last frame (see curation.media.mp4).
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.audio.stream import AudioStream
from av.error import FFmpegError
from av.stream import Discard
from av.video.stream import VideoStream

from curation.media.audio import AudioDecoder, AudioTrack, open_audio
from curation.media.guard import MEDIA_ERRORS, Guard, fault
from curation.media.mp4 import trim_edits
from curation.media.packets import NONE, PacketTable, decode_times, packet_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from curation.cut import CutRequest

TIMED = ("mov", "matroska", "mpegts", "flv", "nut")  # demuxers whose containers store when a picture is shown
RECENT = 1000  # packets by which sound and pictures of the same time may lie apart
# Equal packets give equal bytes: no date, no library version.
MUX_OPTIONS = {"fflags": "+bitexact", "movflags": "+faststart", "use_editlist": "1"}


class CannotCopy(ValueError):
    """Why the packets of a clip cannot be copied; the message becomes its `cut_reason`."""


@dataclass(frozen=True)
class Run:
    """Packets `[first, last]` in decode order that make one clip."""

    first: int
    last: int
    pts: np.ndarray  # [last - first + 1] int64, from the clip's first frame, in the stream's time base
    dts: np.ndarray
    plain: bool  # its times are the container's own, and no packet changes the decoder's set-up
    length: int  # from the first frame's start to the last frame's end, in the stream's time base
    time_base: Fraction


@dataclass(frozen=True)
class Survey:
    """A file's packets, without their bytes."""

    table: PacketTable
    time_base: Fraction
    timed: bool  # the container stores when each picture is shown; else libav guesses from the order of decoding


def survey(source: Path, until: int | None = None, frames: int = 0, guard: Guard | None = None) -> Survey:
    """Read a file's packet headers, to its end or to `until`, but not less than `frames`; nothing is decoded.

    `until` is a timestamp. Raises NotVideo, CannotCopy.
    """
    guard = guard or Guard()
    container, stream = guard.open(source)
    with container:
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        if stream.time_base is None:
            raise CannotCopy("the source has no time base")
        try:
            timed = any(name in TIMED for name in container.format.name.split(","))
            packets = guard.watch(_before(container.demux(stream), until, frames))
            return Survey(packet_table(packets), stream.time_base, timed)
        except FFmpegError as error:
            raise CannotCopy(f"the packets cannot be read ({fault(error)})") from error


def _before(packets: Iterable[av.Packet], until: int | None, frames: int) -> Iterator[av.Packet]:
    """Packets that may be shown before `until`; a clock that jumps does not end them."""
    late = 0
    for index, packet in enumerate(packets):
        late = late + 1 if until is not None and packet.dts is not None and packet.dts >= until else 0
        if late > RECENT and index > frames + RECENT:
            return
        yield packet


def plan(source: Survey, request: CutRequest) -> Run:
    """Choose the packets of a clip. Raises CannotCopy with the reason."""
    table = source.table
    if request.start_pts is None or request.end_pts is None:
        raise CannotCopy("its frames' timestamps are missing or do not ascend")
    inside = (table.pts >= request.start_pts) & (table.pts < request.end_pts) & (table.pts != NONE) & table.shown
    index = _one_time(table, np.flatnonzero(inside), request.span.start)
    if not len(index):
        raise CannotCopy("no packet has the timestamps of its frames")
    start = int(index[np.argmin(table.pts[index])])
    if table.pts[start] != request.start_pts:
        raise CannotCopy("no packet has the timestamp of the first frame")
    first, last = table.random_access(start), int(index[-1])
    if first is None:
        raise CannotCopy("there is no keyframe before the first frame")
    run = slice(first, last + 1)
    pts = table.pts[run]
    if (pts == NONE).any() or len(np.unique(pts)) != len(pts):
        raise CannotCopy("some of its packets have no timestamp of their own")
    dts = table.dts[run]
    if (dts == NONE).any() or (np.diff(dts) <= 0).any() or (dts > pts).any():
        dts = decode_times(pts)
    zero = request.start_pts
    length = request.end_pts - request.start_pts
    plain = source.timed and bool(table.plain[run].all())
    return Run(first, last, pts - zero, dts - zero, plain, length, source.time_base)


def _one_time(table: PacketTable, index: np.ndarray, frame: int) -> np.ndarray:
    """Of packets with a span's timestamps, those near decoded frame `frame`: a clock that starts anew repeats them."""
    known = np.where(table.dts != NONE, table.dts, table.pts)
    clock = np.cumsum(np.diff(known, prepend=known[:1]) < 0)[index]
    if (table.dts == NONE).any() or not len(index) or clock[0] == clock[-1]:
        return index
    place = np.cumsum(table.shown)[index]  # of each packet's frame in the file, but for reordering
    return index[clock == clock[np.argmin(np.abs(place - frame))]]


def movie_options(time_base: Fraction) -> dict[str, str]:
    """Muxer options under which the stream's times are whole ticks of the track and of the movie's edit list."""
    scale = time_base.denominator * max(1, -(-90000 // time_base.denominator))
    return {**MUX_OPTIONS, "movie_timescale": str(scale), "video_track_timescale": str(scale)}


class Remuxer:
    """Writes one clip's packets to a file, in the order in which they come from the demuxer."""

    def __init__(
        self,
        run: Run,
        request: CutRequest,
        video: VideoStream,
        audio: AudioStream | None,
        decode: AudioDecoder,
        guard: Guard,
    ):
        self.run, self.target, self.guard = run, request.target, guard
        self.output = av.open(str(self.target), "w", format="mp4", options=movie_options(run.time_base))
        try:
            self.video = self.output.add_stream_from_template(video, opaque=True)
        except ValueError as error:
            self.output.close()
            self.target.unlink(missing_ok=True)
            raise CannotCopy(f"mp4 cannot hold {video.codec_context.name}") from error
        self.video.time_base = run.time_base
        if video.sample_aspect_ratio:  # the container's, which the codec parameters need not have
            self.video.codec_context.sample_aspect_ratio = video.sample_aspect_ratio
        self.audio: AudioTrack | None = None
        if audio is not None:
            start = (request.start_pts or 0) * run.time_base
            self.audio = open_audio(self.output, audio, start, start + run.length * run.time_base, decode)

    def add_video(self, index: int, packet: av.Packet) -> None:
        number = index - self.run.first
        copy = av.Packet(packet)  # type: ignore[arg-type]  # shares the bytes; the clips may overlap
        copy.stream = self.video
        copy.time_base = self.run.time_base
        copy.pts, copy.dts = int(self.run.pts[number]), int(self.run.dts[number])
        copy.duration = packet.duration or 0
        copy.is_keyframe = packet.is_keyframe
        self.output.mux_one(copy)

    def close(self) -> None:
        if self.audio is not None:
            self.audio.finish()
        self.guard.rewrites(self.target)  # the muxer moves everything to put the index in front
        self.output.close()
        trim_edits(self.target, self.run.length * self.run.time_base)

    def abort(self) -> None:
        with contextlib.suppress(FFmpegError, OSError):
            self.output.close()
        self.target.unlink(missing_ok=True)


def copy_clips(
    source: Path, requests: Sequence[CutRequest], runs: Sequence[Run], audio: bool, guard: Guard | None = None
) -> list[str | None]:
    """Write all runs in one pass over the source. Returns, for each, why it failed; None where the file is there.

    A file that failed is removed.
    """
    guard = guard or Guard()
    container, video = guard.open(source)
    with container:
        best = container.streams.best("audio") if audio else None
        sound = best if isinstance(best, AudioStream) else None
        for other in container.streams:
            if other is not video and other is not sound:
                other.discard = Discard.all
        packets = container.demux([s for s in (video, sound) if s is not None])  # type: ignore[arg-type]
        return _Pass(video, sound, requests, runs, guard).through(guard.watch(packets))


class _Pass:
    """One pass of a file's packets past the clips that want them."""

    def __init__(
        self,
        video: VideoStream,
        sound: AudioStream | None,
        requests: Sequence[CutRequest],
        runs: Sequence[Run],
        guard: Guard,
    ):
        self.video, self.sound, self.requests, self.runs, self.guard = video, sound, requests, runs, guard
        self.reasons: list[str | None] = ["the file ended before the clip"] * len(runs)
        self.open: dict[int, Remuxer] = {}
        self.decode = AudioDecoder()
        self.recent: deque[av.Packet] = deque(maxlen=RECENT)  # sound may be stored before the pictures it goes with
        self.waiting = sorted(range(len(runs)), key=lambda clip: runs[clip].first)

    def through(self, packets: Iterable[av.Packet]) -> list[str | None]:
        index = 0
        try:
            for packet in packets:
                if not packet.size:
                    continue
                if packet.stream_index != self.video.index:
                    self._sound(packet)
                    continue
                self._start(index)
                for clip in [c for c in self.open if index <= self.runs[c].last]:
                    self._guard(clip, lambda mux, p=packet, i=index: mux.add_video(i, p))
                self._end(index)
                index += 1
                if not self.waiting and not self.open:
                    break
        except FFmpegError as error:
            for clip in {*self.open, *self.waiting}:
                self.reasons[clip] = f"the packets cannot be read ({fault(error)})"
        for clip in list(self.open):
            if index > self.runs[clip].last:
                self._finish(clip)
            else:
                self.open.pop(clip).abort()
        return self.reasons

    def _start(self, index: int) -> None:
        while self.waiting and self.runs[self.waiting[0]].first <= index:
            clip = self.waiting.pop(0)
            request, run = self.requests[clip], self.runs[clip]
            try:
                self.open[clip] = Remuxer(run, request, self.video, self.sound, self.decode, self.guard)
                for packet in self.recent:
                    self._guard(clip, lambda mux, p=packet: mux.audio.add(p) if mux.audio else None)
            except MEDIA_ERRORS as error:
                self.reasons[clip] = fault(error)

    def _sound(self, packet: av.Packet) -> None:
        self.recent.append(packet)
        for clip in list(self.open):
            self._guard(clip, lambda mux: mux.audio.add(packet) if mux.audio else None)

    def _end(self, index: int) -> None:
        for clip in list(self.open):
            audio = self.open[clip].audio
            late = index - self.runs[clip].last
            # ... or behind them: a clip with sound stays open until its end has come by, or seems never to come.
            if late >= 0 and (audio is None or audio.ended or late >= RECENT):
                self._finish(clip)

    def _finish(self, clip: int) -> None:
        self.reasons[clip] = None
        self._guard(clip, lambda mux: mux.close())
        self.open.pop(clip, None)

    def _guard(self, clip: int, action) -> None:
        try:
            action(self.open[clip])
        except MEDIA_ERRORS as error:
            self.open.pop(clip).abort()
            self.reasons[clip] = f"the packets do not fit into mp4 ({fault(error)})"
