"""What can be sampled from: a training's checkpoint or a CogVideoX pipeline, and the VAE and text encoder that go with
it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from rich.console import Console

from curation.scorers.runtime import allow_torchvision
from latents import minilm
from latents.dataset import LatentDataset
from latents.text import TextConfig, TextEncoder
from latents.vae import DEFAULT, VaeConfig, VideoEncoder
from model import lora
from model.diffusion import NoiseSchedule
from model.pretrained import locate
from model.transformer import PRESETS, ExpertTransformer, TransformerConfig
from orchestration.errors import ConfigError, RushesError
from train.checkpoints import COMPLETE, Checkpoint, newest, read
from train.weights import LORA, TRANSFORMER

Device = Literal["auto", "cpu", "cuda"]
RATE = 8.0  # frames a second where nothing says it: CogVideoX's


def find(where: str, console: Console) -> Trained | Pipeline:
    """A training's newest whole checkpoint by the folder that it writes to; one checkpoint by its own; a CogVideoX
    pipeline by its folder or hub name.

    Raises ConfigError for anything else, and for what was not saved whole.
    """
    folder = Path(where).expanduser()
    if (folder / COMPLETE).is_file() or folder.name.startswith("step-"):
        found = read(folder)
        if not isinstance(found, Checkpoint):
            raise ConfigError(f"{folder} is not a whole checkpoint: {found}")
        return Trained(found)
    if (folder / "checkpoints").is_dir():
        last = newest(folder / "checkpoints", console)
        if last is None:
            raise ConfigError(f"{folder} has no whole checkpoint; rushes train saves one every checkpoint.every steps")
        return Trained(last)
    return Pipeline(where)


class Source(ABC):
    """name: for people. config: sizes are those that it was last trained for, texts as long as they were. adapters: the
    folder of its adapters; None where it has its own weights."""

    name: str
    config: TransformerConfig
    schedule: NoiseSchedule
    adapters: Path | None = None

    @abstractmethod
    def transformer(self, strength: float = 1.0) -> ExpertTransformer:
        """Loaded, on the CPU, in the type it is kept in; adapters are merged into it, times `strength`."""

    @abstractmethod
    def vae(self, given: str | None, device: Device, console: Console) -> VideoEncoder:
        """Not yet set up. given: a folder or name to take in place of the one that is known.

        Raises ConfigError where it is not to be had, or makes other latents."""

    @abstractmethod
    def text(self, given: str | None, device: Device, console: Console) -> TextEncoder:
        """See vae."""

    def fps(self) -> float:
        """Frames a second of what it was trained on."""
        return RATE


class Pipeline(Source):
    """A CogVideoX pipeline in diffusers' layout."""

    def __init__(self, where: str):
        self.name = where
        try:
            self._folder = locate(where, ExpertTransformer.part)
            self.config = ExpertTransformer.read_config(self._folder)
            self.schedule = NoiseSchedule.from_pretrained(where)
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"{where} is neither a training's folder, nor a checkpoint, nor a CogVideoX pipeline: {error}"
            ) from error

    def transformer(self, strength: float = 1.0) -> ExpertTransformer:
        return ExpertTransformer.from_pretrained(self._folder)

    def vae(self, given: str | None, device: Device, console: Console) -> VideoEncoder:
        found = VideoEncoder(VaeConfig(model=given or self.name, device=device))
        _fits(found, "latent_channels", self.config.in_channels)
        return found

    def text(self, given: str | None, device: Device, console: Console) -> TextEncoder:
        most = self.config.max_text_seq_length
        return TextEncoder(TextConfig(model=given or self.name, max_tokens=most, device=device))


