"""Odd files in which nothing is broken: cameras, phones, editors and encoders make them, and every frame counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from hostile_masters import AV1, VP8, VP9, X264, X265, Masters, old
from hostile_reel import FRAMES, SIZE, encode, ffmpeg, reel
from hostile_truth import Item, Made

ALL = tuple(range(FRAMES))
SHORT = tuple(range(24))
H264, MPEG2, MJPEG = (*X264, "-bf", "0"), old("mpeg2video"), old("mjpeg")
FFV1, PRORES, PNG = ("-c:v", "ffv1", "-level", "3"), ("-c:v", "prores_ks", "-profile:v", "4"), ("-c:v", "png")
AOM = ("-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-b:v", "400k")
TONE = ("-f", "lavfi", "-i", "sine=frequency=440:duration=2.5")


def odd_files(masters: Masters) -> Iterator[Item]:
    """All of them; `masters` is the folder of the undamaged ones."""
    yield from _pictures()
    yield from _sizes()
    yield from _counts()
    yield from _times(masters)
    yield from _changes()
    yield from _streams(masters)


def _plain(
    kind: str, name: str, arguments: tuple[str, ...], numbers: tuple[int, ...] = SHORT, size: tuple[int, int] = SIZE
) -> Item:
    """Encoded from the reel; every frame is to be decoded."""
    made = Made(name, kind, arguments[1], "ok", numbers, whole=True, size=size, note=" ".join(arguments[2:]))
    return made, lambda path: encode(path, reel(numbers, size), *arguments, "-threads", "1")


def _pictures() -> Iterator[Item]:
    """Pixel formats, colours, fields."""
    for name, codec, layout in (
        ("444.mp4", H264, "yuv444p"),
        ("444.hevc.mp4", X265, "yuv444p"),
        ("444.webm", VP9, "yuv444p"),
        ("444.av1.mkv", AOM, "yuv444p"),
        ("444.ffv1.mkv", FFV1, "yuv444p"),
        ("444.mjpeg.avi", MJPEG, "yuvj444p"),
        ("422.mkv", H264, "yuv422p"),
        ("422.hevc.mov", X265, "yuv422p"),
        ("422.mpeg2.ts", MPEG2, "yuv422p"),
        ("440.ffv1.mkv", FFV1, "yuv440p"),
        ("411.ffv1.mkv", FFV1, "yuv411p"),
        ("410.ffv1.avi", FFV1, "yuv410p"),
        ("rgb.h264.mp4", ("-c:v", "libx264rgb", "-preset", "veryfast", "-qp", "10"), "rgb24"),
        ("gbrp.hevc.mkv", X265, "gbrp"),
        ("gbrp.vp9.webm", VP9, "gbrp"),
        ("bgr0.ffv1.mkv", FFV1, "bgr0"),
        ("555.raw.avi", ("-c:v", "rawvideo"), "rgb555le"),
        ("555.msvideo1.avi", ("-c:v", "msvideo1"), "rgb555le"),
        ("palette.mov", ("-c:v", "rawvideo"), "pal8"),
        ("uyvy.raw.avi", ("-c:v", "rawvideo"), "uyvy422"),
    ):
        yield _plain("4:4:4, 4:2:2, RGB, palettes", f"chroma/{name}", (*codec, "-pix_fmt", layout))
    for name, codec, layout in (
        ("10.h264.mp4", H264, "yuv420p10le"),
        ("10.h264.mkv", H264, "yuv444p10le"),
        ("10.hevc.mp4", X265, "yuv420p10le"),
        ("12.hevc.mkv", X265, "yuv420p12le"),
        ("12.444.hevc.mp4", X265, "yuv444p12le"),
        ("10.vp9.webm", VP9, "yuv420p10le"),
        ("12.vp9.webm", VP9, "yuv420p12le"),
        ("10.av1.mp4", AV1, "yuv420p10le"),
        ("12.av1.mkv", AOM, "yuv420p12le"),
        ("12.ffv1.mkv", FFV1, "yuv422p12le"),
        ("16.ffv1.mkv", FFV1, "yuv420p16le"),
        ("grey16.ffv1.mkv", FFV1, "gray16le"),
        ("rgb48.ffv1.mkv", FFV1, "rgb48le"),
        ("rgb48.png.mov", PNG, "rgb48be"),
        ("10.v210.avi", ("-c:v", "v210"), "yuv422p10le"),
        ("12.prores.mov", PRORES, "yuv444p12le"),
    ):
        yield _plain("10, 12 and 16 bits", f"bits/{name}", (*codec, "-pix_fmt", layout))
    for name, codec, layout in (
        ("vp8.webm", (*VP8, "-auto-alt-ref", "0"), "yuva420p"),
        ("vp9.webm", (*VP9, "-auto-alt-ref", "0"), "yuva420p"),
        ("ffv1.mkv", FFV1, "yuva444p"),
        ("bgra.ffv1.mkv", FFV1, "bgra"),
        ("prores.mov", PRORES, "yuva444p10le"),
        ("qtrle.mov", ("-c:v", "qtrle"), "argb"),
        ("png.mov", PNG, "rgba"),
        ("utvideo.avi", ("-c:v", "utvideo"), "gbrap"),
        ("grey.png.mov", PNG, "ya8"),
        ("grey.h264.mp4", H264, "gray"),
        ("grey.mjpeg.mov", MJPEG, "gray"),
        ("grey.ffv1.avi", FFV1, "gray"),
    ):
        yield _plain("alpha and grey", f"alpha/{name}", (*codec, "-pix_fmt", layout))
    wide = ("-pix_fmt", "yuv420p10le", "-color_primaries", "bt2020", "-colorspace", "bt2020nc", "-color_trc")
    for name, codec, transfer in (
        ("pq.hevc.mp4", X265, "smpte2084"),
        ("hlg.hevc.mov", X265, "arib-std-b67"),
        ("pq.av1.mkv", AV1, "smpte2084"),
        ("hlg.vp9.webm", VP9, "arib-std-b67"),
        ("pq.h264.ts", H264, "smpte2084"),
        ("hlg.prores.mov", ("-c:v", "prores_ks"), "arib-std-b67"),
    ):
        layout = ("-pix_fmt", "yuv422p10le", *wide[2:]) if "prores" in name else wide
        yield _plain("HDR", f"hdr/{name}", (*codec, *layout, transfer))
    for name, codec, order in (
        ("tff.h264.mp4", H264, "tff"),
        ("bff.h264.ts", H264, "bff"),
        ("tff.mpeg2.ts", MPEG2, "tff"),
        ("bff.mpeg2.mpg", MPEG2, "bff"),
        ("tff.mpeg4.avi", old("mpeg4"), "tff"),
        ("tff.mpeg2.mkv", MPEG2, "tff"),
    ):
        yield _plain("interlaced", f"fields/{name}", (*codec, "-vf", f"setfield={order}", "-flags", "+ilme+ildct"))
    for name, how in (
        ("wide.mp4", ("-vf", "setsar=4/3")),
        ("tall.mkv", ("-vf", "setsar=8/9")),
        ("mad.mp4", ("-vf", "setsar=1/50")),
        ("full.mp4", ("-pix_fmt", "yuvj420p")),
        ("smpte240m.mp4", ("-colorspace", "smpte240m")),
    ):
        yield _plain("odd sizes and shapes", f"shapes/{name}", (*H264, *how))


def _sizes() -> Iterator[Item]:
    for codec, name, layout, sizes in (
        (H264, "h264.mp4", "yuv444p", ((1, 1), (3, 5), (17, 13), (175, 143), (1, 200), (2000, 3))),
        (H264, "h264.mkv", "yuv420p", ((2, 2), (16, 2), (178, 142), (4096, 2))),
        (X265, "hevc.mp4", "yuv420p", ((16, 16), (178, 142))),
        (VP9, "vp9.webm", "yuv420p", ((1, 1), (3, 5), (175, 143), (1, 200))),
        (VP8, "vp8.webm", "yuv420p", ((1, 1), (17, 13), (175, 143))),
        (AOM, "av1.mkv", "yuv420p", ((1, 1), (17, 13), (175, 143))),
        (FFV1, "ffv1.mkv", "yuv420p", ((1, 1), (175, 143))),
        (FFV1, "rgb.ffv1.mkv", "bgr0", ((1, 1), (5000, 1))),
        (MJPEG, "mjpeg.avi", "yuvj420p", ((1, 1), (17, 13), (175, 143))),
        (MPEG2, "mpeg2.ts", "yuv420p", ((16, 16), (175, 143))),
        (old("mpeg4"), "mpeg4.avi", "yuv420p", ((1, 1), (175, 143))),
        (PNG, "png.mov", "rgb24", ((1, 1), (3, 5))),
        (("-c:v", "rawvideo"), "raw.avi", "bgr24", ((1, 1), (3, 5), (175, 143))),
        (("-c:v", "libtheora", "-q:v", "6"), "theora.ogv", "yuv420p", ((175, 143),)),
        (old("wmv2"), "wmv2.wmv", "yuv420p", ((16, 16), (178, 142))),
    ):
        for width, height in sizes:
            how = (*codec, "-pix_fmt", layout)
            yield _plain("1x1 and odd sizes", f"sizes/{width}x{height}.{name}", how, SHORT[:8], (width, height))
    grey = ("-f", "lavfi", "-i", "color=gray:s=12000x12000:r=1", "-frames:v", "1", "-threads", "1")
    for name, codec in (("mjpeg.mkv", MJPEG), ("h264.mp4", X264), ("png.mov", PNG), ("mpeg4.avi", ("-c:v", "ffv1"))):
        made = Made(f"large/{name}", "12000x12000", codec[1], "failed", size=(12000, 12000))
        layout = "gray" if name == "png.mov" else "yuv420p"
        yield made, lambda path, c=codec, f=layout: ffmpeg(*grey, *c, "-pix_fmt", f, path)


def _counts() -> Iterator[Item]:
    for name, codec in (
        ("h264.mp4", H264),
        ("hevc.mkv", X265),
        ("av1.mp4", AV1),
        ("vp9.webm", VP9),
        ("mjpeg.avi", MJPEG),
        ("mpeg2.ts", MPEG2),
        ("mpeg1.mpg", old("mpeg1video")),
        ("theora.ogv", ("-c:v", "libtheora", "-q:v", "6")),
        ("h264.flv", H264),
        ("wmv2.wmv", old("wmv2")),
        ("prores.mov", ("-c:v", "prores_ks")),
        ("mpeg4.3gp", old("mpeg4")),
    ):
        yield _plain("one frame", f"one/{name}", codec, ALL[:1])
        nothing = Made(f"none/{name}", "no frame", codec[1], "failed")
        yield nothing, lambda path, c=codec: encode(path, reel(ALL[:1]), *c, "-frames:v", "0", "-threads", "1")


def _times(masters: Masters) -> Iterator[Item]:
    """Frame rates and clocks."""
    third = tuple(number for number in ALL if number % 3 != 1)
    bursts = tuple(number for number in ALL if number // 7 % 2 == 0)
    for numbers, choose in ((third, "not(eq(mod(n,3),1))"), (bursts, "not(mod(floor(n/7),2))")):
        for name, codec in (
            ("h264.mp4", H264),
            ("h264.mkv", (*X264, "-bf", "2")),
            ("vp9.webm", VP9),
            ("hevc.mov", X265),
            ("flv1.flv", old("flv")),
            ("wmv2.wmv", old("wmv2")),
            ("h264.ts", H264),
            ("mjpeg.mov", MJPEG),
        ):
            how = (*codec, "-vf", f"select='{choose}'", "-fps_mode", "vfr", "-threads", "1")
            made = Made(
                f"vfr/{len(numbers)}.{name}", "VFR", codec[1], "ok", numbers, whole=True, size=SIZE, note=choose
            )
            yield made, lambda path, h=how: encode(path, reel(), *h)
    for rate in ("1", "0.1", "1000", "30000/1001", "240", "1/7"):
        made = Made(f"rates/{rate.replace('/', ' in ')}.mp4", "odd frame rates", "h264", "ok", SHORT, whole=True)
        made = replace(made, seconds=24 / (float(rate.split("/")[0]) / float((rate + "/1").split("/")[1])))
        yield made, lambda path, r=rate: encode(path, reel(SHORT), *H264, rate=r)
    for name, source, how in (
        ("all 0.mkv", "mpeg4.mkv", ("-bsf:v", "setts=pts=0:dts=0")),
        ("a hole of 10 h.mp4", "h264-fast.mp4", ("-bsf:v", "setts=ts='if(gt(N,29),PTS+36000/TB,PTS)'")),
        ("after 10 days.mkv", "h264.mkv", ("-output_ts_offset", "864000")),
        ("jitter.mkv", "mjpeg.mkv", ("-bsf:v", "setts=ts='PTS+floor(15*random(0))'")),
        ("tiny steps.mp4", "h264-fast.mp4", ("-bsf:v", "setts=ts=N")),
        ("no index.mkv", "h264.mkv", ("-f", "matroska", "-live", "1")),
        ("no metadata.flv", "h264.flv", ("-flvflags", "no_metadata+no_duration_filesize")),
        ("padded.mpg", "mpeg2.mpg", ("-f", "dvd")),
        ("wraps.ts", "h264.ts", ("-output_ts_offset", "95442.7")),
    ):
        made = Made(f"clocks/{name}", "odd clocks", source, "ok", ALL, whole=True, reference=source, note=" ".join(how))
        yield made, lambda path, s=source, h=how: ffmpeg("-i", masters / s, "-map", "0", "-c", "copy", *h, path)
    # An edit list hides what has negative time.
    hidden = ("-output_ts_offset", "-0.5", "-avoid_negative_ts", "disabled")
    made = Made("clocks/negative.mp4", "odd clocks", "h264.mp4", "ok", ALL[12:], whole=True, reference="h264.mp4")
    yield made, lambda path: ffmpeg("-i", masters / "h264.mp4", "-c", "copy", *hidden, path)
    for turn in (90, 180, 270):
        for source in ("h264.mp4", "hevc.mov", "vp9.mkv", "mpeg4.mp4"):
            made = Made(f"turned/{turn}.{source}", "rotation", source, "ok", ALL, whole=True, reference=source)
            yield replace(made, rotation=turn, size=SIZE), partial(_turn, masters, source, turn)
    made = Made("gops/one keyframe.mp4", "odd GOPs", "h264", "ok", ALL, whole=True)
    yield made, lambda path: encode(path, reel(), *X264, "-x264-params", "keyint=999:scenecut=0:log-level=none")
    refresh = "keyint=12:intra-refresh=1:log-level=none"
    yield replace(made, name="gops/refresh.ts"), lambda path: encode(path, reel(), *X264, "-x264-params", refresh)
    leading = "keyint=12:open-gop=1:bframes=4:b-pyramid=normal:log-level=none"
    for name in ("gops/open.mp4", "gops/open.ts", "gops/open.mkv"):
        yield replace(made, name=name), lambda path: encode(path, reel(), *X264, "-x264-params", leading)
    yield replace(made, name="gops/all hidden.webm"), lambda path: encode(path, reel(), *VP9, "-auto-alt-ref", "1")


def _turn(masters: Masters, source: str, turn: int, path: Path) -> None:
    ffmpeg("-display_rotation", 360 - turn, "-i", masters / source, "-map", "0", "-c", "copy", path)


def _changes() -> Iterator[Item]:
    """The picture or the clock changes in the middle of the file."""
    half = FRAMES // 2
    first, second = ALL[:half], ALL[half:]
    for name, format_, ways in (
        ("size.h264.ts", "mpegts", ((H264, SIZE), (H264, (320, 192)))),
        ("size.mpeg2.ts", "mpegts", ((MPEG2, SIZE), (MPEG2, (192, 160)))),
        ("size.h264", "h264", ((H264, SIZE), (H264, (320, 192)))),
        ("size.hevc", "hevc", ((X265, SIZE), (X265, (320, 192)))),
        ("size.mpeg2.mpg", "mpeg", ((MPEG2, SIZE), (MPEG2, (192, 160)))),
        ("format.h264.ts", "mpegts", ((H264, SIZE), ((*H264, "-pix_fmt", "yuv444p"), SIZE))),
        ("bits.hevc.ts", "mpegts", ((X265, SIZE), ((*X265, "-pix_fmt", "yuv420p10le"), SIZE))),
        ("codec.ts", "mpegts", ((H264, SIZE), (MPEG2, SIZE))),
        ("clock.h264.ts", "mpegts", ((H264, SIZE), (H264, SIZE))),
        ("clock.mpeg1.mpg", "mpeg", ((old("mpeg1video"), SIZE), (old("mpeg1video"), SIZE))),
        ("clock.mpeg2.ts", "mpegts", ((MPEG2, SIZE), (MPEG2, SIZE))),
        ("bare.mjpeg.avi", "mjpeg", ((MJPEG, SIZE), (MJPEG, (320, 192)))),
    ):
        made = Made(
            f"changes/{name}",
            "changes in mid-stream",
            format_,
            "ok",
            ALL,
            whole="mpeg2" not in name and name != "codec.ts",
        )
        parts = [(numbers, codec, size) for numbers, (codec, size) in zip((first, second), ways, strict=True)]
        yield made, partial(_join, parts, format_)


def _join(parts: list[tuple[tuple[int, ...], tuple[str, ...], tuple[int, int]]], format_: str, path: Path) -> None:
    """Recordings one after the other in one stream of bytes; of bare JPEG pictures an AVI is made."""
    data = b""
    for number, (numbers, codec, size) in enumerate(parts):
        part = path.with_name(f"{path.name}.{number}")
        layout = () if "-pix_fmt" in codec else ("-pix_fmt", "yuvj420p" if format_ == "mjpeg" else "yuv420p")
        encode(part, reel(numbers, size), *codec, *layout, "-threads", "1", "-f", format_)
        data += part.read_bytes()
        part.unlink()
    if format_ != "mjpeg":
        path.write_bytes(data)
        return
    bare = path.with_name(f"{path.name}.bare")
    bare.write_bytes(data)
    ffmpeg("-f", "mjpeg", "-framerate", "24", "-i", bare, "-c", "copy", path)
    bare.unlink()


def _streams(masters: Masters) -> Iterator[Item]:
    """Several streams, and what is no video."""
    kind = "several streams, attachments"
    one = Made("streams/two.mkv", kind, "h264.mp4", "ok", ALL, whole=True, size=SIZE, reference="h264.mp4")
    two = replace(one, size=(256, 144), reference="")

    def mix(name: str, which: Made, *arguments: object, inputs: tuple[str, ...] = ("h264.mp4", "dnxhr.mov")) -> Item:
        def make(path: Path) -> None:
            cover = path.with_name("cover.png")
            if "COVER" in arguments or "COVER" in inputs:
                encode(cover, reel((2999,)), "-frames:v", "1")
            places = {"COVER": cover, **{source: masters / source for source in inputs if "." in source}}
            files = [part for source in inputs for part in (TONE if source == "TONE" else ("-i", places[source]))]
            ffmpeg(*files, *(places.get(str(argument), argument) for argument in arguments), path)
            cover.unlink(missing_ok=True)

        return replace(which, name=f"streams/{name}"), make

    fast = ("libx264", "-preset", "ultrafast")
    both = ("-map", "0:v", "-map", "1:v", "-c:v:0", "copy", "-c:v:1", *fast)
    swap = ("-map", "1:v", "-map", "0:v", "-c:v:0", *fast, "-c:v:1", "copy")
    yield mix("two.mkv", one, *both, "-disposition:v:0", "default")
    yield mix("second is default.mkv", two, *both, "-disposition:v:0", "0", "-disposition:v:1", "default")
    yield mix("two.mp4", one, *both)
    yield mix("other first.mp4", two, *swap)
    yield mix("two.ts", one, *both)
    attached = ("-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic")
    yield mix("cover.mp4", one, *attached, inputs=("h264.mp4", "COVER"))
    tags = ("-metadata:s:t", "mimetype=application/octet-stream", "-metadata:s:t", "filename=../../x")
    yield mix("attached.mkv", one, "-map", "0", "-c", "copy", "-attach", "COVER", *tags, inputs=("h264.mp4",))
    for name in ("sound first.mkv", "sound first.mp4", "sound first.ts"):
        how = ("-map", "1:a", "-map", "0:v", "-c:v", "copy", "-c:a", "aac")
        yield mix(name, one, *how, inputs=("h264.mp4", "TONE"))
    none = Made("", "no video in it", "", "failed")
    for name in ("sound.m4a", "sound.wav", "sound.mp3", "sound.mkv", "sound.mp4", "sound.ogg", "sound.flac"):
        yield mix(name, none, inputs=("TONE",))
    song = ("-map", "0:a", "-map", "1:v", "-c:v", "copy", "-disposition:v:0", "attached_pic")
    yield mix("song with cover.m4a", none, *song, inputs=("TONE", "COVER"))
