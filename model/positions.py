"""Where a video token is: fixed sinusoids added to it (2B) or rotations of queries and keys (5B).

A token has three coordinates: latent frame t, row h and column w of its patch. Both embeddings are separable: a table
an axis, broadcast to the grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

THETA = 10_000.0


def sincos_3d(
    frames: int,
    height: int,
    width: int,
    dim: int,
    spatial_scale: float = 1.0,
    temporal_scale: float = 1.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Absolute 3D sinusoids [frames*height*width, dim] float32: a quarter of dim for t, three eighths each for w and h.

    Args:
        frames, height, width: the grid of patches.
        dim: the model's width, a multiple of 16.
        spatial_scale, temporal_scale: coordinates are divided by these (CogVideoX-2B: 1.875 and 1), so another size
            continues the grid that was trained.

    Source: CogVideoX-2B as released; the paper (section 2.2) describes the RoPE variant.
    """
    if dim % 16:
        raise ValueError(f"3D sinusoids need a width that is a multiple of 16, not {dim}")
    t = _sincos(torch.arange(frames, device=device) / temporal_scale, dim // 4)
    w = _sincos(torch.arange(width, device=device) / spatial_scale, dim // 8 * 3)
    h = _sincos(torch.arange(height, device=device) / spatial_scale, dim // 8 * 3)
    return _grid(t, h, w, order="twh")


def rope_positions(
    frames: int,
    height: int,
    width: int,
    base_height: int,
    base_width: int,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates of the patches for RoPE: t [frames], h [height], w [width].

    Frames count from 0. Rows and columns are laid over the base grid (base_height x base_width, the size the model is
    made for): the picture is scaled to fit inside, aspect kept, and centred. At the base size they count 0, 1, 2, ...;
    at another size they are *interpolated*. To *extrapolate* instead, give a model the new size as its base
    (`TransformerConfig.sample_height`, `sample_width`).

    This is what `CogVideoXPipeline` samples with; training with it too means that what is learnt at any size is what is
    sampled (the released fine-tuning code trains on a grid cut from the base instead, which differs elsewhere than at
    480x720).
    """
    if height / width > base_height / base_width:  # taller: as high as the base, bars left and right
        fit_height, fit_width = base_height, round(base_height / height * width)
    else:
        fit_height, fit_width = round(base_width / width * height), base_width
    top, left = round((base_height - fit_height) / 2), round((base_width - fit_width) / 2)
    t = torch.arange(frames, device=device, dtype=torch.float32)
    h = torch.linspace(top, (top + fit_height) * (height - 1) / height, height, device=device)
    w = torch.linspace(left, (left + fit_width) * (width - 1) / width, width, device=device)
    return t, h, w


def rope_3d(t: Tensor, h: Tensor, w: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotations, [t*h*w, head_dim/2] float32 each: 1/4 of the pairs for t, 3/8 each for h, w.

    Source: CogVideoX, section 2.2 (3D-RoPE); Su et al., arXiv 2104.09864.
    """
    if head_dim % 16:
        raise ValueError(f"3D RoPE needs heads of a multiple of 16 channels, not {head_dim}")
    by_frame = torch.outer(t, _frequencies(head_dim // 4, t))  # [frames, head_dim/8]
    by_row, by_column = (torch.outer(axis, _frequencies(head_dim // 8 * 3, axis)) for axis in (h, w))
    angles = _grid(by_frame, by_row, by_column)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (2i, 2i+1) of x [B, S, heads, head_dim] by the angles of its positions ([S, head_dim/2])."""
    pairs = x.float().unflatten(-1, (-1, 2))  # [B, S, heads, head_dim/2, 2]
    if not torch.compiler.is_compiling():
        rotated = torch.view_as_complex(pairs) * torch.complex(cos, sin)[:, None]
        return torch.view_as_real(rotated).flatten(-2).to(x.dtype)
    # The compiler fuses real numbers only; one by one they would take six times as long as a complex product.
    (even, odd), cos, sin = pairs.unbind(-1), cos[:, None], sin[:, None]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x.dtype)


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Sinusoids of diffusion timesteps [B] -> [B, dim] float32, cosines first (Ho et al., arXiv 2006.11239)."""
    half = dim // 2
    frequencies = torch.exp(-torch.arange(half, device=timesteps.device).float() * (math.log(THETA) / half))
    angles = timesteps[:, None].float() * frequencies  # [B, dim/2]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _frequencies(dim: int, like: Tensor) -> Tensor:
    return 1.0 / THETA ** (torch.arange(0, dim, 2, device=like.device, dtype=like.dtype) / dim)  # [dim/2]


def _sincos(positions: Tensor, dim: int) -> Tensor:
    """[n] -> [n, dim]: sines, then cosines."""
    precise = torch.float32 if positions.device.type == "mps" else torch.float64
    angles = torch.outer(positions.to(precise), _frequencies(dim, positions.to(precise)))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def _grid(t: Tensor, h: Tensor, w: Tensor, order: str = "thw") -> Tensor:
    """Tables of three axes [n, d] -> one row a patch, [t*h*w, d_t + d_h + d_w], the axes' channels in this order."""
    size = (len(t), len(h), len(w))
    spread = {
        "t": t[:, None, None].expand(*size, -1),
        "h": h[None, :, None].expand(*size, -1),
        "w": w[None, None].expand(*size, -1),
    }
    return torch.cat([spread[axis] for axis in order], dim=-1).flatten(0, 2)
