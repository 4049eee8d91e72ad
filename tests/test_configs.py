"""Shipped configurations: each one loads, and the default one writes out every setting there is, with its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import BaseModel

from captioning.comparison import laid_over
from captioning.config import CaptionConfig
from curation.config import CurateConfig
from curation.duplicates.config import NearDuplicates
from latents.config import LatentsConfig
from model.vae import CausalVAE
from orchestration.config import load_config
from orchestration.errors import ConfigError
from train.config import TrainConfig
from train.vae.config import TrainVaeConfig

CONFIGS = Path(__file__).parents[1] / "configs"
CAPTION = sorted(CONFIGS.glob("caption*.yaml"))
LATENTS = sorted(CONFIGS.glob("latents*.yaml"))
VAE = [CONFIGS / name for name in ("vae.yaml", "vae-longer.yaml", "vae-gpu.yaml")]
TRAIN = sorted(CONFIGS.glob("train*.yaml"))
CURATE = sorted(set(CONFIGS.glob("*.yaml")) - set(CAPTION) - set(LATENTS) - set(TRAIN) - set(VAE))
# What a configuration has to say itself: places, and what to measure and keep.
CHOSEN = {"input", "output", "scorers", "select"}


@pytest.mark.parametrize("path", CURATE, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path: Path):
    config = load_config(CurateConfig, path)
    assert config.scorers or path.name == "vae-clips.yaml"  # a VAE learns from shots of any look
    assert load_config(CurateConfig, path, ["input=a", "output=b", "limit=3"]).limit == 3


@pytest.mark.parametrize("path", CAPTION, ids=lambda path: path.name)
def test_every_shipped_caption_configuration_loads_with_its_prompts(path: Path):
    config = load_config(CaptionConfig, path)
    assert load_config(CaptionConfig, path, ["dataset=a", "limit=3"]).limit == 3
    for one in (config, *(laid_over(config, limit=3))):
        one.recipe.prompts()


def test_the_caption_default_writes_out_every_setting():
    written = yaml.safe_load((CONFIGS / "caption.yaml").read_text())
    config = load_config(CaptionConfig, CONFIGS / "caption.yaml")
    assert set(written) == set(CaptionConfig.model_fields)
    for name in sorted(set(written) - {"dataset", "checks"}):
        compare(written[name], getattr(config, name), CaptionConfig.model_fields[name].get_default(), name)
    assert config.checks == type(config.checks)()
    assert set(written["checks"]) == set(type(config.checks).model_fields)


def test_the_latents_default_writes_out_every_setting():
    written = yaml.safe_load((CONFIGS / "latents.yaml").read_text())
    config = load_config(LatentsConfig, CONFIGS / "latents.yaml")
    assert set(written) == set(LatentsConfig.model_fields)
    for name in sorted(set(written) - {"dataset", "buckets"}):
        compare(written[name], getattr(config, name), LatentsConfig.model_fields[name].get_default(), name)
    fields = type(config.buckets).model_fields
    assert set(written["buckets"]) == set(fields)
    for name, field in fields.items():
        assert getattr(config.buckets, name) == field.get_default(), name


@pytest.mark.parametrize("path", VAE, ids=lambda path: path.name)
def test_every_shipped_vae_configuration_loads_and_makes_a_vae(path: Path):
    config = load_config(TrainVaeConfig, path)
    assert load_config(TrainVaeConfig, path, ["dataset=a", "stages.0.steps=3"]).stages[0].steps == 3
    for numbers in ("frames", "size"):  # short before long, small before large
        given = [getattr(stage, numbers) for stage in config.stages]
        assert given == sorted(given)
    with torch.device("meta"):
        CausalVAE(config.network.build())
    config.loss.weights()


@pytest.mark.parametrize("path", [*CURATE, *CAPTION, *LATENTS, *VAE, *TRAIN], ids=lambda path: path.name)
def test_every_shipped_configuration_says_what_it_is_for(path: Path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 40


def test_the_default_writes_out_every_setting():
    written = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    config = load_config(CurateConfig, CONFIGS / "default.yaml")
    assert set(written) == set(CurateConfig.model_fields)
    for name in sorted(set(written) - CHOSEN):
        compare(written[name], getattr(config, name), type(config).model_fields[name].get_default(), name)
    for item, scorer in zip(written["scorers"], config.scorers, strict=True):
        compare(item, scorer, type(scorer).model_validate({}), f"scorers.{scorer.kind}")
    assert set(written["select"]) == set(type(config.select).model_fields)


def compare(written: Any, loaded: Any, default: Any, name: str) -> None:
    assert loaded == default, f"{name}: default.yaml says {loaded!r}, the default is {default!r}"
    if isinstance(loaded, BaseModel):
        assert set(written) == set(type(loaded).model_fields), f"{name}: default.yaml lacks or invents a setting"


def test_every_registered_scorer_is_in_full_and_written_out_there_or_in_the_default():
    from typing import get_args

    from curation.scorers import AnyScorer

    known = {scorer.model_fields["kind"].default: scorer for scorer in get_args(get_args(AnyScorer)[0])}
    full = {item["kind"]: item for item in yaml.safe_load((CONFIGS / "full.yaml").read_text())["scorers"]}
    default = {item["kind"] for item in yaml.safe_load((CONFIGS / "default.yaml").read_text())["scorers"]}
    assert set(full) == set(known)
    for kind in set(known) - default:
        compare(full[kind], known[kind].model_validate(full[kind]), known[kind](), f"full.yaml: scorers.{kind}")


def test_near_duplicates_are_written_out():
    written = yaml.safe_load((CONFIGS / "default.yaml").read_text())["select"]["near_duplicates"]
    near = load_config(CurateConfig, CONFIGS / "default.yaml").select.near_duplicates
    compare(written, near, NearDuplicates(), "select.near_duplicates")


def test_a_misspelt_setting_names_the_right_one():
    with pytest.raises(ConfigError, match="did you mean 'verify'"):
        load_config(CurateConfig, CONFIGS / "default.yaml", ["cut.verfy=full"])


@pytest.mark.parametrize("path", TRAIN, ids=lambda path: path.name)
def test_every_shipped_training_configuration_loads(path: Path):
    assert load_config(TrainConfig, path, ["dataset=a", "output=b", "seed=3"]).seed == 3
