"""Names that shells, tables and pages stumble over, and files that are no video."""

from __future__ import annotations

import gzip
import io
import os
import random
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from hostile_lies import box
from hostile_masters import MASTERS, Masters
from hostile_reel import reel
from hostile_truth import Item, Made, written
from PIL import Image

NAMES = (
    "new\nline.mp4", "return\rand\ttab.mp4", "quotes ' \" `.mp4", "ünïcödé 映画 🎬.mp4", "u\u0308 decomposed.mp4",
    "\u202erightto\u202cleft.mp4", "\u200bzero\ufeffwidth.mp4", " space before and after .mp4 ", "...mp4",
    "-rf.mp4", "--help", "$(touch owned).mp4", "`id`;|&&.mp4", "%s%n%d.mp4", "100%25.mp4", "back\\slash\\n.mp4",
    "*?[a-z].mp4", "#hash?query=1&x.mp4", "a::b.mp4", "s3:bucket:key.mp4", "{{7*7}}${x}{% raw %}.mp4",
    "<b>bold<img src=x onerror=alert(1)>.mp4", "&lt;script&gt;.mp4", "]]>--><!--.mp4", "[bold red]rich[].mp4",
    "\x1b[31mred\x1b[0m.mp4", "bell\x07.mp4", "\x7f\x01.mp4", "=1+1,;.mp4", "'; DROP TABLE clips; --.mp4",
    "no suffix", "mp4", ".mp4", ".hidden.mp4", "video.txt", "list.lst", "CON.mp4", "x" * 251 + ".mp4",
    "ü" * 125 + ".mp4x", "\u2028line\u2029paragraph.mp4", "null.mp4", "nan", "🏳️‍🌈" * 15 + ".mp4",
    os.fsdecode(b"no utf-8 \xff\xfe\x80.mp4"), os.fsdecode(b"\xed\xa0\x80 surrogate.mp4"),
    os.fsdecode(b"latin \xe9t\xe9\n.mp4"),
)  # fmt: skip


def named(masters: Masters) -> Iterator[Item]:
    """Names of videos and, every other one, of broken ones: they stand in both lists of the report."""
    data = masters.data("h264.mp4")
    numbers = tuple(range(60))
    for number, name in enumerate(NAMES):
        free = box(b"free", f"name {number}".encode())  # or they would be duplicates
        if number % 2:
            made = Made(f"names/{name}", "odd names", "h264.mp4", "ok", numbers, True, "h264.mp4")
            yield written(made, data + free)
        else:
            yield written(Made(f"names/{name}", "odd names", "h264.mp4", "failed"), data[: 2000 + number] + free)


def disguised(masters: Masters) -> Iterator[Item]:
    """Every third undamaged file under a wrong suffix; the others are there as they are."""
    names = list(MASTERS)
    others = (".txt", ".jpg", ".m3u8", "", *(Path(name).suffix for name in names[5::4]))
    for place, name in enumerate(names):
        wrong = place % 3 == 0
        shown = f"suffixes/{name.replace('.', ' ')}{others[place // 3 % len(others)]}" if wrong else f"undamaged/{name}"
        numbers = tuple(range(MASTERS[name].frames))
        made = Made(
            shown, "wrong suffixes" if wrong else "undamaged", name, "ok", numbers, True, name, size=MASTERS[name].size
        )
        yield made, partial(_copy, masters, name)
    for name in ("h264.avi", "vp9.mp4"):
        yield Made(f"zz copies/{name}", "copies", name, "duplicate"), partial(_copy, masters, name)


def _copy(masters: Masters, name: str, path: Path) -> None:
    path.write_bytes(masters.data(name))


def no_videos() -> Iterator[Item]:
    """What lies about in buckets."""
    draw = random.Random(0)
    picture = Image.fromarray(reel((7,))[0])
    others = [Image.fromarray(each) for each in reel(range(3))]

    def saved(format_: str, **options: object) -> bytes:
        target = io.BytesIO()
        picture.save(target, format_, **options)
        return target.getvalue()

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../escape.mp4", bytes(10**6))
    for name, data in {
        "empty.mp4": b"",
        "byte.mp4": b"\0",
        "zeros.mp4": bytes(100_000),
        "ones.ts": b"\xff" * 100_000,
        **{f"noise {size}.mp4": draw.randbytes(size) for size in (10, 1000, 100_000)},
        **{
            f"noise.{suffix}": draw.randbytes(50_000)
            for suffix in ("mkv", "avi", "ts", "mpg", "flv", "wmv", "h264", "dv")
        },
        "text.mp4": b"call the crew\n" * 100,
        "archive.mp4": archive.getvalue(),
        "squeezed.mp4": gzip.compress(bytes(10**6)),
        "paper.pdf.mp4": b"%PDF-1.7\n" + draw.randbytes(1000),
        "program.mp4": b"\x7fELF\x02\x01\x01" + draw.randbytes(2000),
        "table.mkv": b"PAR1" + draw.randbytes(2000) + b"PAR1",
        "numbers.npy.mp4": _npy(),
        "moving.gif": saved("gif", save_all=True, append_images=others),
        "moving.gif.mp4": saved("gif", save_all=True, append_images=others[:1]),
        "moving.webp": saved("webp", save_all=True, append_images=others),
        "moving.png": saved("png", save_all=True, append_images=others),
        "picture.bmp.mp4": saved("bmp"),
        "picture.tiff.mov": saved("tiff"),
        "subtitles.srt.mp4": b"1\n00:00:00,000 --> 00:00:01,000\nx\n",
        "lyrics.ass.mkv": b"[Script Info]\nScriptType: v4.00+\n[Events]\n",
        "json.mp4": b'{"uri": "x"}',
        "signature.mp4": b"\0\0\0\x18ftypisom\0\0\2\0isommp42",
        "signature.mkv": b"\x1a\x45\xdf\xa3",
        "signature.avi": b"RIFF\0\0\0\0AVI ",
        "signature.ogv": b"OggS",
        "signature.flv": b"FLV\x01\x05\0\0\0\x09\0\0\0\0",
    }.items():
        yield written(Made(f"none/{name}", "no video in it", "", "failed"), data)
    for suffix, format_ in (("jpg", "jpeg"), ("png.mp4", "png"), ("webp.mkv", "webp")):
        yield written(Made(f"none/picture.{suffix}", "pictures", "", "ok"), saved(format_))


def _npy() -> bytes:
    target = io.BytesIO()
    np.save(target, np.zeros((4, 4)))
    return target.getvalue()
