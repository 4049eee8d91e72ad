"""Real footage in which every frame carries its number, so that a frame can be told however it was coded or broken.

The number is a strip of 16 black and white cells along the top: 12 bits of it and 4 of a check. The reel changes its
source every SHOT frames, so that shots are found in it.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import av
import cv2
import imageio_ffmpeg
import numpy as np

from curation.samples import fetch

SAMPLES = Path(__file__).parents[1] / ".cache" / "samples"
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FOOTAGE = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
SIZE, FRAMES, SHOT, RATE = (160, 96), 60, 20, 24  # (width, height); frames a second
CELLS, BITS = 16, 12
DARK, LIGHT = 20, 235
SMALLEST = (64, 24)  # in which a strip can be read after coding


def reel(numbers: Iterable[int] = range(FRAMES), size: tuple[int, int] = SIZE) -> np.ndarray:
    """[T, H, W, 3] uint8 RGB: the frames of those numbers."""
    footage = _footage()
    pictures = []
    for number in numbers:
        source = footage[number // SHOT % len(footage)]
        picture = cv2.resize(source[number % len(source)], size, interpolation=cv2.INTER_AREA)
        if _fits(size):
            _burn(picture, number)
        pictures.append(picture)
    return np.stack(pictures)


def number_of(picture: np.ndarray) -> int | None:
    """The number that a picture ([H, W, 3] uint8, upright) carries; None where the strip is not whole."""
    height, width = picture.shape[:2]
    if not _fits((width, height)):
        return None
    strip = picture[height // 32 : max(height // 32 + 1, height // 10), :, :].astype(np.float32).mean((0, 2))
    edges = np.linspace(0, width, CELLS + 1)
    means = [strip[round(a + (b - a) / 4) : round(b - (b - a) / 4)].mean() for a, b in itertools.pairwise(edges)]
    if any(90 < mean < 165 for mean in means):
        return None
    code = sum(int(mean > 127) << place for place, mean in enumerate(means))
    number, check = code & (1 << BITS) - 1, code >> BITS
    return number if check == _check(number) else None


def encode(
    path: Path, pictures: np.ndarray, *arguments: object, rate: object = RATE, before: Sequence[str] = ()
) -> Path:
    """`pictures` ([T, H, W, 3] RGB) through the ffmpeg program with `arguments` for its output."""
    height, width = pictures.shape[1:3]
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-")
    ffmpeg(*before, *source, *arguments, path, data=np.ascontiguousarray(pictures).tobytes())
    return path


def ffmpeg(*arguments: object, data: bytes | None = None) -> None:
    """Run the program. Raises RuntimeError with what it said."""
    command = [FFMPEG, "-hide_banner", "-loglevel", "error", "-y", "-nostdin", *map(str, arguments)]
    if data is not None:
        command.remove("-nostdin")
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.decode(errors='replace')[-2000:]}")


def _fits(size: tuple[int, int]) -> bool:
    return size[0] >= SMALLEST[0] and size[1] >= SMALLEST[1]


def _check(number: int) -> int:
    return (number * 7 + (number >> 4) * 3 + (number >> 8) + 5) & 15


def _burn(picture: np.ndarray, number: int) -> None:
    height, width = picture.shape[:2]
    code = number | _check(number) << BITS
    edges = np.linspace(0, width, CELLS + 1).round().astype(int)
    for place in range(CELLS):
        picture[: height // 8, edges[place] : edges[place + 1]] = LIGHT if code >> place & 1 else DARK


@functools.cache
def _footage() -> list[np.ndarray]:
    """Of each source SHOT * 4 frames, [T, H, W, 3] at 320 x 192."""
    paths = {path.name: path for path in fetch(SAMPLES, "small")}
    found = []
    for name in FOOTAGE:
        with av.open(str(paths[name])) as container:
            frames = (f.to_ndarray(format="rgb24", width=320, height=192) for f in container.decode(video=0))
            found.append(np.stack([picture for picture, _ in zip(frames, range(SHOT * 4), strict=False)]))
    return found
