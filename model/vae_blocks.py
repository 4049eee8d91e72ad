"""What the causal 3D VAE is made of (CogVideoX, section 2.1).

Shapes: [B, C, T, H, W], T frames at any level. A video is 1 + 2n frames at every level where time is halved: the first
frame stands for itself, and all later ones go in pairs. Nothing looks ahead of the chunk it is given.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

EPS = 1e-6


class ConvCache:
    """What the causal convolutions saw at the end of one chunk, and will see before the next.

    `before` is only read and `after` only written, so recomputing a block in the backward pass (activation
    checkpointing) changes nothing. Behind the last chunk nothing is kept.
    """

    def __init__(self, previous: ConvCache | None, last: bool):
        self.before: dict[nn.Module, Tensor] = previous.after if previous else {}
        self.after: dict[nn.Module, Tensor] = {}
        self.last = last


class Conv3d(nn.Conv3d):
    """Through `conv3d`."""

    def forward(self, input: Tensor) -> Tensor:
        return conv3d(input, self.weight, self.bias, self.stride, self.padding)  # type: ignore[arg-type]


class CausalConv3d(nn.Module):
    """A convolution over space and past frames. Before the first frame come copies of it, before a chunk its cache."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3):
        super().__init__()
        self.past = kernel - 1
        self.conv = Conv3d(channels_in, channels_out, kernel, padding=(0, kernel // 2, kernel // 2))

    def forward(self, x: Tensor, cache: ConvCache | None = None) -> Tensor:
        if x.shape[2] == 1 and cache is None:  # a picture: its copies meet all of the kernel's slices
            return F.conv2d(x[:, :, 0], self.conv.weight.sum(2), self.conv.bias, padding=self.past // 2)[:, :, None]
        if self.past:
            before = cache.before.get(self) if cache else None
            if before is None:
                before = x[:, :, :1].expand(-1, -1, self.past, -1, -1)
            x = torch.cat([before, x], dim=2)
            if cache and not cache.last:
                cache.after[self] = x[:, :, -self.past :].clone()  # a view would keep the whole chunk in memory
        return self.conv(x)


class SpatialNorm(nn.Module):
    """GroupNorm, then a scale and shift from the latents at the same place (Zheng et al., arXiv 2209.09002).

    The two 1x1x1 convolutions are done on the latents and their results enlarged, not the other way round: nearest
    neighbours commute with them, and at the decoder's end the latents are 64 times fewer pixels. Rows are never
    repeated in memory, but broadcast.
    """

    def __init__(self, channels: int, latent_channels: int, groups: int):
        super().__init__()
        self.norm_layer = nn.GroupNorm(groups, channels, eps=EPS)
        self.conv_y = CausalConv3d(latent_channels, channels, kernel=1)
        self.conv_b = CausalConv3d(latent_channels, channels, kernel=1)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        frames, width, rows = x.shape[2], x.shape[4], latents.shape[3]
        scale, shift = (widened(conv(latents), frames, width)[:, :, :, :, None] for conv in (self.conv_y, self.conv_b))
        normed = self.norm_layer(x).unflatten(3, (rows, -1))  # [B, C, T, h, H/h, W]
        return torch.addcmul(shift, normed, scale).flatten(3, 4)


class ResnetBlock(nn.Module):
    """Norm, SiLU, convolution, twice, beside a shortcut. With latent_channels the norms are SpatialNorms."""

    def __init__(self, channels_in: int, channels_out: int, groups: int, latent_channels: int | None = None):
        super().__init__()

        def norm(channels: int) -> nn.Module:
            if latent_channels is None:
                return nn.GroupNorm(groups, channels, eps=EPS)
            return SpatialNorm(channels, latent_channels, groups)

        self.norm1 = norm(channels_in)
        self.conv1 = CausalConv3d(channels_in, channels_out)
        self.norm2 = norm(channels_out)
        self.conv2 = CausalConv3d(channels_out, channels_out)
        if channels_in != channels_out:
            self.conv_shortcut = Conv3d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, latents: Tensor | None, cache: ConvCache | None) -> Tensor:
        given = () if latents is None else (latents,)
        h = self.conv1(silu(self.norm1(x, *given)), cache)
        h = self.conv2(silu(self.norm2(h, *given)), cache)
        return (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x) + h


class Downsample(nn.Module):
    """Halves height and width by a strided convolution a frame; with `time`, first the frames by averaging pairs."""

    def __init__(self, channels: int, time: bool):
        super().__init__()
        self.time = time
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if self.time and x.shape[2] > 1:
            first = x.shape[2] % 2  # of a video's first chunk
            pairs = (x[:, :, first::2] + x[:, :, first + 1 :: 2]) / 2
            x = torch.cat([x[:, :, :1], pairs], dim=2) if first else pairs
        return framewise(self.conv, F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width, then convolves each frame; with `time`, all but a video's first frame are shown twice.

    The copies of a frame are alike, so they are made behind the convolution.
    """

    def __init__(self, channels: int, time: bool):
        super().__init__()
        self.time = time
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        frames, height, width = x.shape[2:]
        x = framewise(self.conv, F.interpolate(x, size=(frames, 2 * height, 2 * width)))
        if self.time and frames > 1:
            first = frames % 2
            twice = x[:, :, first:].repeat_interleave(2, dim=2)
            x = torch.cat([x[:, :, :1], twice], dim=2) if first else twice
        return x


class Level(nn.Module):
    """ResnetBlocks at one resolution, then the way to the next: "downsamplers", "upsamplers", or nothing at the end."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        layers: int,
        groups: int,
        latent_channels: int | None = None,
        sampler: tuple[str, nn.Module] | None = None,
    ):
        super().__init__()
        self.gradient_checkpointing = False
        self.resnets = nn.ModuleList(
            ResnetBlock(channels_in if i == 0 else channels_out, channels_out, groups, latent_channels)
            for i in range(layers)
        )
        if sampler is not None:
            name, module = sampler
            self.add_module(name, nn.ModuleList([module]))

    def forward(self, x: Tensor, latents: Tensor | None, cache: ConvCache | None) -> Tensor:
        for resnet in self.resnets:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(resnet, x, latents, cache, use_reentrant=False, preserve_rng_state=False)
            else:
                x = resnet(x, latents, cache)
        for sampler in getattr(self, "downsamplers", getattr(self, "upsamplers", ())):
            x = sampler(x)
        return x


def widened(x: Tensor, frames: int, width: int) -> Tensor:
    """Nearest neighbours along time and rows: [B, C, t, h, w] -> [B, C, frames, h, width].

    Where a video begins (an odd number of frames) its first frame stays one.
    """
    if frames != x.shape[2]:
        first = frames % 2
        rest = x[:, :, first:].repeat_interleave((frames - first) // (x.shape[2] - first), dim=2)
        x = torch.cat([x[:, :, :1], rest], dim=2) if first else rest
    return x.repeat_interleave(width // x.shape[4], dim=4)


def framewise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 2D convolution on each frame, without moving frames into the batch and back (past the module's own hooks).

    For gradients on a CPU they are moved: of flat 3D kernels in bfloat16 oneDNN returns weight gradients that are NaN
    (seen with torch 2.13, 32 channels, 64x64).
    """
    if x.device.type == "cpu" and torch.is_grad_enabled():
        frames = F.conv2d(x.transpose(1, 2).flatten(0, 1), conv.weight, conv.bias, conv.stride, conv.padding)
        return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    return conv3d(x, conv.weight[:, :, None], conv.bias, (1, *conv.stride), (0, *conv.padding))  # type: ignore[arg-type]


Three = tuple[int, int, int]


def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Three, padding: Three) -> Tensor:
    """F.conv3d; on a CPU without gradients always through oneDNN.

    Torch itself goes there for large or batched inputs only, and is a fifth slower over an encoder. A single frame is
    convolved in 2D: the 3D kernels of torch 2.13 in bfloat16 write where they should not in its backward pass.
    """
    if x.shape[2] == 1 and weight.shape[2] == 1:
        return F.conv2d(x[:, :, 0], weight[:, :, 0], bias, stride[1:], padding[1:])[:, :, None]
    if x.device.type == "cpu" and not torch.is_grad_enabled() and _onednn(x.dtype):
        return torch.mkldnn_convolution(x.contiguous(), weight.contiguous(), bias, padding, stride, (1, 1, 1), 1)
    return F.conv3d(x, weight, bias, stride, padding)


@cache
def _onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves this type on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def silu(x: Tensor) -> Tensor:
    """In place where no gradient is taken: callers give it what nobody else holds."""
    return F.silu(x, inplace=not x.requires_grad)
