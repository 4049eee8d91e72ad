"""Small networks with random weights, and diffusers' own of the same."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from curation.scorers.runtime import allow_torchvision
from model.transformer import ExpertTransformer, TransformerConfig
from model.vae import CausalVAE, VAEConfig

Network = TypeVar("Network", bound=nn.Module)

allow_torchvision()  # before diffusers and peft are imported

TOLERANCE = 1e-5  # float32
SINCOS = TransformerConfig(
    num_attention_heads=2,
    attention_head_dim=32,
    num_layers=2,
    time_embed_dim=16,
    text_embed_dim=24,
    max_text_seq_length=7,
    sample_width=8,
    sample_height=6,
    sample_frames=9,
)
ROPE = TransformerConfig(**{**vars(SINCOS), "use_rotary_positional_embeddings": True})
VAE = VAEConfig(
    block_out_channels=(8, 16, 16, 32),
    layers_per_block=1,
    norm_num_groups=4,
    sample_height=96,
    sample_width=80,
    scaling_factor=0.7,
)


def randomise(network: Network, seed: int = 0) -> Network:
    """Weights that hide nothing: norms and biases are not ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim < 2:
                parameter.normal_(0.1, 0.3, generator=generator)
            else:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    return network


def transformer(config: TransformerConfig = ROPE, seed: int = 0) -> ExpertTransformer:
    return randomise(ExpertTransformer(config), seed)


def vae(config: VAEConfig = VAE, seed: int = 0) -> CausalVAE:
    return randomise(CausalVAE(config), seed)


def diffusers_transformer(ours: ExpertTransformer, folder: Path):
    from diffusers import CogVideoXTransformer3DModel

    ours.save_pretrained(folder)
    return CogVideoXTransformer3DModel.from_pretrained(folder)


def diffusers_vae(ours: CausalVAE, folder: Path):
    from diffusers import AutoencoderKLCogVideoX

    ours.save_pretrained(folder)
    return AutoencoderKLCogVideoX.from_pretrained(folder)


def diffusers_rope(config: TransformerConfig, frames: int, height: int, width: int):
    """What CogVideoXPipeline gives the transformer for latents of this size; None without RoPE."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    if not config.use_rotary_positional_embeddings:
        return None
    p = config.patch_size
    grid = (height // p, width // p)
    crop = get_resize_crop_region_for_grid(grid, config.sample_width // p, config.sample_height // p)
    return get_3d_rotary_pos_embed(config.attention_head_dim, crop, grid, frames)


def inputs(config: TransformerConfig, frames: int, height: int, width: int, batch: int = 2, seed: int = 1):
    """Noisy latents, text, timesteps."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, frames, config.in_channels, height, width, generator=generator)
    text = torch.randn(batch, config.max_text_seq_length, config.text_embed_dim, generator=generator)
    return latents, text, torch.randint(0, 1000, (batch,), generator=generator)


def largest_difference(ours: nn.Module, theirs: nn.Module) -> float:
    """Of gradients, each relative to the largest of its tensor (or to 1)."""
    others = dict(theirs.named_parameters())
    found = 0.0
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        wanted = others.pop(name).grad
        found = max(found, float((parameter.grad - wanted).abs().max() / wanted.abs().max().clamp(min=1)))
    assert not others, f"not ours: {sorted(others)}"
    return found
