"""The commands of train, as the command line calls them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestration.config import load_config
from train.config import TrainConfig
from train.vae.config import TrainVaeConfig

OUT = Console()


def train(config: Path, overrides: Sequence[str]) -> None:
    """CONFIG [KEY=VALUE]..."""
    from train.run import train

    train(load_config(TrainConfig, config, overrides), OUT)


def train_vae(config: Path, overrides: Sequence[str]) -> None:
    """CONFIG [KEY=VALUE]..."""
    from train.vae.run import train_vae

    train_vae(load_config(TrainVaeConfig, config, overrides), OUT)
