"""From noise and text to latents, and to frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from model.diffusion import NoiseSchedule, to_x0
from model.guidance import dynamic_scale, guide
from model.noise import standard_normal
from model.pretrained import SCHEDULERS
from model.samplers import ddim_step, dpm_step, trailing_timesteps
from model.transformer import ExpertTransformer
from model.vae import CHUNK, CausalVAE, check_frames
from model.vae_tiling import Tiling

Sampler = Literal["dpm", "ddim"]


def noise_for(
    transformer: ExpertTransformer,
    batch: int,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal latents [batch, F, C, H/8, W/8] for a video of `frames` (8N+1; 1: an image) of height x width px;
    what is left out is what the transformer is made for. On the transformer's device.

    Raises:
        ValueError: a size that cannot be made.
    """
    config = transformer.config
    frames = config.sample_frames if frames is None else frames
    check_frames(frames)
    height = 8 * config.sample_height if height is None else height
    width = 8 * config.sample_width if width is None else width
    if height % (8 * config.patch_size) or width % (8 * config.patch_size):
        raise ValueError(f"{height}x{width} px; height and width have to be multiples of {8 * config.patch_size}")
    shape = (batch, (frames - 1) // config.temporal_compression_ratio + 1, config.in_channels, height // 8, width // 8)
    return standard_normal(shape, generator, _home(transformer).device, dtype)


@torch.no_grad()
def sample(
    transformer: ExpertTransformer,
    schedule: NoiseSchedule,
    noise: Tensor,
    text: Tensor,
    negative: Tensor | None = None,
    *,
    steps: int = 50,
    guidance: float = 6.0,
    dynamic: bool = False,
    sampler: Sampler = "dpm",
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoises to latents [B, F, C, h, w], scaled as the transformer knows them.

    With equal noise, embeddings and generator this is what `CogVideoXPipeline` makes, where `steps` divides the number
    of training timesteps (elsewhere diffusers steps past the next timestep) and `dynamic` is off.

    Args:
        noise: see noise_for. Between steps the latents have its type; the network is given its own.
        text, negative: embeddings [B, T, E] of the captions and of the negative (or empty) ones [B or 1, T, E]; without
            `negative`, or with a guidance of 1 or less, there is no guidance.
        guidance: scale; with `dynamic` it rises to 1 + this.
        generator: for dpm's noise.
        progress: called with (steps done, steps).

    Raises:
        ValueError: an unknown sampler, or shapes that do not fit the transformer.
    """
    if sampler not in SCHEDULERS:
        raise ValueError(f"no sampler {sampler!r}; there are {', '.join(SCHEDULERS)}")
    timesteps = trailing_timesteps(steps, schedule.num_train_timesteps)
    alpha_bars = schedule.alpha_bars().tolist()
    ladder = [*(alpha_bars[t] for t in timesteps), 1.0]
    home = _home(transformer)
    guided = negative is not None and guidance > 1
    if guided and negative is not None:
        if negative.shape[1:] != text.shape[1:] or len(negative) not in (1, len(text)):
            raise ValueError(f"negative has shape {list(negative.shape)}, text {list(text.shape)}: they have to match")
        text = torch.cat([negative.expand_as(text), text])
    text = text.to(home)
    x, x0_before = noise.to(home.device), None
    for i, t in enumerate(timesteps):
        inputs = torch.cat([x, x]) if guided else x
        output = transformer(inputs.to(home), text, torch.full((len(inputs),), t, device=home.device)).float()
        if guided:
            unconditional, conditional = output.chunk(2)
            output = guide(conditional, unconditional, dynamic_scale(guidance, i, steps) if dynamic else guidance)
        x0 = to_x0(output, x.float(), ladder[i], schedule.prediction_type)
        if sampler == "ddim":
            x = ddim_step(x.float(), x0, ladder[i], ladder[i + 1]).to(noise.dtype)
        else:
            second = x0_before is not None and i + 1 < steps
            # diffusers draws for the first order in any case: equal seeds, equal videos
            drawn = [standard_normal(x.shape, generator, x.device, x.dtype) for _ in range(2 if second else 1)]
            before = ladder[i - 1] if second else None
            x = dpm_step(x.float(), x0, drawn[-1], ladder[i], ladder[i + 1], x0_before, before).to(noise.dtype)
            x0_before = x0
        if progress:
            progress(i + 1, steps)
    return x


@torch.no_grad()
def to_video(
    vae: CausalVAE, latents: Tensor, *, chunk_frames: int | None = CHUNK, tiling: Tiling | None = None
) -> Tensor:
    """Latents [B, F, C, h, w] of `sample` to frames [B, 3, T, H, W] in [0, 1]."""
    latents = latents.transpose(1, 2).to(vae.decoder.conv_in.conv.weight)
    decoded = vae.decode(vae.unscaled(latents), chunk_frames=chunk_frames, tiling=tiling)
    return (decoded.float() / 2 + 0.5).clamp(0, 1)


def _home(transformer: ExpertTransformer) -> Tensor:
    """A weight whose device and type are the network's (a convolution: quantisers leave those alone)."""
    return transformer.patch_embed.proj.weight
