"""Optimizers that torch has, for networks as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn


class ConvMuon(torch.optim.Muon):
    """torch's Muon (Jordan et al., 2024), which takes matrices, for weights of convolutions: [out, in, ...] is a matrix
    of `out` rows.

    Its parameters are views of the weights, so that state and updates are those of matrices.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, momentum: float = 0.95):
        self._weights = list(weights)
        matrices = [nn.Parameter(weight.detach().flatten(1)) for weight in self._weights]
        shared = all(a.data_ptr() == b.data_ptr() for a, b in zip(matrices, self._weights, strict=True))
        if not shared:
            raise ValueError("weights that are not contiguous cannot be updated in place")
        super().__init__(matrices, lr=lr, momentum=momentum, weight_decay=0.0)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for matrix, weight in zip(self.param_groups[0]["params"], self._weights, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for weight in self._weights:
            weight.grad = None


def scale_lr(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set each group's learning rate to `factor` times the one that it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """An exponential moving average of weights takes one step towards them."""
    for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)
