"""The documented columns of the videos and clips tables."""

from __future__ import annotations

import pyarrow as pa

from curation.video import Column

VIDEOS: tuple[Column, ...] = (
    Column("video_id", pa.string(), "", "SHA-256 of all bytes, hexadecimal; null where the file could not be read"),
    Column("uri", pa.string(), "", "where the file was listed"),
    Column("status", pa.string(), "", "ok, failed or duplicate"),
    Column("reason", pa.string(), "", "why it failed; null otherwise"),
    Column("duplicate_of", pa.string(), "", "uri of the file with the same bytes that is kept in its place"),
    Column("bytes", pa.int64(), "B", "size of the file"),
    Column("container", pa.string(), "", "demuxer that recognised the content"),
    Column("codec", pa.string(), "", "video codec"),
    Column("pix_fmt", pa.string(), "", "pixel format as decoded"),
    Column("width", pa.int32(), "px", "coded width, before rotation and pixel aspect"),
    Column("height", pa.int32(), "px", "coded height"),
    Column("rotation", pa.int32(), "degrees clockwise", "turn for display: 0, 90, 180, 270"),
    Column("pixel_aspect", pa.float64(), "", "width of a pixel / its height"),
    Column("interlaced", pa.bool_(), "", "frames hold two fields"),
    Column("hdr", pa.string(), "", "transfer function of HDR video (pq, hlg), else empty"),
    Column("fps", pa.float64(), "1/s", "average frame rate; null of a picture"),
    Column("frames", pa.int64(), "", "frames that the container promises; null where it does not say"),
    Column("frames_decoded", pa.int64(), "", "frames that were decoded"),
    Column("decode_errors", pa.int64(), "", "frames that the decoder complained about"),
    Column("duration_s", pa.float64(), "s", "from the first frame's start to the last frame's end; 0 of a picture"),
)

CLIPS: tuple[Column, ...] = (
    Column("clip_id", pa.string(), "", "first 16 digits of video_id, start frame, end frame"),
    Column("video_id", pa.string(), "", "the video it is cut from"),
    Column("image", pa.bool_(), "", "it is a picture, a clip of one frame without duration; false of clips of videos"),
    Column("start_frame", pa.int64(), "", "first frame, by decoded-frame index"),
    Column("end_frame", pa.int64(), "", "one past the last frame"),
    Column("start_s", pa.float64(), "s", "start, from the video's first frame", temporal=True),
    Column("end_s", pa.float64(), "s", "end, exclusive", temporal=True),
    Column("duration_s", pa.float64(), "s", "end_s - start_s; 0 of a picture", temporal=True),
    Column("start_pts", pa.int64(), "stream time base", "timestamp of the first frame; null where the file has none"),
    Column("end_pts", pa.int64(), "stream time base", "timestamp at which the last frame ends"),
    Column("decode_errors", pa.int64(), "", "frames of the clip that the decoder complained about"),
    Column("video_errors", pa.int64(), "", "the same of its whole video"),
    Column("first_hash", pa.uint64(), "", "XXH3 of the first frame's decoded pixels"),
    Column("last_hash", pa.uint64(), "", "XXH3 of the last frame's decoded pixels"),
    Column("frames_hash", pa.string(), "", "XXH3-128 over the hashes of all its frames"),
    Column("measured", pa.list_(pa.string()), "", "scorers, with their settings, that have looked at it"),
    Column("media", pa.string(), "", "the clip's file, relative to the dataset; null if it is not cut"),
    Column("cut", pa.string(), "", "copy (the source's own packets, a picture's own bytes), encode, or none"),
    Column("cut_reason", pa.string(), "", "why it was encoded, or could not be cut; null for copies"),
    Column("cut_settings", pa.string(), "", "fingerprint of the settings it was cut with"),
)


def clip_id(video_id: str, start: int, end: int) -> str:
    return f"{video_id[:16]}-{start:07d}-{end:07d}"


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([pa.field(column.name, column.type) for column in columns])
