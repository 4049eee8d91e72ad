"""One step of denoising, from ᾱ to the next ᾱ. Pure functions; noise is given."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def trailing_timesteps(steps: int, timesteps: int = 1000) -> list[int]:
    """`steps` timesteps from the last one down, evenly spaced (Lin et al., arXiv 2305.08891: "trailing")."""
    if not 1 <= steps <= timesteps:
        raise ValueError(f"{steps} steps; there are 1 to {timesteps}")
    spaced = torch.arange(steps, 0, -1, dtype=torch.float64) * timesteps / steps
    return [round(float(place)) - 1 for place in spaced]


def ddim_step(x_t: Tensor, x0: Tensor, alpha_bar: float, alpha_bar_next: float) -> Tensor:
    """Deterministic DDIM (Song et al., arXiv 2010.02502): x_t and the predicted x0 to x at the next ᾱ."""
    keep = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar))
    return keep * x_t + (math.sqrt(alpha_bar_next) - math.sqrt(alpha_bar) * keep) * x0


def dpm_step(
    x_t: Tensor,
    x0: Tensor,
    noise: Tensor,
    alpha_bar: float,
    alpha_bar_next: float,
    x0_before: Tensor | None = None,
    alpha_bar_before: float | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2 with noise), as CogVideoX samples.

    Args:
        x0: predicted from x_t.
        noise: standard normal, like x_t.
        x0_before, alpha_bar_before: the step before's; without them the step is of first order. The last step (to
            ᾱ = 1) always is.
    """
    keep = math.exp(-(_half_log_snr(alpha_bar_next) - _half_log_snr(alpha_bar)))  # e^-h, 0 from or to an end
    direction = x0
    if x0_before is not None and alpha_bar_before is not None and alpha_bar_next < 1:
        h = _half_log_snr(alpha_bar_next) - _half_log_snr(alpha_bar)
        weight = h / (_half_log_snr(alpha_bar) - _half_log_snr(alpha_bar_before)) / 2  # 1/2r, 0 behind pure noise
        direction = (1 + weight) * x0 - weight * x0_before
    shrink = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar)) * keep
    fresh = math.sqrt((1 - alpha_bar_next) * (1 - keep**2))
    return shrink * x_t + math.sqrt(alpha_bar_next) * (1 - keep**2) * direction + fresh * noise


def _half_log_snr(alpha_bar: float) -> float:
    """λ = log √(ᾱ/(1-ᾱ)); -∞ for pure noise, ∞ for none."""
    if alpha_bar <= 0:
        return -math.inf
    return math.inf if alpha_bar >= 1 else 0.5 * math.log(alpha_bar / (1 - alpha_bar))
