"""One of two ranks: `two_ranks.py FILE` writes gradients that were averaged, and weights after three steps.

Imported, it says what both are given.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from helpers_model import vae

from train.ranks import Ranks, ranks
from train.vae.batches import batch
from train.vae.config import TrainVaeConfig
from train.vae.learner import Learner
from train.vae.windows import Windows


def settings(**more: object) -> TrainVaeConfig:
    return TrainVaeConfig.model_validate(
        {
            "dataset": "none",
            "output": "none",
            "network": {"channels": [8, 8, 8, 8], "groups": 4, "latent_channels": 4},
            "windows": {"frames": 9, "size": 40},
            "stages": [{"steps": 4, "frames": 9, "size": 32, "batch": 2, "images": 0.5, "image_batch": 3}],
            "loss": {"perceptual": 0.0, "adversarial_start": 1, "discriminator_width": 8},
            "dtype": "float32",
            "device": "cpu",
            **more,
        }
    )


def windows(count: int = 6, stills: int = 2) -> Windows:
    """Noise, the last window held out."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 9, 40, 40, 3), np.uint8)
    return Windows(
        pixels,
        rng.integers(0, 256, (stills, 1, 40, 40, 3), np.uint8),
        np.arange(count - 1),
        np.array([count - 1]),
        [str(number) for number in range(count)],
    )


def gradients(videos: torch.Tensor, us: Ranks) -> list[torch.Tensor]:
    network = vae()
    (network.decode(network.encode(videos).mean) - videos).abs().mean().backward()
    found = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    us.average([None, *found])
    return found


def videos() -> torch.Tensor:
    return torch.rand(2, 3, 9, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def main() -> None:
    torch.set_num_threads(1)
    with ranks("cpu") as us:
        averaged = gradients(videos()[us.rank : us.rank + 1], us)
        config = settings()
        learner = Learner(config, us)
        losses = []
        for step in range(3):
            if step == 1:
                learner.normalise([batch(windows(), config.stages[0], 0, 100 + i, 0) for i in range(4)])
            losses.append(learner.step(step, batch(windows(), config.stages[0], 0, step, us.rank))["loss"])
        found = (us.any(us.rank == 1), us.any(False))
        torch.save(
            {"gradients": averaged, "weights": learner.vae.state_dict(), "losses": losses, "any": found}, sys.argv[1]
        )


if __name__ == "__main__":
    main()
