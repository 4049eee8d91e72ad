"""What a step learns from: a pure function of seed, step and rank, so that resuming needs no state."""

from __future__ import annotations

import numpy as np
import torch

from train.vae.config import StageConfig
from train.vae.windows import Windows


def batch(windows: Windows, stage: StageConfig, seed: int, step: int, rank: int) -> torch.Tensor:
    """[B, 3, T, H, W] float32 in [-1, 1], of a stage's shape; T is 1 for its share of picture steps.

    All ranks take pictures in the same steps. A sample is a random piece of a window, mirrored, turned by a quarter or
    played backwards as a coin falls.
    """
    pictures = np.random.default_rng([seed, step]).random() < stage.images or stage.frames == 1
    rng = np.random.default_rng([seed, step, rank])
    frames = 1 if pictures else stage.frames
    samples = []
    for _ in range(stage.image_batch if pictures else stage.batch):
        # A picture is a clip's own or a video's frame: as many of each as there are windows and pictures.
        number = int(rng.integers(len(windows.learnt) + (len(windows.stills) if pictures else 0)))
        video = number < len(windows.learnt)
        source = windows.pixels[windows.learnt[number]] if video else windows.stills[number - len(windows.learnt)]
        t, y, x = rng.integers(0, [len(source) - frames + 1] + [source.shape[1] - stage.size + 1] * 2)
        sample = source[t : t + frames, y : y + stage.size, x : x + stage.size]
        mirrored, turned, backwards = rng.random(3) < 0.5
        if mirrored:
            sample = sample[:, :, ::-1]
        if turned:
            sample = sample.transpose(0, 2, 1, 3)
        if backwards:
            sample = sample[::-1]
        samples.append(np.array(sample))
    return pixels(np.stack(samples))


def pixels(videos: np.ndarray) -> torch.Tensor:
    """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W] in [-1, 1]."""
    x = torch.from_numpy(np.require(videos, requirements="W")).permute(0, 4, 1, 2, 3)
    return x.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)
