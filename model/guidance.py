"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598), and CogVideoX's dynamic scale."""

from __future__ import annotations

import math

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Away from the prediction without the text, towards the one with it. scale 1: no guidance."""
    return unconditional + scale * (conditional - unconditional)


def dynamic_scale(scale: float, step: int, steps: int, exponent: float = 5.0) -> float:
    """Guidance that rises from 1 at the first of `steps` denoising steps towards 1 + scale at the last.

    Source: the sampling code released with CogVideoX. (diffusers puts the timestep, up to 999, where the step belongs.)
    """
    return 1 + scale * (1 - math.cos(math.pi * (step / steps) ** exponent)) / 2
