"""The undamaged files: the reel in every container and codec that the ffmpeg program writes and rushes opens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hostile_reel import FRAMES, RATE, SIZE, encode, reel

X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "26", "-x264-params", "keyint=12:scenecut=0:log-level=none")
H264_LONG = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "30", "-g", "60", "-pix_fmt", "yuv420p")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-crf", "28", "-x265-params", "keyint=12:log-level=none:pools=none")
AV1 = ("-c:v", "libsvtav1", "-preset", "12", "-crf", "40", "-g", "12", "-svtav1-params", "lp=1")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "400k", "-g", "12")
VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "400k", "-g", "12")
PAL, CIF = (720, 576), (176, 144)
FEW = 24


def old(codec: str, quality: int = 5) -> tuple[str, ...]:
    """libavcodec's own encoders of the MPEG family and its relatives."""
    return ("-c:v", codec, "-q:v", str(quality), "-g", "12")


@dataclass(frozen=True)
class Recipe:
    """How the reel becomes a file; the suffix of its name says the container unless `extra` does."""

    encoder: tuple[str, ...]
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = SIZE
    rate: str = str(RATE)
    extra: tuple[str, ...] = ()
    frames: int = FRAMES  # fewer of what is large or slow to make

    def make(self, path: Path) -> Path:
        """The file, under its name only once it is whole; nothing is done where it is there already."""
        if not path.exists():
            partial = path.with_name(f"partial-{path.name}")
            arguments = (*self.encoder, "-pix_fmt", self.pix_fmt, "-threads", "1", *self.extra)
            encode(partial, reel(range(self.frames), self.size), *arguments, rate=self.rate).rename(path)
        return path


