"""Is a copied clip what it should be? It is read back from the file as any reader would.

`ends` proves: the file shows as many pictures as the span has frames, and its first and its last frame, decoded from
the file, have the scan's hashes. The pictures between are the source's packets, in order and without a gap, so a fault
there would have to leave the last frame right. Where a picture may be more or less than a packet (fields, hidden
frames), the container's times are a guess (AVI), the decoder's set-up changes on the way, or the file does not say how
far the decoder has to reorder, `full` is used.

`full` proves: every decoded frame has the scan's hash, and there are no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import av
import numpy as np
import xxhash
from av.video.stream import VideoStream

from curation.container import OPEN_OPTIONS, frame_hash
from curation.media.guard import MEDIA_ERRORS, Guard, fault
from curation.media.packets import PacketTable, decode_packets, packet_table, reorder_depth
from curation.media.remux import Run

if TYPE_CHECKING:
    from curation.cut import CutRequest

# Decoders that obey skip_frame while they run (dav1d reads it once).
SKIPPABLE = ("h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video")
# Opening a file decodes a picture to learn its format, as expensive as the whole copy; the check decodes it anyway.
PROBE_OPTIONS = {**OPEN_OPTIONS, "skip_frame": "all"}


def frames_hash(hashes: Sequence[int] | np.ndarray) -> str:
    """The hash over all frames' hashes that the clips table holds."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(hashes, dtype="<u8").tobytes())


def verify_copy(request: CutRequest, run: Run, full: bool, guard: Guard | None = None) -> tuple[str | None, str]:
    """Check a written copy: (reason why it is not what it should be or None, what was checked).

    Never raises for what the file holds.
    """
    guard = guard or Guard()
    try:
        with av.open(str(request.target), options=PROBE_OPTIONS) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"max_pixels": str(guard.max_pixels)}
            packets = [p for p in guard.watch(container.demux(stream)) if p.size]
            table = packet_table(packets)
            # has_b_frames as a number; versions of PyAV without it get the full check
            depth = getattr(stream.codec_context, "reorder_depth", -1)
            one_to_one = int(table.shown.sum()) == request.span.end - request.span.start
            if full or not one_to_one or not run.plain or depth < reorder_depth(run.pts):
                return _verify_all(stream, packets, request, guard), "full"
            return _verify_ends(stream, packets, table, request, guard), "ends"
    except MEDIA_ERRORS as error:
        return f"the copy cannot be read ({fault(error)})", ""


def _verify_ends(
    stream: VideoStream, packets: list[av.Packet], table: PacketTable, request: CutRequest, guard: Guard
) -> str | None:
    shown = np.flatnonzero(table.shown)
    first, last = (int(shown[pick(table.pts[shown])]) for pick in (np.argmin, np.argmax))
    wanted = {first: request.first_hash} | {last: request.last_hash}
    hashes: dict[int, int] = {}

    def take(number: int, frame: av.VideoFrame) -> None:
        hashes[number] = frame_hash(frame)

    # Frames that no other needs may be skipped; some streams name the wrong ones, so a difference is looked at again.
    for skip in ("NONREF", "DEFAULT") if stream.codec_context.name in SKIPPABLE else ("DEFAULT",):
        hashes.clear()
        decode_packets(stream, packets, table, wanted, take, skip, guard.beat)
        if hashes == wanted:
            return None
    return f"the copy's {'last' if hashes.get(first) == request.first_hash else 'first'} frame differs"


def _verify_all(stream: VideoStream, packets: list[av.Packet], request: CutRequest, guard: Guard) -> str | None:
    hashes = [frame_hash(frame) for packet in guard.watch([*packets, None]) for frame in stream.decode(packet)]
    wanted = request.span.end - request.span.start
    if len(hashes) != wanted:
        return f"the copy shows {len(hashes)} frames for {wanted}"
    if hashes[0] != request.first_hash:
        return "the copy's first frame differs"
    if hashes[-1] != request.last_hash:
        return "the copy's last frame differs"
    if frames_hash(hashes) != request.frames_hash:
        return "frames inside the copy differ"
    return None
