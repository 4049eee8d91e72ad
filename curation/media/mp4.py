"""Setting the length of an mp4's edits: what a player shows of the packets that the file holds.

FFmpeg's muxer hides what comes before time 0 by an edit list, but lets the edit run to the last packet in the file.
With reordered frames the file must hold a later reference frame, which would then be shown: 72 frames for 70. The
edit's own duration (ISO/IEC 14496-12, 8.6.6) says where it ends, and readers keep to it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple

HEAD_LIMIT = 64 << 20  # bytes of moov that are read; a clip's is a few kB


class Mp4Error(ValueError):
    """The file has not the structure that the muxer writes."""


class Box(NamedTuple):
    kind: bytes
    start: int  # of the content, in bytes
    end: int


def trim_edits(path: Path, seconds: Fraction) -> None:
    """Let every track's last edit, the tracks and the movie end `seconds` after time 0, in place.

    Tracks that end earlier stay as they are. Raises Mp4Error where the file is not a plain mp4.
    """
    with path.open("r+b") as file:
        moov = next((box for box in _boxes_of_file(file) if box.kind == b"moov"), None)
        if moov is None or moov.end - moov.start > HEAD_LIMIT:
            raise Mp4Error("no moov box")
        file.seek(moov.start)
        data = bytearray(file.read(moov.end - moov.start))
        try:
            _trim(data, seconds)
        except struct.error as error:
            raise Mp4Error(f"times that mp4 cannot hold ({error})") from error
        file.seek(moov.start)
        file.write(data)


def _trim(data: bytearray, seconds: Fraction) -> None:
    boxes = list(_boxes(data, 0, len(data)))
    movie = next((box for box in boxes if box.kind == b"mvhd"), None)
    if movie is None:
        raise Mp4Error("no mvhd box")
    scale = _timescale(data, movie)
    limit = round(seconds * scale)
    longest = 0
    for track in (box for box in boxes if box.kind == b"trak"):
        inner = {box.kind: box for box in _boxes(data, track.start, track.end)}
        edits = inner.get(b"edts")
        table = next(iter(_boxes(data, edits.start, edits.end)), None) if edits else None
        if table is None or table.kind != b"elst" or b"tkhd" not in inner:
            raise Mp4Error("a track without an edit list")
        length = _trim_table(data, table, limit)
        _put_duration(data, inner[b"tkhd"], (20, 28), length)
        longest = max(longest, length)
    _put_duration(data, movie, (16, 24), longest)


def _trim_table(data: bytearray, table: Box, limit: int) -> int:
    """Cut the last edit so that all of them together last no longer than `limit`; their total is returned."""
    long = data[table.start] == 1
    count = struct.unpack_from(">I", data, table.start + 4)[0]
    layout, size = (">Qq", 20) if long else (">Ii", 12)
    first = table.start + 8
    if first + count * size > table.end or count == 0:
        raise Mp4Error("a broken edit list")
    durations = [struct.unpack_from(layout, data, first + i * size)[0] for i in range(count)]
    before = sum(durations[:-1])
    last = min(durations[-1], max(0, limit - before))
    struct.pack_into(">Q" if long else ">I", data, first + (count - 1) * size, last)
    return before + last


def _timescale(data: bytearray, movie: Box) -> int:
    return struct.unpack_from(">I", data, movie.start + (20 if data[movie.start] == 1 else 12))[0]


def _put_duration(data: bytearray, box: Box, offsets: tuple[int, int], value: int) -> None:
    """`offsets`: where the duration lies in version 0 (32 bits) and version 1 (64 bits) of the box."""
    if data[box.start] == 1:
        struct.pack_into(">Q", data, box.start + offsets[1], value)
    else:
        struct.pack_into(">I", data, box.start + offsets[0], min(value, 0xFFFFFFFF))


def _boxes(data: bytearray, start: int, end: int) -> Iterator[Box]:
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8 or start + size > end:
            raise Mp4Error(f"a broken {kind!r} box")
        yield Box(kind, start + 8, start + size)
        start += size


def _boxes_of_file(file: BinaryIO) -> Iterator[Box]:
    length = file.seek(0, 2)
    start = 0
    while start + 8 <= length:
        file.seek(start)
        head = file.read(16)
        size, kind = struct.unpack_from(">I4s", head)
        skip = 8
        if size == 1 and len(head) == 16:
            size, skip = struct.unpack_from(">Q", head, 8)[0], 16
        elif size == 0:
            size = length - start
        if size < skip or start + size > length:
            raise Mp4Error(f"a broken {kind!r} box")
        yield Box(kind, start + skip, start + size)
        start += size
