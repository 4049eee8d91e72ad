"""How far the transformer is off on clips that it does not learn from, at fixed timesteps and noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from latents.dataset import LatentDataset, LatentSample
from model.diffusion import NoiseSchedule
from train.data import Examples, caption, latents
from train.loss import losses
from train.meter import RANGES
from train.ranks import Ranks


class Evaluation:
    """The middle of each of RANGES ranges of timesteps, for each of `most` samples, spread over those given.

    samples: data sets and numbers.

    Nothing is drawn from torch's generators: noise is drawn by the sample's key and the timestep, and latents are the
    posterior's means. So it is the same at each time, on any number of ranks, and changes no training.
    """

    def __init__(self, samples: Sequence[tuple[LatentDataset, int]], most: int, ranks: Ranks):
        places = np.linspace(0, len(samples) - 1, min(most, len(samples))).round().astype(int)
        self._samples = [samples[place] for place in places]
        self._ranks = ranks

    @torch.no_grad()
    def __call__(
        self, network: Callable[..., Tensor], schedule: NoiseSchedule, alpha_bars: Tensor, dtype: torch.dtype
    ) -> list[float]:
        """Mean losses [RANGES], of all ranks, who call this together with the same number of forward passes."""
        ranks, total = self._ranks, len(self._samples)
        sums = torch.zeros(RANGES, dtype=torch.float64, device=ranks.device)
        for place in range(ranks.rank, -(-total // ranks.size) * ranks.size, ranks.size):
            data, number = self._samples[place % total]
            sample, scale = data[number], float(data.encoder["vae"]["scaling_factor"])
            for which in range(RANGES):
                timestep = (2 * which + 1) * schedule.num_train_timesteps // (2 * RANGES)
                examples = _examples(sample, scale, timestep).to(ranks.device, torch.float32)
                found = losses(network, schedule, alpha_bars, examples, dtype)
                sums[which] += found.double().mean() * (place < total)
        ranks.average([sums])
        return (sums * ranks.size / total).tolist()


def _examples(sample: LatentSample, scale: float, timestep: int) -> Examples:
    mean = latents(sample, None, scale)
    seed = hashlib.sha256(f"{sample.key} {timestep}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:7], "big"))
    noise, text = torch.randn(mean.shape, generator=generator), caption(sample, 0)
    return Examples(mean[None], noise[None], text[None], torch.tensor([timestep]), (sample.key,))
