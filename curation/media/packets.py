"""What a demuxer says of the packets of a video stream, and what follows for decoding them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream

NONE = np.iinfo(np.int64).min  # a timestamp that is not there


@dataclass(frozen=True)
class PacketTable:
    """What the demuxer says of every packet of the video stream, in decode order; arrays are [packets]."""

    pts: np.ndarray  # int64, NONE where missing
    dts: np.ndarray
    duration: np.ndarray
    key: np.ndarray  # bool
    shown: np.ndarray  # bool; False for packets that the source's own edit list hides
    plain: np.ndarray  # bool; False where the packet changes the decoder's set-up

    def random_access(self, packet: int) -> int | None:
        """The packet from which to decode so that `packet` comes out right, None where there is none.

        A keyframe shown later than the frame does not do: with an open GOP the pictures between them in decode order
        need the GOP before.
        """
        keys = np.flatnonzero(self.key[: packet + 1] & (self.pts[: packet + 1] <= self.pts[packet]))
        return int(keys[-1]) if len(keys) else None


def packet_table(packets: Iterable[av.Packet]) -> PacketTable:
    rows = [
        (
            NONE if p.pts is None else p.pts,
            NONE if p.dts is None else p.dts,
            p.duration or 0,
            p.is_keyframe,
            not p.is_discard,
            not p.has_sidedata("new_extradata"),
        )
        for p in packets
        if p.size
    ]
    columns = np.array(rows, np.int64).reshape(-1, 6).T
    return PacketTable(*columns[:3], *(column.astype(bool) for column in columns[3:]))


def reorder_depth(pts: np.ndarray) -> int:
    """Most packets that must be decoded before the one that is shown first among those not yet shown."""
    order = np.argsort(np.argsort(pts, kind="stable"), kind="stable")
    return int(np.maximum(np.arange(len(pts)) - order, 0).max(initial=0))


def decode_times(pts: np.ndarray) -> np.ndarray:
    """Ascending decode timestamps, never later than `pts`: mp4 needs them, some containers have none."""
    delay = reorder_depth(pts)
    ordered = np.sort(pts)
    step = max(1, int(np.diff(ordered).min(initial=1))) if len(ordered) > 1 else 1
    early = ordered[0] - step * np.arange(delay, 0, -1)
    return np.concatenate([early, ordered])[: len(pts)]


def decode_packets(
    stream: VideoStream,
    packets: Sequence[av.Packet],
    table: PacketTable,
    wanted: Iterable[int],
    take: Callable[[int, av.VideoFrame], None],
    skip: str = "DEFAULT",
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Decode as few packets as the frames of the packets `wanted` need; each goes to `take` with its packet's number.

    Frames are told apart by their timestamps. `skip`: what the decoder may leave out of the frames not wanted. `beat`
    is called for every packet.
    """
    context = stream.codec_context
    by_time = {int(table.pts[number]): number for number in wanted}

    def feed(packet: av.Packet | None) -> None:
        for frame in context.decode(packet):  # type: ignore[arg-type]
            number = by_time.get(frame.pts) if frame.pts is not None else None
            if number is not None:
                take(number, frame)

    context.flush_buffers()
    position = 0
    for number in sorted(by_time.values()):
        start = table.random_access(number)
        if start is not None and start > position:
            feed(None)
            context.flush_buffers()
            position = start
        while position <= number:
            context.skip_frame = "DEFAULT" if int(table.pts[position]) in by_time else skip  # type: ignore[assignment]
            feed(packets[position])
            beat()
            position += 1
    context.skip_frame = "DEFAULT"
    feed(None)


def linear_frames(
    stream: VideoStream, packets: Iterable[av.Packet], other: Callable[[av.Packet], None] | None = None
) -> Iterator[av.VideoFrame]:
    """All frames that a file's decoder gives, in order, as the scan counts them; damaged packets are passed over.

    `other` gets the packets of other streams as they come by.
    """
    with contextlib.suppress(FFmpegError):  # a broken container ends there
        for packet in packets:
            if packet.stream_index != stream.index:
                if other is not None:
                    other(packet)
                continue
            if not packet.size:
                break
            with contextlib.suppress(FFmpegError):
                yield from stream.codec_context.decode(packet)  # type: ignore[arg-type]
    with contextlib.suppress(FFmpegError):
        yield from stream.codec_context.decode(None)
