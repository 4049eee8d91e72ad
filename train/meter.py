"""What a training takes and how far it is off, between two lines of metrics.jsonl."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from model.flops import mfu, train_flops
from model.transformer import TransformerConfig
from train.data import Examples
from train.ranks import Ranks

RANGES = 9  # that timesteps are divided into, where losses are told apart by timestep
# Dense bfloat16 peaks [FLOP/s] of NVIDIA's data sheets, by what the device's name holds. The first that fits counts.
PEAKS = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "A10G": 70e12,
    "V100": 125e12,
}


def peak_flops(device: torch.device) -> float | None:
    """Of a GPU that is known by its name."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def range_name(number: int, timesteps: int) -> str:
    """Of the range's first and last timestep: 000-110."""
    first, after = (-(-i * timesteps // RANGES) for i in (number, number + 1))
    return f"{first:03d}-{after - 1:03d}"


class Meter:
    """Of one rank; `take` is of all. timesteps: how many the schedule has. peak: FLOP/s of a device; None: unknown."""

    def __init__(self, ranks: Ranks, timesteps: int, peak: float | None):
        self._ranks, self._timesteps, self._peak = ranks, timesteps, peak
        self._clear()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For the next batch; a step begins with it."""
        begun = time.monotonic()
        yield
        now = time.monotonic()
        self._wait, self._step_begun = self._wait + now - begun, begun

    def seen(self, examples: Examples, losses: Tensor, config: TransformerConfig) -> None:
        """A micro-batch: losses [B]."""
        count, frames, _, height, width = examples.latents.shape
        self._tokens += count * (config.tokens(frames, height, width) + examples.text.shape[1])
        self._flops += count * train_flops(config, frames, height, width)
        places = (examples.timesteps * RANGES // self._timesteps).cpu()
        self._sums.index_add_(0, places, losses.detach().double().cpu())
        self._counts.index_add_(0, places, torch.ones(count, dtype=torch.float64))

    def stepped(self, loss: float, norm: float) -> None:
        """A step is done: the global batch's loss and its gradient's norm."""
        self._seconds += time.monotonic() - self._step_begun
        self._losses.append(loss)
        self._norms.append(norm)

    def take(self) -> dict[str, Any]:
        """Since the last time, over all ranks, who call this together. Evaluations and checkpoints take no part."""
        sums = torch.cat([self._sums, self._counts, torch.tensor([self._tokens, self._flops], dtype=torch.float64)])
        sums = sums.to(self._ranks.device)
        self._ranks.average([sums])
        sums = (sums * self._ranks.size).cpu()
        by_range, counts, (tokens, flops) = sums[:RANGES], sums[RANGES:-2], sums[-2:].tolist()
        wait, memory = (self._ranks.largest(value) for value in (self._wait / self._seconds, _memory(self._ranks)))
        found = {
            "loss": sum(self._losses) / len(self._losses),
            "grad_norm": sum(self._norms) / len(self._norms),
            "step_s": self._seconds / len(self._losses),
            "tokens_per_s": tokens / self._seconds,
            "data_wait": wait,  # share of the time, of the rank that waits most
            "memory_gb": memory / 1e9,  # most so far, of the rank that has most
        }
        if self._peak:
            found["mfu"] = mfu(flops, self._seconds, self._peak * self._ranks.size)
        for number, (total, count) in enumerate(zip(by_range.tolist(), counts.tolist(), strict=True)):
            if count:
                found[f"loss_by_timestep/{range_name(number, self._timesteps)}"] = total / count
        self._clear()
        return found

    def _clear(self) -> None:
        self._sums = torch.zeros(RANGES, dtype=torch.float64)
        self._counts = torch.zeros(RANGES, dtype=torch.float64)
        self._tokens = self._flops = self._wait = self._seconds = 0.0
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._step_begun = time.monotonic()


def by_range(values: Sequence[float], timesteps: int) -> dict[str, float]:
    """Named values of all ranges."""
    return {range_name(number, timesteps): value for number, value in enumerate(values)}


def _memory(ranks: Ranks) -> float:
    """Bytes: of the GPU, or of the process where there is none."""
    if ranks.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(ranks.device))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
