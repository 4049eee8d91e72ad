"""The causal 3D VAE (CogVideoX, section 2.1): 4 x 8 x 8 fewer pixels, 16 channels.

Videos are [B, 3, T, H, W] in [-1, 1] with T = 8N+1 (an image: 1); latents [B, C, F, H/8, W/8] with F = 2N+1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.noise import standard_normal
from model.pretrained import Network
from model.vae_blocks import EPS, CausalConv3d, ConvCache, Downsample, Level, SpatialNorm, Upsample, silu
from model.vae_tiling import PIXELS, Tiling, chunks, in_tiles

CHUNK = 8  # frames that CogVideoX's VAE encodes at once
LEVELS = 4  # of resolution; pictures are halved between them
TEMPORAL = 4  # frames a latent frame
SMALL = Path(__file__).parent / "weights" / "small"  # a trained `small`, which comes with the package
BLOCKS = {"down_block_types": "CogVideoXDownBlock3D", "up_block_types": "CogVideoXUpBlock3D"}  # in config.json


@dataclass(frozen=True)
class VAEConfig:
    """Fields are those of diffusers' config.json; the defaults are CogVideoX-2B's.

    scaling_factor: latents times this have a standard deviation of about 1 (2B: 1.15258426, 5B: 0.7).
    latents_mean, latents_std: of each channel, not scaled, as measured when the VAE was trained; empty: unknown. For
        the record: as in diffusers nothing here applies them.
    sample_height, sample_width: px, the size that the VAE is made for; where diffusers tiles, tiles are half of it.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 16
    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    layers_per_block: int = 3
    norm_num_groups: int = 32
    sample_height: int = 480
    sample_width: int = 720
    scaling_factor: float = 1.15258426
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.block_out_channels) != LEVELS:
            raise ValueError(
                f"{len(self.block_out_channels)} levels of channels; rushes compresses 4x8x8 only, in {LEVELS} levels"
            )


PRESETS = {
    "cogvideox": VAEConfig(),
    # For CPUs: 4 % of the parameters.
    "small": VAEConfig(
        block_out_channels=(16, 32, 96, 128),
        layers_per_block=1,
        norm_num_groups=8,
        sample_height=256,
        sample_width=256,
        scaling_factor=1.0,
    ),
}


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over latents: mean and logvar [B, C, F, h, w]."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        noise = standard_normal(self.mean.shape, generator, self.mean.device, self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.logvar) * noise


class Encoder(nn.Module):
    """[B, 3, T, H, W] -> [B, 2C, F, h, w], mean and logvar."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = CausalConv3d(config.in_channels, widths[0])
        self.down_blocks = nn.ModuleList()
        for i, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            down = ("downsamplers", Downsample(width, time=2**i < TEMPORAL))
            last = i == len(widths) - 1
            level = Level(before, width, config.layers_per_block, groups, sampler=None if last else down)
            self.down_blocks.append(level)
        self.mid_block = Level(widths[-1], widths[-1], 2, groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor, cache: ConvCache | None = None) -> Tensor:
        x = self.conv_in(x, cache)
        for block in (*self.down_blocks, self.mid_block):
            x = block(x, None, cache)
        return self.conv_out(silu(self.norm_out(x)), cache)


class Decoder(nn.Module):
    """[B, C, F, h, w] -> [B, 3, T, H, W]. Its norms see the latents at every level."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, groups, z = config.block_out_channels[::-1], config.norm_num_groups, config.latent_channels
        self.conv_in = CausalConv3d(z, widths[0])
        self.mid_block = Level(widths[0], widths[0], 2, groups, z)
        self.up_blocks = nn.ModuleList()
        for i, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            up = ("upsamplers", Upsample(width, time=2**i < TEMPORAL))
            last = i == len(widths) - 1
            level = Level(before, width, config.layers_per_block + 1, groups, z, sampler=None if last else up)
            self.up_blocks.append(level)
        self.norm_out = SpatialNorm(widths[-1], z, groups)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels)

    def forward(self, latents: Tensor, cache: ConvCache | None = None) -> Tensor:
        x = self.conv_in(latents, cache)
        for block in (self.mid_block, *self.up_blocks):
            x = block(x, latents, cache)
        return self.conv_out(silu(self.norm_out(x, latents)), cache)


