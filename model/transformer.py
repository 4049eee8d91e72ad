"""The expert transformer (CogVideoX, section 2.2): text and video tokens in one sequence, full 3D attention over both.

What tells the two modalities apart is the *expert adaptive LayerNorm*: the same normalisation and weights for all
tokens, but a shift, scale and gate of its own for text and for video, all from the timestep.

Shapes: B samples; F latent frames of H x W latents with C channels; patches of p x p, so S = F * H/p * W/p video tokens
behind T text tokens; D = heads * head_dim channels wide; E channels of text embedding; M of time embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import Backend, attention, choose
from model.positions import apply_rope, rope_3d, rope_positions, sincos_3d, timestep_embedding
from model.pretrained import Network

QK_EPS = 1e-6


@dataclass(frozen=True)
class TransformerConfig:
    """Fields are those of diffusers' config.json; the defaults are CogVideoX-2B's.

    sample_height, sample_width (latents) and sample_frames (frames of video) are the size that the model is made for:
    RoPE interpolates to others (positions.rope_positions), and samplers take them where no size is asked for.
    """

    num_attention_heads: int = 30
    attention_head_dim: int = 64
    num_layers: int = 30
    in_channels: int = 16
    out_channels: int = 16
    time_embed_dim: int = 512
    text_embed_dim: int = 4096
    max_text_seq_length: int = 226
    sample_width: int = 90
    sample_height: int = 60
    sample_frames: int = 49
    patch_size: int = 2
    temporal_compression_ratio: int = 4
    norm_eps: float = 1e-5
    spatial_interpolation_scale: float = 1.875
    temporal_interpolation_scale: float = 1.0
    use_rotary_positional_embeddings: bool = False

    @property
    def width(self) -> int:
        """D."""
        return self.num_attention_heads * self.attention_head_dim

    def tokens(self, frames: int, height: int, width: int) -> int:
        """S of F x H x W latents."""
        return frames * (height // self.patch_size) * (width // self.patch_size)


PRESETS = {
    # For CPUs and tests: 10M parameters; text from MiniLM (384), 17 frames of 256x256.
    "tiny": TransformerConfig(
        num_attention_heads=4,
        num_layers=6,
        time_embed_dim=256,
        text_embed_dim=384,
        sample_width=32,
        sample_height=32,
        sample_frames=17,
        use_rotary_positional_embeddings=True,
    ),
    "2b": TransformerConfig(),
    "5b": TransformerConfig(num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True),
}


class PatchEmbed(nn.Module):
    """[B, F, C, H, W] -> [B, S, D] and [B, T, E] -> [B, T, D]."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        p = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.width, kernel_size=p, stride=p)
        self.text_proj = nn.Linear(config.text_embed_dim, config.width)

    def forward(self, latents: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.proj(latents.flatten(0, 1))  # [B*F, D, H/p, W/p]
        video = patches.unflatten(0, latents.shape[:2]).flatten(3).transpose(2, 3).flatten(1, 2)  # [B, S, D]
        return self.text_proj(text), video


class TimeEmbedding(nn.Module):
    """[B] -> [B, M]."""

    def __init__(self, width: int, time_embed_dim: int):
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, time_embed_dim)
        self.linear_2 = nn.Linear(time_embed_dim, time_embed_dim)

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        sinusoids = timestep_embedding(timesteps, self.width).to(dtype)  # not the weights' own: they may be quantised
        return self.linear_2(F.silu(self.linear_1(sinusoids)))


class ExpertAdaLayerNorm(nn.Module):
    """LayerNorm, then a shift and scale a modality; the gates are for what comes out of the layer behind it."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.linear = nn.Linear(config.time_embed_dim, 6 * config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, text: Tensor, video: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the joint sequence [B, T+S, D], then the text's and the video's gate [B, 1, D]."""
        shift, scale, gate, text_shift, text_scale, text_gate = self.linear(F.silu(time))[:, None].chunk(6, dim=-1)
        text = torch.addcmul(text_shift, self.norm(text), 1 + text_scale)
        video = torch.addcmul(shift, self.norm(video), 1 + scale)
        return torch.cat([text, video], dim=1), text_gate, gate


