"""What the transformer learns to predict, and how far off it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.diffusion import NoiseSchedule, add_noise, target
from train.data import Examples


def losses(
    network: Callable[..., Tensor],
    schedule: NoiseSchedule,
    alpha_bars: Tensor,
    examples: Examples,
    dtype: torch.dtype,
) -> Tensor:
    """Mean squared error of each example's prediction, [B] float32 (CogVideoX, section 2.3: for v, plain).

    alpha_bars: [timesteps] float64, `schedule.alpha_bars()`. dtype: of what the network is given.
    """
    alpha_bar = alpha_bars[examples.timesteps.cpu()]
    latents, noise = examples.latents.float(), examples.noise.float()
    noisy = add_noise(latents, noise, alpha_bar)
    wanted = target(latents, noise, alpha_bar, schedule.prediction_type)
    found = network(noisy.to(dtype), examples.text.to(dtype), examples.timesteps)
    return (found.float() - wanted).square().flatten(1).mean(1)