MASTERS: dict[str, Recipe] = {
    "h264.mp4": Recipe((*X264, "-bf", "2")),
    "h264-fast.mp4": Recipe(X264, extra=("-movflags", "+faststart")),
    "h264-fragments.mp4": Recipe(X264, extra=("-movflags", "+frag_keyframe+empty_moov")),
    "h264.m4v": Recipe(X264, extra=("-f", "ipod")),
    "h264.f4v": Recipe(X264, extra=("-f", "f4v")),
    "h264.mov": Recipe((*X264, "-bf", "2")),
    "h264.mkv": Recipe((*X264, "-bf", "2")),
    "h264.avi": Recipe((*X264, "-bf", "0")),
    "h264.ts": Recipe((*X264, "-bf", "2")),
    "h264.m2ts": Recipe(X264, extra=("-mpegts_m2ts_mode", "1")),
    "h264.flv": Recipe(X264),
    "h264.3gp": Recipe(X264),
    "h264.nut": Recipe(X264),
    "h264.h264": Recipe(X264),
    "hevc.mp4": Recipe(X265),
    "hevc.mov": Recipe((*X265, "-tag:v", "hvc1")),
    "hevc.mkv": Recipe(X265),
    "hevc.ts": Recipe(X265),
    "hevc.flv": Recipe(X265),
    "hevc.hevc": Recipe(X265),
    "av1.mp4": Recipe(AV1),
    "av1.mkv": Recipe(AV1),
    "av1.webm": Recipe(AV1),
    "av1.ivf": Recipe(AV1),
    "av1.obu": Recipe(AV1),
    "vp8.webm": Recipe(VP8),
    "vp8.ivf": Recipe(VP8),
    "vp8.mkv": Recipe(VP8),
    "vp9.webm": Recipe(VP9),
    "vp9.mp4": Recipe(VP9),
    "vp9.mkv": Recipe(VP9),
    "vp9.ivf": Recipe(VP9),
    "mpeg1.mpg": Recipe(old("mpeg1video")),
    "mpeg1.ts": Recipe(old("mpeg1video")),
    "mpeg2.mpg": Recipe((*old("mpeg2video"), "-bf", "2")),
    "mpeg2.vob": Recipe(old("mpeg2video")),
    "mpeg2.ts": Recipe((*old("mpeg2video"), "-bf", "2")),
    "mpeg2.mxf": Recipe(old("mpeg2video")),
    "mpeg2.mkv": Recipe(old("mpeg2video")),
    "mpeg2.m2v": Recipe(old("mpeg2video"), extra=("-f", "mpeg2video")),
    "mpeg2.wtv": Recipe(old("mpeg2video")),
    "mpeg2.gxf": Recipe(old("mpeg2video"), size=PAL, rate="25", frames=FEW),
    "mpeg4.mp4": Recipe((*old("mpeg4"), "-bf", "2")),
    "mpeg4.avi": Recipe(old("mpeg4")),
    "mpeg4.3gp": Recipe(old("mpeg4"), size=CIF),
    "mpeg4.mkv": Recipe(old("mpeg4")),
    "mpeg4.asf": Recipe(old("mpeg4")),
    "h263.3gp": Recipe(old("h263"), size=CIF),
    "h263p.avi": Recipe(old("h263p")),
    "msmpeg4v2.avi": Recipe(old("msmpeg4v2")),
    "msmpeg4v3.avi": Recipe(old("msmpeg4")),
    "wmv1.wmv": Recipe(old("wmv1")),
    "wmv2.wmv": Recipe(old("wmv2")),
    "wmv2.asf": Recipe(old("wmv2")),
    "flv1.flv": Recipe(old("flv")),
    "theora.ogv": Recipe(("-c:v", "libtheora", "-q:v", "6", "-g", "12")),
    "theora.mkv": Recipe(("-c:v", "libtheora", "-q:v", "6", "-g", "12")),
    "rv10.rm": Recipe(old("rv10"), size=CIF),
    "rv20.rm": Recipe(old("rv20"), size=CIF),
    "mjpeg.mov": Recipe(old("mjpeg"), "yuvj420p"),
    "mjpeg.avi": Recipe(old("mjpeg"), "yuvj420p"),
    "mjpeg.mkv": Recipe(old("mjpeg"), "yuvj420p"),
    "prores.mov": Recipe(("-c:v", "prores_ks", "-profile:v", "0"), "yuv422p10le"),
    "prores.mkv": Recipe(("-c:v", "prores_ks", "-profile:v", "0"), "yuv422p10le"),
    "prores4444.mov": Recipe(("-c:v", "prores_ks", "-profile:v", "4"), "yuva444p10le", frames=FEW),
    "dnxhr.mov": Recipe(("-c:v", "dnxhd", "-profile:v", "dnxhr_lb"), "yuv422p", (256, 144)),
    "dnxhr.mxf": Recipe(("-c:v", "dnxhd", "-profile:v", "dnxhr_lb"), "yuv422p", (256, 144)),
    "cineform.mov": Recipe(("-c:v", "cfhd"), "yuv422p10le"),
    "ffv1.mkv": Recipe(("-c:v", "ffv1", "-slicecrc", "1", "-slices", "4", "-level", "3")),
    "ffv1.avi": Recipe(("-c:v", "ffv1", "-level", "1")),
    "ffv1.nut": Recipe(("-c:v", "ffv1", "-slicecrc", "1", "-slices", "4", "-level", "3")),
    "huffyuv.avi": Recipe(("-c:v", "huffyuv"), "yuv422p"),
    "utvideo.mkv": Recipe(("-c:v", "utvideo")),
    "zmbv.avi": Recipe(("-c:v", "zmbv", "-g", "12"), "bgr0", frames=FEW),
    "cinepak.avi": Recipe(("-c:v", "cinepak", "-g", "12"), "rgb24", frames=FEW),
    "qtrle.mov": Recipe(("-c:v", "qtrle", "-g", "12"), "rgb24", frames=FEW),
    "png.mov": Recipe(("-c:v", "png"), "rgb24", frames=FEW),
    "svq1.mov": Recipe(("-c:v", "svq1", "-q:v", "4", "-g", "12"), "yuv410p"),
    "snow.nut": Recipe(("-c:v", "snow", "-q:v", "4", "-g", "12")),
    "raw.avi": Recipe(("-c:v", "rawvideo"), "bgr24", frames=FEW),
    "raw.y4m": Recipe(("-c:v", "rawvideo"), extra=("-f", "yuv4mpegpipe")),
    "v210.mov": Recipe(("-c:v", "v210"), "yuv422p10le", frames=FEW),
    "dv.dv": Recipe(("-c:v", "dvvideo"), "yuv420p", PAL, "25", frames=FEW),
    "dv.avi": Recipe(("-c:v", "dvvideo"), "yuv420p", PAL, "25", frames=FEW),
    "jpeg2000.mkv": Recipe(("-c:v", "jpeg2000", "-q:v", "6")),
}

# Those in which missing bytes and zeros must be noticed: packets say how long they are, and what is coded holds no run
# of zeros. In bare streams and transport streams the last picture may simply end early; others are read as pixels.
TELLING = tuple(
    name
    for name in MASTERS
    if name.startswith(("h264", "hevc", "av1", "vp8", "vp9", "mpeg1", "mpeg2", "mpeg4"))
    and not name.endswith((".ts", ".m2ts", ".mpg", ".vob", ".hevc", ".h264", ".obu", ".m2v"))
)


@dataclass(frozen=True)
class Masters:
    """The folder of the undamaged files; each is made when its path is first asked for."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return MASTERS[name].make(self.folder / name)

    def data(self, name: str) -> bytes:
        return (self / name).read_bytes()
