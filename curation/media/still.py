"""Pictures (JPEG, PNG, WebP) as videos of one frame: told by their signature, read whole, never by a guess.

A picture is walked from its first to its last marker or chunk before a decoder sees it, because decoders fill up what
is missing: one that ends early is refused, and so is one that moves. What follows a picture in its file (the film of a
"motion photo", the gain map of an HDR one) is not looked at.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import av
import numpy as np
from av import logging as av_logging
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from curation.container import MAX_PIXELS, NotVideo, open_video
from curation.media.guard import fault
from curation.media.pixels import convert

SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
PICTURES = tuple(f"{kind}_pipe" for kind in SUFFIXES)  # their demuxers
MAX_BYTES = 512 * 2**20  # of a file; a picture within decode.max_pixels is far below
CHECKS = {"err_detect": "crccheck+bitstream+buffer"}
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in coded data 0 and restart markers may follow 0xFF
ANOTHER_JPEG = re.compile(rb"\0*\xff\xd8\xff")
EOI, APP1, APP2 = 0xD9, 0xE1, 0xE2
WEBP_MOVES = 0x02  # flag of the VP8X chunk
ORIENTATION = 0x0112  # EXIF tag
CLOCKWISE = (0, 180, 180, 0, 90, 90, 270, 270)  # of EXIF orientations 1 to 8, after the flip
FLIPPED = (2, 4, 5, 7)  # EXIF orientations that a mirror is part of


@dataclass(frozen=True)
class Still:
    """One picture: its bytes, and how EXIF says that it is to be turned."""

    kind: str  # jpeg, png or webp
    data: bytes
    orientation: int  # EXIF, 1 to 8

    @property
    def suffix(self) -> str:
        return SUFFIXES[self.kind]

    @property
    def rotation(self) -> int:
        """Degrees clockwise that `plain` leaves to turn."""
        return CLOCKWISE[self.orientation - 1]

    def open(self, max_pixels: int = MAX_PIXELS) -> tuple[InputContainer, VideoStream]:
        """See container.open_video."""
        return open_video(io.BytesIO(self.data), max_pixels, f"{self.kind}_pipe")

    def frame(self, container: InputContainer, stream: VideoStream) -> av.VideoFrame:
        """The picture as the decoder delivers it. Raises NotVideo where it is not whole."""
        stream.codec_context.options = {**stream.codec_context.options, **CHECKS}
        frames: list[av.VideoFrame] = []
        with av_logging.Capture() as log:
            try:
                for packet in container.demux(stream):
                    frames += stream.codec_context.decode(packet if packet.size else None)
            except FFmpegError as error:
                log.append((av_logging.ERROR, self.kind, fault(error)))
        # What is wrong with the metadata alone does not show.
        complaints = [message.strip() for _, _, message in log if "exif" not in message.lower()]
        if complaints or len(frames) != 1:
            raise NotVideo(f"damaged: {complaints[0] if complaints else f'{len(frames)} pictures in one {self.kind}'}")
        return frames[0]

    def plain(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The picture in 8 bits, without transparency and mirror: as coded where it is such, else as rgb24.

        What is transparent becomes white. A mirrored picture is flipped upside down, after which only `rotation` is
        left to do.
        """
        name = frame.format.name
        mirrored = self.orientation in FLIPPED
        if name.startswith(("yuv4", "yuvj4")) and frame.format.components[0].bits == 8 and not mirrored:
            return frame
        see_through = any(component.is_alpha for component in frame.format.components) or name == "pal8"
        rgb = convert(frame, "rgba" if see_through else "rgb24").to_ndarray().astype(np.uint8, copy=False)
        rgb = _on_white(rgb) if see_through else rgb
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[::-1] if mirrored else rgb), "rgb24")


def read_still(file: str | Path | IO[bytes]) -> Still | None:
    """The picture in a file; None where it does not begin like one. Raises NotVideo with a reason for people."""
    if isinstance(file, str | Path):
        with open(file, "rb") as opened:
            return read_still(opened)
    file.seek(0)
    head = file.read(12)
    if head.startswith(JPEG):
        walk, kind = _jpeg, "jpeg"
    elif head.startswith(PNG):
        walk, kind = _png, "png"
    elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
        walk, kind = _webp, "webp"
    else:
        return None
    data = head + file.read(MAX_BYTES)
    if len(data) > MAX_BYTES:
        raise NotVideo(f"too large: a picture of over {MAX_BYTES >> 20} MB")
    try:
        picture, exif = walk(data)
    except (struct.error, IndexError) as error:
        raise NotVideo("damaged: the picture ends early") from error
    return Still(kind, picture, _orientation(exif))


def _jpeg(data: bytes) -> tuple[bytes, bytes]:
    """(the first picture, its EXIF data)"""
    exif, several = b"", False
    position = 2
    while True:
        found = JPEG_MARKER.search(data, position)
        if found is None:
            raise IndexError
        marker, position = data[found.end() - 1], found.end()
        if marker == EOI:
            break
        if marker == 0x01:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        segment = data[position + 2 : position + length]
        if marker == APP1 and segment.startswith(b"Exif\0\0"):
            exif = exif or segment
        several |= marker == APP2 and segment.startswith(b"MPF\0")  # says that further pictures belong to this one
        position += length
    if not several and ANOTHER_JPEG.match(data, position):
        raise NotVideo("not a video (JPEG pictures one after the other, in no container)")
    return data[:position], exif


def _png(data: bytes) -> tuple[bytes, bytes]:
    exif, picture = b"", data
    for kind, start, end in _chunks(data, 8, ">I4s", 4):
        if kind == b"acTL":
            raise NotVideo("not a video (a moving PNG)")
        if kind == b"eXIf" and not exif:  # cut out: the decoder gives the picture up for a fault in it
            exif, picture = data[start:end], data[: start - 8] + data[end + 4 :]
        if kind == b"IEND":
            return picture[: end + 4 - len(data) + len(picture)], exif
    raise IndexError


def _webp(data: bytes) -> tuple[bytes, bytes]:
    exif = b""
    (size,) = struct.unpack_from("<I", data, 4)
    if 8 + size > len(data):
        raise IndexError
    for kind, start, end in _chunks(data[: 8 + size], 12, "<4sI", 0):
        if kind == b"VP8X" and data[start] & WEBP_MOVES:
            raise NotVideo("not a video (a moving WebP)")
        if kind == b"EXIF":
            exif = data[start:end]
    return data[: 8 + size], exif


def _chunks(data: bytes, position: int, head: str, tail: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the chunks of a PNG or RIFF file. Raises IndexError where the last one is not whole."""
    while position < len(data):
        first, second = struct.unpack_from(head, data, position)
        kind, size = (first, second) if isinstance(first, bytes) else (second, first)
        start = position + 8
        if start + size + tail > len(data):
            raise IndexError
        yield kind, start, start + size
        position = start + size + tail + (0 if tail else size & 1)  # RIFF pads to even sizes


def _orientation(exif: bytes) -> int:
    """EXIF orientation, 1 where there is none or the data make no sense."""
    tiff = exif.removeprefix(b"Exif\0\0")
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (offset,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, offset)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, offset + 2 + 12 * entry)
            if tag == ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass
    return 1


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """[H, W, 4] uint8 -> [H, W, 3] uint8."""
    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        return rgba[..., :3]
    opaque = alpha.astype(np.uint16)
    mixed = rgba[..., :3] * opaque
    mixed += 255 * (255 - opaque) + 127  # at most 65,152
    return (mixed // 255).astype(np.uint8)
