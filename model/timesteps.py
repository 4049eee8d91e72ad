"""Which timesteps are trained on: explicit uniform sampling (CogVideoX, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def explicit_uniform(seed: int, step: int, batch: int, rank: int = 0, world: int = 1, timesteps: int = 1000) -> Tensor:
    """One rank's timesteps of one optimizer step, [batch] int64 on the CPU.

    The range is divided into as many equal intervals as the global batch (batch x world) has samples, and each sample
    is drawn uniformly from one of its own: the loss varies less with the luck of the draw, and each timestep is still
    as likely as any other. The paper gives an interval to a rank; here to a sample, so that the same global batch gets
    the same timesteps on any number of ranks. Which sample gets which interval is shuffled anew each step, so that
    nothing that hangs on a sample's place (its rank, its bucket) hangs together with its timestep.

    A pure function of its arguments.

    Raises:
        ValueError: a rank outside of the world, nothing to draw, a negative seed or step.
    """
    if seed < 0 or step < 0:
        raise ValueError(f"seed {seed}, step {step}; both have to be 0 or more")
    if not 0 <= rank < world or batch < 1 or timesteps < 1:
        raise ValueError(f"rank {rank} of {world} with {batch} samples of {timesteps} timesteps")
    size = batch * world
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, step])))
    intervals = random.permutation(size)
    places = (intervals + random.random(size)) / size  # each in [0, 1)
    drawn = np.minimum(np.floor(places * timesteps).astype(np.int64), timesteps - 1)
    return torch.from_numpy(drawn[rank * batch : (rank + 1) * batch])
