"""Made frames as files that people open: mp4, gif, or png where there is one frame. By the ffmpeg that comes along."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from orchestration.errors import ConfigError, RushesError

# One thread, and no version in the file: equal frames, equal bytes.
_EXACT = ("-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact")
_HOW: dict[str, Sequence[str]] = {
    ".mp4": ("-c:v", "libx264", "-crf", "16", "-preset", "slow", "-pix_fmt", "yuv420p", "-movflags", "+faststart"),
    ".gif": ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse", "-loop", "0"),
    ".png": ("-frames:v", "1", "-update", "1"),
}


def names(out: str, count: int, frames: int) -> list[Path]:
    """Where `count` videos go: `out`, or where there are several NAME-1.mp4, NAME-2.mp4, ... Makes their folder.

    Raises ConfigError for an ending that cannot be written, a png of several frames, a place that cannot be written.
    """
    path = Path(out).expanduser()
    if path.suffix not in _HOW:
        raise ConfigError(f"out is {out}: the ending says the format, one of {', '.join(_HOW)}")
    if path.suffix == ".png" and frames > 1:
        raise ConfigError(f"out is {out}: a png holds one frame, and there are {frames}; take mp4 or gif, or frames=1")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out is {out}: cannot make its folder: {error.strerror or error}") from error
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"out is {out}: {path.parent} cannot be written to")
    paths = [path] if count == 1 else [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]
    if folder := next((one for one in paths if one.is_dir()), None):
        raise ConfigError(f"out is {out}: {folder} is a folder")
    return paths


def write(path: Path, frames: np.ndarray, fps: float) -> None:
    """uint8 RGB [T, H, W, 3], H and W even. What has the name is replaced when all is written. Raises RushesError."""
    _, height, width, _ = frames.shape
    made = path.with_stem(f".{path.stem}-{os.getpid()}")
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *raw, *_HOW[path.suffix], *_EXACT, str(made)]
    try:
        done = subprocess.run(command, input=np.ascontiguousarray(frames).data, capture_output=True, check=False)
        if done.returncode:
            raise RushesError(f"cannot write {path}: {done.stderr.decode(errors='replace').strip()}")
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
