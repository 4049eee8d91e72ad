"""Opening untrusted video files: formats by content, no other protocol than a local file, no foreign references."""

from __future__ import annotations

import logging
from pathlib import Path

import av
import numpy as np
import xxhash
from av.container import InputContainer
from av.video.stream import VideoStream

# Demuxers that hold video in one file. Playlists, concat scripts, SDP and image sequences are not among them: they
# would open other files or addresses.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,live_flv,asf,ogg,mxf,ivf,nut,dv,gxf,rm,wtv,"
    "h264,hevc,m4v,mpegvideo,obu,y4m,yuv4mpegpipe,vc1"
)
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "fflags": "+genpts"}


# What libav complains of is captured where it matters; the terminal is not the place for the rest.
logging.getLogger("libav").propagate = False
logging.getLogger("libav").addHandler(logging.NullHandler())


class NotVideo(ValueError):
    """The file cannot be opened as one of FORMATS, or holds no video stream."""


def open_video(path: str | Path) -> tuple[InputContainer, VideoStream]:
    """Open a local file and choose its first real video stream (cover pictures do not count).

    The codec is single-threaded and asked to check what it decodes. Raises NotVideo with a reason for people.
    """
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as complaints:
        try:
            container = av.open(str(path), options=OPEN_OPTIONS, metadata_errors="replace")
        except (av.FFmpegError, ValueError, OSError) as error:
            raise NotVideo(_why_not(path, error, complaints)) from error
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        container.close()
        raise NotVideo("no video stream")
    stream = max(streams, key=lambda s: bool(s.disposition & av.stream.Disposition.default))
    if stream.codec_context is None:
        container.close()
        raise NotVideo("no decoder for the video stream")
    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = "NONE"
    return container, stream


def _why_not(path: str | Path, error: Exception, complaints: list[tuple[int, str, str]]) -> str:
    for _, demuxer, message in complaints:
        if "not on whitelist" in message:
            return f"not a video (it is a {demuxer} file: playlists, scripts and pictures are not opened as video)"
    if complaints and _begins_like_video(path):
        return f"damaged: {complaints[-1][2].strip()}"
    return f"not a video ({getattr(error, 'strerror', None) or error})"


def _begins_like_video(path: str | Path) -> bool:
    """Signatures of ISO media, Matroska, RIFF, Ogg, ASF and FLV."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" or head.startswith((b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"0&\xb2u", b"FLV"))


def visible_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """The picture's planes without line padding, [rows, bytes] uint8 views (not copies)."""
    planes = []
    bits = frame.format.components
    for number, plane in enumerate(frame.planes):
        data = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[arg-type]
        depth = max(component.bits for component in bits if component.plane == number)
        per_pixel = sum(1 for component in bits if component.plane == number)
        planes.append(data[: plane.height, : plane.width * per_pixel * ((depth + 7) // 8)])
    return planes


def frame_hash(frame: av.VideoFrame) -> int:
    """64-bit XXH3 of the decoded pixels, as the decoder delivered them: equal exactly when the pictures are."""
    digest = xxhash.xxh3_64(f"{frame.width}x{frame.height}:{frame.format.name}".encode())
    for plane in visible_planes(frame):
        digest.update(plane if plane.flags.c_contiguous else np.ascontiguousarray(plane))
    return digest.intdigest()
