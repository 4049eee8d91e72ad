"""Making test videos of every kind from real footage, with the ffmpeg program of imageio-ffmpeg."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from curation.container import frame_hash, open_video
from curation.cut import CutRequest
from curation.media.verify import frames_hash
from curation.video import Span

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
TONE_FROM = 1.0  # seconds
ENCODERS = {
    "h264": ("libx264", "-preset", "veryfast"),
    "hevc": ("libx265", "-preset", "ultrafast"),
    "av1": ("libsvtav1", "-preset", "12", "-svtav1-params", "lp=1"),
    "vp9": ("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "800k"),
    "vp8": ("libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "800k"),
    "mpeg2": ("mpeg2video", "-q:v", "4"),
    "mpeg4": ("mpeg4", "-q:v", "4"),
    "mjpeg": ("mjpeg", "-q:v", "4"),
    "prores": ("prores_ks",),
    "ffv1": ("ffv1",),
    "wmv2": ("wmv2", "-q:v", "4"),
    "theora": ("libtheora", "-q:v", "6"),
}


def ffmpeg(*arguments: object) -> str:
    """Run the program; its standard output. Raises RuntimeError with what it said."""
    command = [FFMPEG, "-hide_banner", "-loglevel", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def make_video(
    path: Path,
    source: Path,
    codec: str = "h264",
    *,
    frames: int = 90,
    size: tuple[int, int] = (320, 180),
    gop: int = 30,
    bframes: int = 2,
    open_gop: bool = False,
    rotation: int = 0,
    sar: str = "1",
    vfr: bool = False,
    interlaced: bool = False,
    pix_fmt: str = "yuv420p",
    audio: str | None = None,
    filters: str = "",
    extra: tuple[str, ...] = (),
) -> Path:
    """Encode `frames` frames of `source`, repeated as needed, to `path`; the container is that of its suffix.

    `rotation`: degrees counter-clockwise that a player has to turn the picture. `vfr`: every third frame is missing.
    `audio`: encoder of a sound that is silent until TONE_FROM, then a tone. `size`: (width, height).
    """
    chain = [f"scale={size[0]}:{size[1]}", f"setsar={sar}"]
    if vfr:
        chain.append("select='not(eq(mod(n,3),1))'")
    if interlaced:
        chain.append("tinterlace=interleave_top,fieldorder=tff")
    if filters:
        chain.append(filters)
    encoder = list(ENCODERS[codec])
    if codec in ("h264", "hevc"):
        params = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={bframes}:open-gop={int(open_gop)}"
        encoder += ["-x264-params" if codec == "h264" else "-x265-params", params + ":log-level=none"]
    elif codec in ("mpeg2", "mpeg4"):
        encoder += ["-g", str(gop), "-bf", str(bframes), "-flags", "-cgop" if open_gop else "+cgop"]
        encoder += ["-sc_threshold", "1000000000"]
    else:
        encoder += ["-g", str(gop)]
    if interlaced:
        encoder += ["-flags", "+ilme+ildct"]
    tone = ["-f", "lavfi", "-i", f"aevalsrc='gte(t,{TONE_FROM})*sin(2*PI*440*t)':s=48000"] if audio else []
    sound = ["-map", "1:a", "-c:a", audio, "-shortest"] if audio else ["-an"]
    target = path.with_suffix(".upright" + path.suffix) if rotation else path
    ffmpeg(
        *("-stream_loop", "-1", "-i", source, *tone, "-map", "0:v", "-vf", ",".join(chain)),
        *("-fps_mode", "passthrough" if vfr else "auto", "-frames:v", frames, "-pix_fmt", pix_fmt, "-c:v", *encoder),
        *(*sound, "-threads", "1", *extra, target),
    )
    if rotation:
        ffmpeg("-display_rotation", rotation, "-i", target, "-map", "0", "-c", "copy", path)
        target.unlink()
    return path


@dataclass(frozen=True)
class Scan:
    """What a decode from the start leaves of a file: the facts that cut requests are made of."""

    hashes: list[int]
    pts: list[int | None]
    end_pts: int | None

    def request(self, start: int, end: int, target: Path) -> CutRequest:
        after = self.pts[end] if end < len(self.pts) else self.end_pts
        timed = None not in self.pts
        hashes = self.hashes[start:end]
        return CutRequest(
            Span(start, end),
            self.pts[start] if timed else None,
            after if timed else None,
            *(hashes[0], hashes[-1], frames_hash(hashes), target),
        )


def scan_video(path: Path) -> Scan:
    """Decode a whole file as the scan does."""
    container, stream = open_video(path)
    hashes, pts, end = [], [], None
    with container:
        step = round(1 / ((stream.average_rate or 25) * (stream.time_base or 1))) or 1
        for packet in container.demux(stream):
            for frame in stream.codec_context.decode(packet if packet.size else None):
                hashes.append(frame_hash(frame))
                pts.append(frame.pts)
                end = None if frame.pts is None else frame.pts + (frame.duration or step)
    return Scan(hashes, pts, end)


def frame_md5(path: Path, span: tuple[int, int] | None = None) -> list[str]:
    """MD5 of every decoded frame by the ffmpeg program: all that the file shows, or those of a span by index."""
    choose = ["-vf", f"trim=start_frame={span[0]}:end_frame={span[1]}"] if span else []
    arguments = (
        "-noautorotate",
        "-i",
        path,
        "-map",
        "0:v:0",
        *choose,
        "-fps_mode",
        "passthrough",
        "-f",
        "framemd5",
        "-",
    )
    lines = ffmpeg(*arguments).splitlines()
    return [line.rsplit(",", 1)[1].strip() for line in lines if line and not line.startswith("#")]
