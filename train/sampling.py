"""`rushes sample`: prompts to videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from rich.console import Console
from torch import Tensor

from curation.scorers.runtime import torch_device
from latents.text import TextEncoder
from model.sample import noise_for, sample
from model.samplers import trailing_timesteps
from model.transformer import ExpertTransformer
from orchestration.config import Config
from orchestration.errors import ConfigError, RushesError
from orchestration.progress import Progress
from train import video_files
from train.source import Device, Source, find


class SampleConfig(Config):
    """What is made of a prompt, and how. A size that is left out is the one that the model was last trained for."""

    model: str = "data/train"  # a training's folder, one checkpoint, or a CogVideoX pipeline's folder or hub name
    out: str = "sample.mp4"  # or gif; png for one frame
    frames: int | None = Field(default=None, ge=1)  # 8N+1
    height: int | None = Field(default=None, ge=16)  # px
    width: int | None = Field(default=None, ge=16)
    steps: int = Field(default=50, ge=1)  # of denoising
    guidance: float = Field(default=6.0, ge=0)  # 1: none
    dynamic: bool = False  # guidance rises with the steps
    sampler: Literal["dpm", "ddim"] = "dpm"
    negative: str = ""  # prompt that guidance leads away from
    seed: int = Field(default=0, ge=0)  # of each prompt's noise
    strength: float = 1.0  # of adapters
    fps: float | None = Field(default=None, gt=0)  # null: the data set's, or 8
    vae: str | None = None  # a folder or name in place of the VAE that made the latents
    text: str | None = None  # likewise of the text encoder
    device: Device = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the transformer: bfloat16 on a GPU


def sample_prompts(prompts: Sequence[str], config: SampleConfig, console: Console) -> None:
    """A file each. Raises ConfigError before any work, RushesError for what does not fit into memory."""
    source = find(config.model, console)
    _refuse(source, config)
    paths = video_files.names(config.out, len(prompts), config.frames or source.config.sample_frames)
    threads = torch.get_num_threads()
    device = torch_device(config.device)
    vae = source.vae(config.vae, config.device, console)
    text = source.text(config.text, config.device, console)
    fps = config.fps or source.fps()
    try:
        negative, *embedded = _embedded([config.negative, *prompts], text, source, console)
        del text  # T5 is large
        network = source.transformer(config.strength).to(device, _dtype(config, device))
        vae.setup()
        torch.set_num_threads(threads)  # encoders take one
        said: list[str] = []
        with Progress("Sampling", config.steps * len(prompts), "steps", 0, console) as progress:
            for number, (path, prompt) in enumerate(zip(paths, embedded, strict=True)):
                before = number * config.steps

                def done(step: int, _: int, before: int = before) -> None:
                    progress.update(before + step, 0, 0, {}, [])

                latents = _denoised(network, source, prompt, negative, config, done)
                made = vae.decode(latents[0].transpose(0, 1) / vae.facts["scaling_factor"])
                video_files.write(path, made, fps)
                said.append(f"{path}: {len(made)} frames of {made.shape[1]}x{made.shape[2]} px, {fps:g} a second")
        console.print("\n".join(said), soft_wrap=True, highlight=False, markup=False)
    except (MemoryError, torch.OutOfMemoryError) as error:
        hint = "take fewer frames, or a smaller height and width"
        raise RushesError(f"it does not fit into memory ({error}): {hint}") from error
    except (ValueError, OSError) as error:
        raise RushesError(f"{source.name}: {error}") from error


def _refuse(source: Source, config: SampleConfig) -> None:
    """Settings that cannot be."""
    if config.strength != 1.0 and source.adapters is None:
        raise ConfigError(f"strength: {source.name} has no adapters; leave it out")
    with torch.device("meta"):
        network = ExpertTransformer(source.config)
    try:
        noise_for(network, 1, config.frames, config.height, config.width)
        trailing_timesteps(config.steps, source.schedule.num_train_timesteps)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _embedded(texts: Sequence[str], encoder: TextEncoder, source: Source, console: Console) -> list[Tensor]:
    """[L, E] of each; says which were cut. Raises ConfigError where the transformer takes others."""
    encoder.setup()
    found: list[Tensor] = []
    for text in texts:
        before = encoder.cut
        found.append(encoder.encode([text])[0][0].float())
        if encoder.cut > before:
            most = encoder.config.max_tokens
            note = f"note: this prompt has more than {most} tokens and was cut: {text[:60]}..."
            console.print(note, soft_wrap=True, highlight=False, markup=False)
    if (width := found[0].shape[1]) != source.config.text_embed_dim:
        wanted = source.config.text_embed_dim
        raise ConfigError(f"text: this encoder's embeddings are {width} wide, {source.name} takes {wanted}")
    return found


def _denoised(
    network: ExpertTransformer,
    source: Source,
    prompt: Tensor,
    negative: Tensor,
    config: SampleConfig,
    progress: Callable[[int, int], None],
) -> Tensor:
    """[1, F, C, h, w] float32, scaled. prompt, negative: [L, E]."""
    generator = torch.Generator().manual_seed(config.seed)  # of the CPU: equal noise on every device
    return sample(
        network,
        source.schedule,
        noise_for(network, 1, config.frames, config.height, config.width, generator),
        prompt[None],
        negative[None],
        steps=config.steps,
        guidance=config.guidance,
        dynamic=config.dynamic,
        sampler=config.sampler,
        generator=generator,
        progress=progress,
    )


def _dtype(config: SampleConfig, device: torch.device) -> torch.dtype:
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    return torch.bfloat16 if device.type == "cuda" else torch.float32
