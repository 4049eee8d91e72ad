"""The commands of train, as the command line calls them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestration.config import from_settings, load_config
from orchestration.errors import ConfigError
from train.config import TrainConfig
from train.vae.config import TrainVaeConfig

OUT = Console()
_SETTING = re.compile(r"[a-z_]+=.*", re.DOTALL)


def train(config: Path, overrides: Sequence[str]) -> None:
    """CONFIG [KEY=VALUE]..."""
    from train.run import train

    train(load_config(TrainConfig, config, overrides), OUT)


def train_vae(config: Path, overrides: Sequence[str]) -> None:
    """CONFIG [KEY=VALUE]..."""
    from train.vae.run import train_vae

    train_vae(load_config(TrainVaeConfig, config, overrides), OUT)


def sample(arguments: Sequence[str]) -> None:
    """PROMPT... [KEY=VALUE]..."""
    from train.sampling import SampleConfig, sample_prompts

    settings = [word for word in arguments if _SETTING.fullmatch(word)]
    prompts = [word for word in arguments if not _SETTING.fullmatch(word)]
    if not prompts:
        raise ConfigError('which prompt? rushes sample "a rabbit in the grass" model=data/train out=rabbit.mp4')
    sample_prompts(prompts, from_settings(SampleConfig, settings, "rushes sample"), OUT)


def export(model: str, output: str, settings: Sequence[str]) -> None:
    """MODEL OUTPUT [KEY=VALUE]..."""
    from train.export import ExportConfig, export

    export(model, output, from_settings(ExportConfig, settings, "rushes export"), OUT)