class Trained(Source):
    """A checkpoint of `rushes train`. training: the settings that its losses depend on."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self.name = str(checkpoint.folder)
        self.training: Mapping[str, Any] = checkpoint.facts["config"]
        whole, adapters = checkpoint.folder / TRANSFORMER, checkpoint.folder / LORA
        self.adapters = adapters if adapters.is_dir() else None
        if not (whole.is_dir() or self.adapters) or "encoder" not in checkpoint.facts:
            raise ConfigError(
                f"{self.name} has neither {TRANSFORMER}/ nor {LORA}/: an earlier version of rushes wrote it. Train on "
                "from it; the next checkpoint has them"
            )
        try:
            base = self.training["model"]
            if self.adapters is None:
                self.config = ExpertTransformer.read_config(whole)
            else:
                known = PRESETS.get(base) or ExpertTransformer.read_config(locate(base, ExpertTransformer.part))
                self.config = _sized(known, self.training["stages"], checkpoint.step)
            most = (checkpoint.facts["encoder"].get("text") or {}).get("max_tokens", self.config.max_text_seq_length)
            self.config = replace(self.config, max_text_seq_length=most)
            self.schedule = noise_schedule(base)
        except (ValueError, OSError) as error:
            raise ConfigError(f"{self.name}: {error}") from error

    def transformer(self, strength: float = 1.0) -> ExpertTransformer:
        if self.adapters is None:
            network = ExpertTransformer.from_pretrained(self.checkpoint.folder / TRANSFORMER)
        else:
            allow_torchvision()  # PEFT comes by it
            network = base_network(self.training["model"], self.training["seed"])
            lora.load(network, self.adapters)
            lora.merge(network, strength)
            network = network.to(getattr(torch, self.training["dtype"]))
        network.config = self.config
        return network.eval()

    def vae(self, given: str | None, device: Device, console: Console) -> VideoEncoder:
        facts = self._facts("vae")
        model, revision = (given, None) if given else self._named(facts, "vae", {DEFAULT: DEFAULT})
        pieces = {name: facts[name] for name in ("chunk_frames", "tiling") if name in facts}
        found = VideoEncoder(VaeConfig(model=model, revision=revision, device=device, **pieces))
        _fits(found, "latent_channels", self.config.in_channels)
        _fits(found, "scaling_factor", facts["scaling_factor"])
        self._same("vae", found, facts, given, console)
        return found

    def text(self, given: str | None, device: Device, console: Console) -> TextEncoder:
        facts = self._facts("text")
        model, revision = (given, None) if given else self._named(facts, "text", {minilm.NAME: minilm.KEYWORD})
        most = self.config.max_text_seq_length
        found = TextEncoder(TextConfig(model=model, revision=revision, max_tokens=most, device=device))
        self._same("text", found, facts, given, console)
        return found

    def fps(self) -> float:
        """The data set's, where the training's folder still names it and it is still there."""
        try:
            said = yaml.safe_load((self.checkpoint.folder.parents[1] / "config.yaml").read_text())
            data = LatentDataset(said["dataset"], set=said["set"], text=None)
            moving = [numbers for name, numbers in data.buckets.items() if not name.startswith("1x")]
            return float(data[moving[0][0]].facts["fps"])
        except (RushesError, OSError, ValueError, LookupError, TypeError):
            return RATE

    def _facts(self, part: str) -> Mapping[str, Any]:
        """What the data set says of the encoder."""
        facts = self.checkpoint.facts["encoder"].get(part)
        if not facts:
            raise ConfigError(f"the data set that {self.name} was trained on does not say its {part}")
        return facts

    def _named(self, facts: Mapping[str, Any], part: str, own: Mapping[str, str]) -> tuple[str, str | None]:
        """Model and revision that NAME@COMMIT or FOLDER#HASH means; own: those that come with rushes."""
        said, base = facts["model"], Path(self.training["model"]).expanduser()
        name, _, folder = said.partition("#")
        if name in own:
            return own[name], None
        if folder and base.name == name and base.is_dir():
            return str(base), None  # the pipeline that was trained on, as is usual
        if folder:
            raise ConfigError(
                f"the data set that {self.name} was trained on was encoded with {said}, a folder of that name: "
                f"say where it is, {part}=FOLDER"
            )
        name, _, revision = said.partition("@")
        return name, revision or None

    def _same(self, part: str, found: Any, facts: Mapping[str, Any], given: str | None, console: Console) -> None:
        """The weights are those of the data set; others are refused, but for those that were asked for."""
        there, wanted = _said(part, found), facts.get("weights")
        if there["weights"] == wanted:
            return
        others = f"{part} {there['model']} has other weights than {facts['model']}, which encoded the data set"
        if given is None:
            raise ConfigError(f"{others}. Say where that is: {part}=FOLDER")
        console.print(f"note: {others}", soft_wrap=True, highlight=False)


def noise_schedule(model: str) -> NoiseSchedule:
    """Of a training's `model`: a preset's, a checkpoint's, or the pipeline's own. Raises ValueError, OSError."""
    if model in PRESETS:
        return NoiseSchedule(snr_shift_scale=1.0 if model == "5b" else 3.0)
    complete = Path(model).expanduser() / COMPLETE
    if complete.is_file():
        return noise_schedule(json.loads(complete.read_text())["facts"]["config"]["model"])
    return NoiseSchedule.from_pretrained(model)


def base_network(model: str, seed: int) -> ExpertTransformer:
    """A training's network before its first step, in float32; a preset's random weights are those of the seed."""
    if model in PRESETS:
        torch.manual_seed(seed)
        return ExpertTransformer.from_preset(model)
    return ExpertTransformer.from_pretrained(model, dtype=torch.float32)


def _sized(config: TransformerConfig, stages: Sequence[Mapping[str, Any]], step: int) -> TransformerConfig:
    """With the sample size of the stage that the step was in."""
    for stage in stages:
        if stage["sample_size"] is not None:
            frames, height, width = stage["sample_size"]
            config = replace(config, sample_frames=frames, sample_height=height // 8, sample_width=width // 8)
        step -= stage["steps"]
        if step <= 0:
            break
    return config


def _said(part: str, encoder: VideoEncoder | TextEncoder) -> Mapping[str, Any]:
    """An encoder's facts. Raises ConfigError where its files are not to be had."""
    try:
        return encoder.facts
    except ConfigError:
        raise
    except RushesError as error:
        raise ConfigError(f"{part}: {error}") from error


def _fits(vae: VideoEncoder, name: str, wanted: float) -> None:
    found = _said("vae", vae)
    if found[name] != wanted:
        raise ConfigError(f"vae: {found['model']} has a {name} of {found[name]}, the transformer was made for {wanted}")
