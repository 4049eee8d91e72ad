"""Damage that shows in a packet's bytes though no decoder complains: zeros where coded video cannot have them.

A download that never came, a full disk, a card that was pulled out leave stretches of zeros, which many decoders read
as pictures without a word. In the MPEG family no such run may occur inside of what is coded, so that start codes can be
found; in VP8, VP9 and AV1, which are coded arithmetically, it is too unlikely to happen.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from av.video.codeccontext import VideoCodecContext

# Each run of zeros is looked at once, however long (hostile files have long ones).
# Inside a NAL unit zeros are escaped (H.264 7.4.1, HEVC 7.4.2); between units any number may stand before a start code.
FORBIDDEN = re.compile(rb"\x00\x00[\x00-\x02]")
FORBIDDEN_BETWEEN_STARTS = re.compile(rb"(?<!\x00)\x00\x00(?:\x02|\x00++[^\x00\x01])")
# MPEG-1, 2 and 4: zeros only as stuffing before a start code or at the end.
UNSTARTED = re.compile(rb"(?<!\x00)\x00{16,}+[^\x00\x01]")
CARELESS = 3  # zeros that muxers leave at the end of a unit, of the start code that followed
BLANK = bytes(32)  # in what is arithmetically coded: one in 2^256

Torn = Callable[[bytes], bool]


def integrity_check(context: VideoCodecContext) -> Torn | None:
    """Tells of a packet's bytes whether they cannot be whole; None for codecs of which bytes alone say nothing."""
    codec, extradata = context.name, bytes(context.extradata or b"")
    if codec in ("h264", "hevc"):
        prefix = 4 if codec == "h264" else 21  # where the decoder's configuration says how long lengths are
        pictures = _is_picture_h264 if codec == "h264" else _is_picture_hevc
        if len(extradata) > prefix and extradata[0] == 1:
            length = (extradata[prefix] & 3) + 1
            return _Units(length, pictures)
        return lambda data: FORBIDDEN_BETWEEN_STARTS.search(data) is not None
    if codec in ("mpeg1video", "mpeg2video", "mpeg4"):
        return lambda data: UNSTARTED.search(data) is not None
    if codec in ("vp8", "vp9", "libdav1d", "av1"):
        return lambda data: BLANK in data
    return None


class _Units:
    """Packets of NAL units after their lengths, those of pictures alone: others are not always written by the book.

    Zeros at the end of a unit are what a hole leaves that begins there, or stuffing (AVC-Intra), which then is a habit
    of the stream.
    """

    def __init__(self, length: int, is_picture: Callable[[int], bool]):
        self._length, self._is_picture = length, is_picture
        self._seen = self._padded = 0  # packets

    def __call__(self, data: bytes) -> bool:
        torn, padded = self._look(data)
        habit = self._padded * 2 > self._seen
        self._seen += 1
        self._padded += padded
        return torn or (padded and not habit)

    def _look(self, data: bytes) -> tuple[bool, bool]:
        """(whether there are zeros inside a unit, whether there are at the end of one)"""
        position, padded = 0, False
        while position + self._length < len(data):
            start = position + self._length
            position = start + int.from_bytes(data[position:start], "big")
            if position == start:  # nor may a unit be empty
                return True, padded
            if self._is_picture(data[start]):
                unit = data[start:position]
                whole = unit.rstrip(b"\0")
                if FORBIDDEN.search(whole):
                    return True, padded
                padded |= len(unit) - len(whole) > CARELESS
        return False, padded


def _is_picture_h264(head: int) -> bool:
    return 1 <= head & 31 <= 5


def _is_picture_hevc(head: int) -> bool:
    return head >> 1 & 63 < 32
