"""Says what cannot be of `make train INPUT=...` before hours are spent on clips: python -m train.brought --help.

Clips with captions become a data set, its latents, and a LoRA. That chain ends where the model is not to be had, or its
parts do not belong together, or a setting is misspelt: which is looked up here, first. What the hub has is fetched.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from captioning.brought.files import MEDIA, find_files
from latents.config import LatentsConfig
from latents.text import TextEncoder
from latents.vae import VideoEncoder
from model.diffusion import NoiseSchedule
from model.pretrained import locate, weight_files
from model.transformer import PRESETS, ExpertTransformer, TransformerConfig
from orchestration.config import load_config
from orchestration.errors import ConfigError, RushesError
from orchestration.storage import Storage
from train.config import TrainConfig

PARTS = "transformer/, vae/, scheduler/, text_encoder/ and tokenizer/"


def check(source: str, text: str, latents: Path, config: Path, overrides: Sequence[str]) -> None:
    """Raises ConfigError for what the chain would end with.

    Args:
        source: the folder or bucket of clips with captions.
        text: the text encoder, by hub name or folder.
        latents, config: configurations of `rushes latents` and `rushes train`; overrides: of the latter.
    """
    training = load_config(TrainConfig, config, overrides)
    named = [f"dataset={training.dataset}", f"vae.model={training.model}", f"text.model={text}"]
    encoding = load_config(LatentsConfig, latents, named)
    if not Storage(training.output).local:
        raise ConfigError(f"OUTPUT={training.dataset}: checkpoints need a local folder; clips may be in a bucket")
    _check_files(source, training.dataset)
    transformer = _transformer(training.model)
    try:
        vae, words = VideoEncoder(encoding.vae).facts, TextEncoder(encoding.text).facts
    except RushesError as error:
        raise ConfigError(str(error)) from error
    if vae["latent_channels"] != transformer.in_channels:
        raise ConfigError(
            f"MODEL={training.model}: its VAE gives {vae['latent_channels']} channels, its transformer takes "
            f"{transformer.in_channels}"
        )
    if words["width"] != transformer.text_embed_dim:
        raise ConfigError(
            f"TEXT={text}: its embeddings are {words['width']} wide, {training.model} takes "
            f"{transformer.text_embed_dim}: name the text encoder that it was trained with"
        )


def _check_files(source: str, dataset: str) -> None:
    files = find_files(source, dataset)
    if not any(suffix.removeprefix(".") in MEDIA for suffix in files.suffixes):
        raise ConfigError(f"INPUT={source}: no videos there; found {files.found()}")
    if not files.sidecars and not files.tables:
        raise ConfigError(
            f"INPUT={source}: no captions there; put name.txt beside name.mp4, or a table (docs/captions/brought.md); "
            f"found {files.found()}"
        )


def _transformer(model: str) -> TransformerConfig:
    if model in PRESETS:
        raise ConfigError(f"MODEL={model} has random weights, of which there is nothing to adapt; name a trained model")
    try:
        folder = locate(model, ExpertTransformer.part)
        weight_files(folder)
        NoiseSchedule.from_pretrained(model)
        return ExpertTransformer.read_config(folder)
    except (ValueError, OSError) as error:
        raise ConfigError(f"MODEL={model}: {error}. It takes a CogVideoX pipeline: {PARTS}") from error


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.brought", description="Check what `make train` is given.")
    parser.add_argument("source", help="folder or bucket of clips with captions")
    parser.add_argument("text", help="text encoder, by hub name or folder")
    parser.add_argument("latents", type=Path, help="configuration of rushes latents")
    parser.add_argument("config", type=Path, help="configuration of rushes train")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the latter")
    given = parser.parse_args()
    try:
        check(**vars(given))
    except RushesError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
