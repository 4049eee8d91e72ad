"""Headers that lie about durations, sizes, counts and codecs, and files made to eat memory or time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hostile_damage import patched
from hostile_masters import Masters
from hostile_truth import Expected, Item, Made, written

MOST = b"\xff\xff\xff\xff"
HUGE = struct.pack(">I", 0x7FFFFFFF)
NONE = b"\0\0\0\0"
EBML = b"\x1a\x45\xdf\xa3\x80"
SEGMENT = b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff"  # without end
TIMES = ("stts", "ctts", "elst")
BARE = ("ffv1.mkv", "raw.y4m", "raw.avi")  # whose pictures are as large as the header says, whatever it says

# Of h264.mp4: box, offset in its content, value, what is to come of it, what the lie is. ok: every frame, unharmed.
ISO: tuple[tuple[str, int, bytes, Expected, str], ...] = (
    ("mvhd", 16, NONE, "ok", "the movie lasts 0 s"),
    ("mvhd", 16, MOST, "ok", "the movie lasts for ever"),
    ("mvhd", 12, NONE, "either", "the movie's clock stands"),
    ("mdhd", 16, NONE, "ok", "the track lasts 0 s"),
    ("mdhd", 16, HUGE, "ok", "the track lasts for ever"),
    ("mdhd", 12, NONE, "either", "the track's clock stands"),
    ("mdhd", 12, struct.pack(">I", 1), "either", "a tick a second"),
    ("mdhd", 12, HUGE, "either", "2 billion ticks a second"),
    ("tkhd", 76, struct.pack(">II", 12000 << 16, 12000 << 16), "ok", "shown at 12000 x 12000"),
    ("tkhd", 76, NONE * 2, "ok", "shown at 0 x 0"),
    ("tkhd", 40, bytes(36), "either", "a display matrix of zeros"),
    ("stsd", 8 + 32, struct.pack(">HH", 12000, 12000), "either", "coded at 12000 x 12000"),
    ("stsd", 8 + 32, NONE, "ok", "coded at 0 x 0"),
    ("stsd", 8 + 4, b"hvc1", "either", "H.264 called HEVC"),
    ("stsd", 8 + 4, b"mp4v", "either", "H.264 called MPEG-4"),
    ("stsd", 8 + 4, b"mjpg", "either", "H.264 called MJPEG"),
    ("stsd", 8 + 4, b"xxxx", "either", "a codec that does not exist"),
    ("stsd", 8 + 94, bytes(12), "either", "no parameter sets"),
    ("stts", 4, MOST, "either", "4 billion entries of times"),
    ("stts", 8, MOST, "either", "4 billion frames of times"),
    ("stts", 12, NONE, "either", "frames of no duration"),
    ("stts", 12, MOST, "either", "frames of the greatest duration"),
    ("stsz", 8, MOST, "either", "4 billion frames"),
    ("stsz", 4, struct.pack(">I", 1), "either", "every frame a byte"),
    ("stsz", 4, HUGE, "either", "every frame 2 GB"),
    ("stsz", 12 + 4 * 30, HUGE, "either", "a frame of 2 GB"),
    ("stsz", 12 + 4 * 30, NONE, "either", "a frame of no byte"),
    ("stsc", 4, MOST, "either", "4 billion chunks"),
    ("stco", 8, MOST, "either", "chunks beyond the end"),
    ("stco", 8, NONE, "either", "chunks in the header"),
    ("stss", 4, NONE, "either", "no keyframe"),
    ("stss", 8, struct.pack(">II", 2, 3), "either", "the wrong keyframes"),
    ("ctts", 4, MOST, "either", "4 billion reorderings"),
    ("ctts", 12, HUGE, "either", "shown in 24 days"),
    ("elst", 8, NONE, "either", "an edit of no length"),
    ("elst", 8, HUGE, "either", "an edit without end"),
    ("elst", 12, HUGE, "either", "an edit that begins after the end"),
    ("hdlr", 8, b"soun", "failed", "the video called sound"),
    ("ftyp", 0, b"????", "ok", "a brand that does not exist"),
)


def lies(masters: Masters) -> Iterator[Item]:
    numbers = tuple(range(60))

    def iso(place: int, path: Path) -> None:
        name, offset, value, _, _ = ISO[place]
        path.write_bytes(patched(masters.data("h264.mp4"), name, offset, value))

    def other(place: int, path: Path) -> None:
        source, old, new, _ = OTHERS[place]
        data = masters.data(source)
        at = data.index(old)
        path.write_bytes(data[:at] + new + data[at + len(new) :])

    for place, (name, _, _, expect, note) in enumerate(ISO):
        file = f"lies/{place:02d} {name}.mp4"
        # Where times are lied about, what the file shows is what counts.
        reference = "" if name in TIMES else "h264.mp4"
        made = Made(file, "lying headers", "h264.mp4", expect, numbers, expect == "ok", reference, note=note)
        yield made, partial(iso, place)
    for place, (source, _, _, note) in enumerate(OTHERS):
        made = Made(
            f"lies/{place:02d}.{source}",
            "lying headers",
            source,
            "either",
            reference="" if source in BARE else source,
            note=note,
        )
        yield made, partial(other, place)


# Of other containers: file, a pattern of its header, what stands in its place (from its first byte on), the lie.
OTHERS: tuple[tuple[str, bytes, bytes, str], ...] = (
    ("mpeg4.mkv", b"V_MPEG4/ISO/ASP", b"V_MPEG4/ISO/AVC", "MPEG-4 called H.264"),
    ("mpeg4.mkv", b"V_MPEG4/ISO/ASP", b"V_XXXXX/ISO/ASP", "a codec that does not exist"),
    ("vp9.webm", b"V_VP9", b"V_VP8", "VP9 called VP8"),
    ("vp8.webm", b"V_VP8", b"V_AV1", "VP8 called AV1"),
    ("h264.mkv", b"\x2a\xd7\xb1\x83", b"\x2a\xd7\xb1\x83\x00\x00\x00", "a clock of no tick"),
    ("h264.mkv", b"\x2a\xd7\xb1\x83", b"\x2a\xd7\xb1\x83\xff\xff\xff", "a slow clock"),
    ("h264.mkv", b"\x44\x89\x88", b"\x44\x89\x88\x7f\xf0\0\0\0\0\0\0", "an infinite duration"),
    ("h264.mkv", b"\x44\x89\x88", b"\x44\x89\x88\xff\xf8\0\0\0\0\0\0", "a duration that is no number"),
    ("h264.mkv", b"\xb0\x81\xa0", b"\xb0\x81\x01", "a pixel wide"),
    ("ffv1.mkv", b"\xb0\x81\xa0", b"\xb0\x81\x10", "16 pixels wide"),
    ("h264.mkv", b"\x18\x53\x80\x67", b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff", "a segment without end"),
    ("h264.avi", b"avih", b"avih8\0\0\0\0\0\0\0", "a frame takes no time"),
    ("h264.avi", b"vidsH264", b"vidsMJPG", "another handler"),
    ("mpeg4.avi", b"vidsFMP4", b"audsFMP4", "the video called sound"),
    ("mjpeg.avi", b"strh", b"strh8\0\0\0vidsMJPG" + bytes(12) + bytes(8), "a rate of 0 / 0"),
    ("mjpeg.avi", b"strf", b"strf\x28\0\0\0\x28\0\0\0\xe0\x2e\0\0\xe0\x2e\0\0", "12000 x 12000"),
    ("raw.avi", b"strf", b"strf\x28\0\0\0\x28\0\0\0\xe0\x2e\0\0\xe0\x2e\0\0", "12000 x 12000"),
    ("huffyuv.avi", b"strf", b"strf\x28\0\0\0\x28\0\0\0\xff\xff\xff\x7f\xff\xff\xff\x7f", "2 billion pixels wide"),
    ("mpeg4.avi", b"idx1", b"idx1\xf0\xff\xff\xff", "an index of 4 GB"),
    ("vp9.ivf", b"VP90\xa0\x00", b"VP90\xe0\x2e\xe0\x2e", "12000 x 12000"),
    ("vp9.ivf", b"VP90", b"VP90\xa0\x00\x60\x00\0\0\0\0\0\0\0\0", "a rate of 0 / 0"),
    ("vp8.ivf", b"VP80", b"VP90", "VP8 called VP9"),
    ("raw.y4m", b"W160", b"W999", "999 pixels wide"),
    ("raw.y4m", b"F24:1", b"F00:0", "a rate of 0 / 0"),
    ("flv1.flv", b"duration\0", b"duration\0\x7f\xf0\0\0\0\0\0\0", "an infinite duration"),
    ("flv1.flv", b"framerate\0", b"framerate\0\0\0\0\0\0\0\0\0", "a rate of 0"),
    ("theora.ogv", b"\x80theora", b"\x80theora\x03\x02\x01\x02\xee\x02\xee", "12000 x 12000"),
    ("mpeg2.mpg", b"\0\0\x01\xb3", b"\0\0\x01\xb3\xff\xff\xff", "4095 x 4095"),
    ("dv.avi", b"vidsdvsd", b"iavsdvsd", "sound and video in one"),
    ("mpeg2.mxf", b"\x06\x0e\x2b\x34\x02\x53", b"\x06\x0e\x2b\x34\x02\x53\xff", "a set of another kind"),
)


def box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def bombs() -> Iterator[Item]:
    """Small files that say there is very much in them."""
    head = box(b"ftyp", b"isom\0\0\2\0isommp42")
    nested = b""
    for _ in range(20_000):
        nested = box(b"moov", nested)
    squeezed = struct.pack(">I", 0x7FFFFFFF) + zlib.compress(bytes(64 * 2**20), 9)
    movie = box(b"moov", box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", squeezed)))
    for name, data, note in (
        ("nested.mp4", head + nested, "20,000 boxes, each in the next"),
        ("many.mp4", head + box(b"free") * 200_000, "200,000 empty boxes"),
        ("endless.mp4", head + box(b"moov", b"\0\0\0\0trak" * 100), "boxes without end"),
        ("squeezed.mov", head + movie, "a header of 2 GB, squeezed"),
        ("wide.mp4", head + struct.pack(">I4sQ", 1, b"mdat", 2**63 + 16), "a box of 9 exabytes"),
        ("huge.mp4", head + struct.pack(">I4s", 0x7FFFFFFF, b"moov"), "a header of 2 GB"),
        ("lists.avi", b"RIFF\xff\xff\xff\x7fAVI " + b"LIST\xff\xff\xff\x7fhdrl" * 20_000, "20,000 lists, nested"),
        ("nested.mkv", EBML + SEGMENT * 10_000, "10,000 segments, nested"),
        ("attachment.mkv", EBML + SEGMENT + b"\x19\x41\xa4\x69"
         b"\x01\0\0\0\x80\0\0\0\x61\xa7\x01\0\0\0\x7f\0\0\0\x46\x5c\x01\0\0\0\x7e\0\0\0", "an attachment of 2 GB"),
        ("pages.ogv", b"OggS\0\2" + bytes(20) + b"\xff" + b"\xff" * 255, "one page again and again"),
        ("sync.ts", (b"\x47\x40\0\x10\0" + b"\xff" * 183) * 5_000, "tables without programs"),
        ("starts.m2v", b"\0\0\x01\xb3" * 50_000, "sequence headers only"),
        ("starts.h264", b"\0\0\0\x01\x67\x42\0\x1f" * 20_000, "parameter sets only"),
        ("tags.flv", b"FLV\x01\x05\0\0\0\x09" + b"\0\0\0\0\x09\xff\xff\xff" * 5_000, "tags of 16 MB"),
        ("sizes.ivf", b"DKIF\0\0\x20\0VP90" + MOST + bytes(16) + HUGE[::-1] + bytes(8), "a frame of 2 GB"),
    ):  # fmt: skip
        yield written(Made(f"bombs/{name}", "made to eat memory or time", "", "failed", note=note), data)
