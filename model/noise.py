"""Standard normal noise, drawn where its generator is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def standard_normal(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Of a shape, on a device. A generator on the CPU gives the same noise to every device."""
    drawn_on = generator.device if generator is not None else device
    return torch.randn(tuple(shape), generator=generator, device=drawn_on, dtype=dtype).to(device)
