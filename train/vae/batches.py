"""What a step learns from: a pure function of seed, step and rank, so that resuming needs no state."""

from __future__ import annotations

import numpy as np
import torch

from train.vae.config import StageConfig
from train.vae.windows import Windows

FASTEST = 16.0  # px a frame, of motion that is added


def batch(windows: Windows, stage: StageConfig, seed: int, step: int, rank: int) -> torch.Tensor:
    """[B, 3, T, H, W] float32 in [-1, 1], of a stage's shape; T is 1 for its share of picture steps.

    All ranks take pictures in the same steps. A sample is a random piece of a window, mirrored, turned by a quarter or
    played backwards as a coin falls; a share `stage.motion` of the videos moves faster than the film does, a share
    `stage.faded` of all has less contrast.
    """
    pictures = np.random.default_rng([seed, step]).random() < stage.images or stage.frames == 1
    rng = np.random.default_rng([seed, step, rank])
    frames = 1 if pictures else stage.frames
    samples = []
    for _ in range(stage.image_batch if pictures else stage.batch):
        sample = _piece(windows, stage.size, frames, rng)
        if frames > 1 and stage.motion and rng.random() < stage.motion:
            sample = _moved(windows, stage.size, frames, rng, sample)
        mirrored, turned, backwards = rng.random(3) < 0.5
        if mirrored:
            sample = sample[:, :, ::-1]
        if turned:
            sample = sample.transpose(0, 2, 1, 3)
        if backwards:
            sample = sample[::-1]
        if stage.faded and rng.random() < stage.faded:
            sample = _faded(sample, rng)
        samples.append(np.array(sample))
    return pixels(np.stack(samples))


def _piece(windows: Windows, size: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """[T, S, S, 3]. A picture is a clip's own or a video's frame: as many of each as there are windows and pictures."""
    number = int(rng.integers(len(windows.learnt) + (len(windows.stills) if frames == 1 else 0)))
    video = number < len(windows.learnt)
    source = windows.pixels[windows.learnt[number]] if video else windows.stills[number - len(windows.learnt)]
    t, y, x = rng.integers(0, [len(source) - frames + 1] + [source.shape[1] - size + 1] * 2)
    return source[t : t + frames, y : y + size, x : x + size]


def _moved(windows: Windows, size: int, frames: int, rng: np.random.Generator, below: np.ndarray) -> np.ndarray:
    """[T, S, S, 3]: another window passes by, whole, or a part of it with an edge, in front of `below`.

    Steady from a quarter to `FASTEST` px a frame in any direction; at the window's border it turns back.
    """
    source = windows.pixels[windows.learnt[int(rng.integers(len(windows.learnt)))]]
    t = int(rng.integers(0, len(source) - frames + 1))
    room = source.shape[1] - size
    speed, angle = np.exp(rng.uniform(np.log(0.25), np.log(FASTEST))), rng.uniform(0, 2 * np.pi)
    way = rng.uniform(0, room, 2) + np.arange(frames)[:, None] * speed * np.array([np.sin(angle), np.cos(angle)])
    places = np.abs((way + room) % (2 * room) - room).round().astype(int) if room else np.zeros((frames, 2), int)
    front = np.ones(source.shape[1:3], bool)
    if rng.random() < 0.5:
        rows, columns = np.mgrid[-1 : 1 : source.shape[1] * 1j, -1 : 1 : source.shape[2] * 1j]
        edge = rng.uniform(0, 2 * np.pi)
        front = rows * np.sin(edge) + columns * np.cos(edge) > rng.uniform(-0.5, 0.5)
    made = np.empty_like(below)
    for number, (y, x) in enumerate(places):
        here = slice(y, y + size), slice(x, x + size)
        made[number] = np.where(front[here][..., None], source[t + number][here], below[number])
    return made


def _faded(sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mixed with one grey: down to a quarter of its contrast."""
    share, grey = rng.uniform(0.25, 1), rng.uniform(0, 255)
    return np.round(share * sample + (1 - share) * grey).astype(np.uint8)


def pixels(videos: np.ndarray) -> torch.Tensor:
    """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W] in [-1, 1]."""
    x = torch.from_numpy(np.require(videos, requirements="W")).permute(0, 4, 1, 2, 3)
    return x.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)
