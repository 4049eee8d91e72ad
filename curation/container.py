"""Opening untrusted video files: formats by content, no other protocol than a local file, no foreign references."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import IO

import av
import numpy as np
import xxhash
from av import logging as av_logging
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

# Demuxers that hold video in one file. Playlists, concat scripts, SDP and image sequences are not among them: they
# would open other files or addresses.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,live_flv,asf,ogg,mxf,ivf,nut,dv,gxf,rm,wtv,"
    "h264,hevc,m4v,mpegvideo,obu,y4m,yuv4mpegpipe,vc1"
)
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "fflags": "+genpts"}
MAX_PIXELS = 8192 * 4320  # of a picture, where nothing else is configured


# What libav complains of is captured where it matters; the terminal is not the place for the rest.
logging.getLogger("libav").propagate = False
logging.getLogger("libav").addHandler(logging.NullHandler())


class NotVideo(ValueError):
    """The file cannot be opened as one of FORMATS, or holds no video stream."""


def open_video(
    file: str | Path | IO[bytes], max_pixels: int = MAX_PIXELS, demuxer: str | None = None
) -> tuple[InputContainer, VideoStream]:
    """Open a local file, or an open one, and choose its first real video stream (cover pictures do not count).

    `demuxer`: open it as this and nothing else (see media.still); by default the content says which of FORMATS it is.
    The codec is single-threaded. Neither opening nor decoding makes a picture of more than `max_pixels`. Raises
    NotVideo with a reason for people.
    """
    options = OPEN_OPTIONS if demuxer is None else {**OPEN_OPTIONS, "format_whitelist": demuxer}
    container, stream = _open(file, demuxer, {**options, "max_pixels": str(max_pixels)})
    context = stream.codec_context
    size = (context.width, context.height)
    if not all(size):  # the limit stopped the decoder, which forgets the size then
        container.close()
        container, stream = _open(file, demuxer, {**options, "skip_frame": "all"})
        context = stream.codec_context
        size = (context.width, context.height)
    if size[0] * size[1] > max_pixels:
        container.close()
        raise NotVideo(f"too large: {size[0]}x{size[1]} is over {max_pixels:,} pixels (decode.max_pixels)")
    context.options = {"max_pixels": str(max_pixels)}
    context.thread_count = 1
    context.thread_type = "NONE"
    return container, stream


def _open(
    file: str | Path | IO[bytes], demuxer: str | None, options: dict[str, str]
) -> tuple[InputContainer, VideoStream]:
    source = str(file) if isinstance(file, str | Path) else file
    if not isinstance(source, str):
        source.seek(0)
    elif "%" in source and os.path.isfile(source):  # libav may take the name for a pattern of numbered pictures
        source = os.fdopen(os.open(source, os.O_RDONLY), "rb")  # this has no name
    av_logging.set_level(av_logging.ERROR)
    with av_logging.Capture() as complaints:
        try:
            container = av.open(source, "r", format=demuxer, options=options, metadata_errors="replace")
        except (FFmpegError, ValueError, OSError) as error:
            raise NotVideo(_why_not(source, error, complaints)) from error
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        container.close()
        raise NotVideo("no video stream")
    stream = max(streams, key=lambda s: bool(s.disposition & Disposition.default))
    if stream.codec_context is None:
        container.close()
        raise NotVideo("no decoder for the video stream")
    return container, stream


def _why_not(source: str | IO[bytes], error: Exception, complaints: list[tuple[int, str, str]]) -> str:
    for _, demuxer, message in complaints:
        if "not on whitelist" in message:
            return f"not a video (it is a {demuxer} file: playlists, scripts and pictures are not opened as video)"
    if complaints and _begins_like_video(source):
        return f"damaged: {complaints[-1][2].strip()}"
    return f"not a video ({getattr(error, 'strerror', None) or error})"


def _begins_like_video(source: str | IO[bytes]) -> bool:
    """Signatures of ISO media, Matroska, RIFF, Ogg, ASF and FLV."""
    if isinstance(source, str):
        with open(source, "rb") as file:
            head = file.read(12)
    else:
        source.seek(0)
        head = source.read(12)
    return head[4:8] == b"ftyp" or head.startswith((b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"0&\xb2u", b"FLV"))


def visible_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """The picture's planes without line padding, [rows, bytes] uint8 views (not copies)."""
    planes = []
    for plane, bytes_per_pixel in zip(frame.planes, _bytes_per_pixel(frame.format.name), strict=False):
        data = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[arg-type]
        planes.append(data[: plane.height, : plane.width * bytes_per_pixel])
    return planes


@functools.cache
def _bytes_per_pixel(pixel_format: str) -> list[int]:
    """Of each plane."""
    found: dict[int, list[int]] = {}
    for component in av.VideoFormat(pixel_format).components:
        found.setdefault(component.plane, []).append((component.bits + 7) // 8)
    return [len(sizes) * max(sizes) for _, sizes in sorted(found.items())]


def frame_hash(frame: av.VideoFrame) -> int:
    """64-bit XXH3 of the decoded pixels, as the decoder delivered them: equal exactly when the pictures are."""
    digest = xxhash.xxh3_64(f"{frame.width}x{frame.height}:{frame.format.name}".encode())
    for plane in visible_planes(frame):
        digest.update(np.ascontiguousarray(plane).data)
    return digest.intdigest()


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