class Attention(nn.Module):
    """Full attention over text and video, with queries and keys normalised a head (QK-norm)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.to_q = nn.Linear(config.width, config.width)
        self.to_k = nn.Linear(config.width, config.width)
        self.to_v = nn.Linear(config.width, config.width)
        self.norm_q = nn.LayerNorm(config.attention_head_dim, eps=QK_EPS)
        self.norm_k = nn.LayerNorm(config.attention_head_dim, eps=QK_EPS)
        self.to_out = nn.ModuleList([nn.Linear(config.width, config.width)])

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None, backend: Backend) -> Tensor:
        """[B, T+S, D] -> [B, T+S, D]; rope: cosines and sines of all T+S positions."""
        q = self.norm_q(self.to_q(x).unflatten(-1, (self.heads, -1)))  # [B, T+S, heads, head_dim]
        k = self.norm_k(self.to_k(x).unflatten(-1, (self.heads, -1)))
        v = self.to_v(x).unflatten(-1, (self.heads, -1))
        if rope is not None:
            q, k = apply_rope(q, *rope), apply_rope(k, *rope)
        return self.to_out[0](attention(q, k, v, backend).flatten(2))


class FeedForward(nn.Module):
    """D -> 4D -> D with tanh-GELU; both modalities share it."""

    def __init__(self, width: int):
        super().__init__()
        # diffusers numbers these 0 and 2: its dropout, 0 in every release, sits between.
        self.net = nn.ModuleDict({"0": Projection(width, 4 * width), "2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        return self.net["2"](F.gelu(self.net["0"](x), approximate="tanh"))


class Projection(nn.Module):
    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.proj = nn.Linear(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Block(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.norm1 = ExpertAdaLayerNorm(config)
        self.attn1 = Attention(config)
        self.norm2 = ExpertAdaLayerNorm(config)
        self.ff = FeedForward(config.width)

    def forward(
        self, text: Tensor, video: Tensor, time: Tensor, rope: tuple[Tensor, Tensor] | None, backend: Backend
    ) -> tuple[Tensor, Tensor]:
        """text [B, T, D], video [B, S, D], time [B, M] -> text, video."""
        split = (text.shape[1], video.shape[1])
        x, text_gate, gate = self.norm1(text, video, time)
        text_out, video_out = self.attn1(x, rope, backend).split(split, dim=1)
        text, video = torch.addcmul(text, text_gate, text_out), torch.addcmul(video, gate, video_out)
        x, text_gate, gate = self.norm2(text, video, time)
        text_out, video_out = self.ff(x).split(split, dim=1)
        return torch.addcmul(text, text_gate, text_out), torch.addcmul(video, gate, video_out)


class FinalAdaLayerNorm(nn.Module):
    """LayerNorm with a shift and scale from the timestep."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.linear = nn.Linear(config.time_embed_dim, 2 * config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, video: Tensor, time: Tensor) -> Tensor:
        shift, scale = self.linear(F.silu(time))[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(video), 1 + scale)