class CausalVAE(Network):
    """Videos to latents and back. Weights are diffusers' `AutoencoderKLCogVideoX`'s. Presets: cogvideox, small."""

    part = "vae"
    kind = "AutoencoderKLCogVideoX"
    config_class = VAEConfig
    presets = PRESETS
    fixed: ClassVar[Mapping[str, Any]] = {
        "act_fn": "silu",
        "force_upcast": True,
        "invert_scale_latents": False,
        "norm_eps": EPS,
        "shift_factor": None,
        "temporal_compression_ratio": TEMPORAL,
        "use_post_quant_conv": False,
        "use_quant_conv": False,
    }
    config: VAEConfig

    def __init__(self, config: VAEConfig):
        super().__init__(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @classmethod
    def check(cls, found: dict[str, Any], path: Path) -> None:
        """Names other blocks."""
        found.pop("sample_size", None)  # of early files; nothing reads it
        for key in ("latents_mean", "latents_std"):
            if found.get(key, ()) is None:
                del found[key]
        for key, block in BLOCKS.items():
            if set(kinds := found.pop(key, [block])) != {block}:
                raise ValueError(f"{path} has {key} {kinds}; rushes has {block} only")

    @classmethod
    def describe(cls, config: VAEConfig) -> dict[str, Any]:
        """The config.json of a configuration."""
        blocks = {key: [block] * len(config.block_out_channels) for key, block in BLOCKS.items()}
        content = {**super().describe(config), **blocks}
        return {key: content[key] if content[key] != () else None for key in content}  # what diffusers writes

    @property
    def gradient_checkpointing(self) -> bool:
        """Recompute each ResnetBlock in the backward pass instead of keeping what is inside of it."""
        return self.encoder.mid_block.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        for module in self.modules():
            if isinstance(module, Level):
                module.gradient_checkpointing = on

    def encode(self, video: Tensor, *, chunk_frames: int | None = CHUNK, tiling: Tiling | None = None) -> Posterior:
        """Latents' distribution, not yet scaled (see `scaled`).

        Args:
            video: [B, 3, 8N+1, H, W] in [-1, 1], H and W multiples of 8.
            chunk_frames: frames seen at once, a multiple of 8 (the first chunk has one more); None: all.
            tiling: pictures larger than a tile are encoded in tiles; None: whole.

        Raises:
            ValueError: a number of frames that is not 8N+1, a size that does not divide.
        """
        self._check_video(video)
        chunk = _chunk(chunk_frames)

        def encode(x: Tensor) -> Tensor:
            return _in_chunks(self.encoder, x, chunk)

        if tiling is not None and tiling.splits(video.shape[3] // PIXELS, video.shape[4] // PIXELS):
            moments = in_tiles(video, encode, tiling, given=PIXELS, made=1)
        else:
            moments = encode(video)
        mean, logvar = moments.chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, latents: Tensor, *, chunk_frames: int | None = CHUNK, tiling: Tiling | None = None) -> Tensor:
        """[B, C, 2N+1, h, w] as `encode` gives them (not scaled) -> [B, 3, 8N+1, H, W], about [-1, 1], not clamped.

        chunk_frames and tiling are counted in the video's frames and pixels, as in `encode`.

        Raises:
            ValueError: a number of latent frames that no video of 8N+1 frames has.
        """
        self._check_latents(latents)
        chunk = _chunk(chunk_frames)

        def decode(x: Tensor) -> Tensor:
            return _in_chunks(self.decoder, x, chunk and chunk // TEMPORAL)

        if tiling is not None and tiling.splits(*latents.shape[3:]):
            return in_tiles(latents, decode, tiling, given=1, made=PIXELS)
        return decode(latents)

    def scaled(self, latents: Tensor) -> Tensor:
        """What the transformer learns on: standard deviation about 1."""
        return latents * self.config.scaling_factor

    def unscaled(self, latents: Tensor) -> Tensor:
        """What `decode` takes."""
        return latents / self.config.scaling_factor

    @torch.no_grad()
    def normalise(self, mean: Tensor, std: Tensor) -> None:
        """Change the weights so that latents become (latents - mean) / std, and the decoder takes those.

        Both [C], a channel's. Reconstructions stay what they were but at the borders: around the picture the decoder's
        first convolution sees zeros, which now stand for `mean`.
        """
        out, channels = self.encoder.conv_out.conv, self.config.latent_channels
        assert out.bias is not None
        rows = (slice(None), *[None] * (out.weight.ndim - 1))
        out.weight[:channels].div_(std[rows])
        out.bias[:channels].sub_(mean).div_(std)
        out.bias[channels:].sub_(2 * std.log())
        takers = [self.decoder.conv_in.conv]
        takers += [c.conv for m in self.decoder.modules() if isinstance(m, SpatialNorm) for c in (m.conv_y, m.conv_b)]
        for conv in takers:
            assert conv.bias is not None
            conv.bias.add_(conv.weight.sum((2, 3, 4)) @ mean)
            conv.weight.mul_(std[None, :, None, None, None])

    def forward(self, video: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Posterior]:
        """Reconstruction and posterior of a whole video, unchunked: for training."""
        posterior = self.encode(video, chunk_frames=None)
        return self.decode(posterior.sample(generator), chunk_frames=None), posterior

    def _check_video(self, video: Tensor) -> None:
        if video.ndim != 5 or video.shape[1] != self.config.in_channels:
            raise ValueError(f"video has shape {list(video.shape)}; the VAE takes [batch, 3, frames, height, width]")
        check_frames(video.shape[2])
        if video.shape[3] % PIXELS or video.shape[4] % PIXELS:
            raise ValueError(
                f"video of {video.shape[3]}x{video.shape[4]} px; height and width have to be multiples of {PIXELS}"
            )

    def _check_latents(self, latents: Tensor) -> None:
        if latents.ndim != 5 or latents.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"latents have shape {list(latents.shape)}; the VAE takes [batch, {self.config.latent_channels}, "
                "frames, height, width] (the transformer's [batch, frames, channels, ...] transposed)"
            )
        if latents.shape[2] % 2 == 0:
            raise ValueError(
                f"{latents.shape[2]} latent frames come from no video of 8N+1 frames, which have 2N+1: the first frame "
                "would be read as a pair"
            )


def check_frames(frames: int) -> None:
    """Raises ValueError where a video of so many frames would not come back from the VAE as long as it went in."""
    if frames % 8 != 1 or frames < 1:
        shorter = max((frames - 1) // 8 * 8 + 1, 1)
        raise ValueError(
            f"{frames} frames are not 8N+1: the VAE keeps the first frame and halves the others twice, in chunks of 8, "
            f"so {frames} would not come back as {frames}. Take {shorter} or {shorter + 8} (an image is 1)"
        )


def _chunk(frames: int | None) -> int | None:
    if frames is not None and (frames < CHUNK or frames % CHUNK):
        raise ValueError(f"chunk_frames is {frames}; it has to be a multiple of {CHUNK}, or None for the whole video")
    return frames


def _in_chunks(network: Encoder | Decoder, x: Tensor, size: int | None) -> Tensor:
    parts: list[Tensor] = []
    cache: ConvCache | None = None
    pieces = list(chunks(x.shape[2], size))
    for piece in pieces:
        if len(pieces) > 1:
            cache = ConvCache(cache, last=piece is pieces[-1])
        parts.append(network(x[:, :, piece], cache))
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