class ExpertTransformer(Network):
    """Predicts v (or ε) from noisy latents, text and timestep. Weights are diffusers' `CogVideoXTransformer3DModel`'s.

    Presets: tiny, 2b, 5b.

    Attributes:
        gradient_checkpointing: recompute each block in the backward pass instead of keeping what is inside of it.
        attention_backend: see attention.choose.
    """

    part = "transformer"
    kind = "CogVideoXTransformer3DModel"
    config_class = TransformerConfig
    presets = PRESETS
    fixed: ClassVar[Mapping[str, Any]] = {
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "dropout": 0.0,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "norm_elementwise_affine": True,
        "ofs_embed_dim": None,
        "patch_bias": True,
        "patch_size_t": None,
        "timestep_activation_fn": "silu",
        "use_learned_positional_embeddings": False,
    }
    config: TransformerConfig

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.gradient_checkpointing = False
        self.attention_backend: Backend = "auto"
        self.patch_embed = PatchEmbed(config)
        self.time_embedding = TimeEmbedding(config.width, config.time_embed_dim)
        self.transformer_blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.norm_final = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.norm_out = FinalAdaLayerNorm(config)
        self.proj_out = nn.Linear(config.width, config.patch_size**2 * config.out_channels)

    @classmethod
    def check(cls, found: dict[str, Any], path: Path) -> None:
        """Names CogVideoX 1.5, image-to-video and controlled transformers."""
        if (patch := found.get("patch_size_t")) is not None:
            raise ValueError(f"{path} is of CogVideoX 1.5 (patch_size_t={patch}); rushes reads CogVideoX 1.0")
        given, made = found.get("in_channels", 16), found.get("out_channels", 16)
        if found.get("use_learned_positional_embeddings") or given != made:
            raise ValueError(
                f"{path} is of an image-to-video or controlled CogVideoX ({given} channels in, {made} out); rushes "
                "reads text-to-video ones"
            )

    def forward(self, latents: Tensor, text: Tensor, timesteps: Tensor) -> Tensor:
        """The prediction, in latents' shape with out_channels.

        Args:
            latents: [B, F, C, H, W], noisy. An image is a video of F = 1.
            text: [B, T, E], T up to max_text_seq_length; padding is not masked, as in training.
            timesteps: [B], 0 to 999.

        Raises:
            ValueError: a shape that this model cannot take.
        """
        self._check(latents, text)
        b, frames, _, height, width = latents.shape
        p = self.config.patch_size
        grid = (frames, height // p, width // p)
        backend = choose(self.attention_backend, latents.device)

        time = self.time_embedding(timesteps, latents.dtype)  # [B, M]
        text, video = self.patch_embed(latents, text)
        rope = None
        if self.config.use_rotary_positional_embeddings:
            rope = self._rope(text.shape[1], grid, latents.device)
        else:
            scales = (self.config.spatial_interpolation_scale, self.config.temporal_interpolation_scale)
            video = video + sincos_3d(*grid, self.config.width, *scales, device=latents.device).to(video.dtype)

        for block in self.transformer_blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                given = (text, video, time, rope, backend)
                text, video = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                text, video = block(text, video, time, rope, backend)

        patches = self.proj_out(self.norm_out(self.norm_final(video), time))  # [B, S, C*p*p]
        patches = patches.view(b, *grid, -1, p, p)  # [B, F, H/p, W/p, C, p, p]
        return patches.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, frames, -1, height, width)

    def _rope(self, text_length: int, grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """[T+S, head_dim/2] cosines and sines; text is not rotated: angle 0."""
        config, p = self.config, self.config.patch_size
        positions = rope_positions(*grid, config.sample_height // p, config.sample_width // p, device)
        cos, sin = rope_3d(*positions, config.attention_head_dim)
        still = cos.new_zeros(text_length, cos.shape[1])
        return torch.cat([still + 1, cos]), torch.cat([still, sin])

    def _check(self, latents: Tensor, text: Tensor) -> None:
        config, p = self.config, self.config.patch_size
        if latents.ndim != 5 or latents.shape[2] != config.in_channels:
            raise ValueError(
                f"latents have shape {list(latents.shape)}; this transformer takes [batch, frames, "
                f"{config.in_channels}, height, width]"
            )
        if latents.shape[3] % p or latents.shape[4] % p:
            raise ValueError(
                f"latents of {latents.shape[3]}x{latents.shape[4]} do not divide into patches of {p}x{p}: choose "
                f"pictures whose height and width are multiples of {8 * p}"
            )
        if text.ndim != 3 or text.shape[2] != config.text_embed_dim or len(text) != len(latents):
            raise ValueError(
                f"text has shape {list(text.shape)}; this transformer takes [{len(latents)}, tokens, "
                f"{config.text_embed_dim}]: embeddings of the encoder that it was made for"
            )
        if text.shape[1] > config.max_text_seq_length:
            raise ValueError(f"text of {text.shape[1]} tokens; this transformer takes {config.max_text_seq_length}")
