"""Encoding and decoding in pieces: chunks of frames, tiles of pictures.

A network that cannot hold a video at once sees it chunk by chunk, causal convolutions remembering the last frames
(vae_blocks.ConvCache), and tile by tile, overlaps blended. **Both change the result**, since normalisation spans what
is seen at once: latents belong to the chunking and tiling that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

PIXELS = 8  # a latent's side


@dataclass(frozen=True)
class Tiling:
    """Tiles of height x width pixels; overlaps are shares of a tile. The defaults are diffusers' for 480x720 models."""

    height: int = 240
    width: int = 360
    overlap_height: float = 1 / 6
    overlap_width: float = 1 / 5

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if getattr(self, name) < PIXELS or getattr(self, name) % PIXELS:
                raise ValueError(f"a tile's {name} is {getattr(self, name)} px; it has to be a multiple of {PIXELS}")
        for name in ("overlap_height", "overlap_width"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be between 0 and 0.5 of a tile")

    def latents(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of a tile, and of the overlap of two, in latents."""
        tile = (self.height // PIXELS, self.width // PIXELS)
        return tile, (int(tile[0] * self.overlap_height), int(tile[1] * self.overlap_width))

    def splits(self, height: int, width: int) -> bool:
        """Whether so many latents are more than a tile."""
        (tile_height, tile_width), _ = self.latents()
        return height > tile_height or width > tile_width


def chunks(frames: int, size: int | None) -> Iterator[slice]:
    """Slices of `size` frames each, the first one longer by what is left over; one slice where size is None.

    17 frames by 8: [0, 9), [9, 17).
    """
    if size is None or frames <= size:
        yield slice(0, frames)
        return
    start = 0
    for end in range(size + frames % size, frames + 1, size):
        yield slice(start, end)
        start = end


def in_tiles(x: Tensor, network: Callable[[Tensor], Tensor], tiling: Tiling, given: int, made: int) -> Tensor:
    """Runs `network` on overlapping tiles of x [B, C, T, H, W] and blends their results linearly.

    Tiles, overlaps and steps are whole latents, so what is blended always shows the same place.

    Args:
        given: pixels of x a latent (8 to encode, 1 to decode).
        made: pixels of the result a latent (1 to encode, 8 to decode).
    """
    tile, overlap = tiling.latents()
    steps = [side - blend for side, blend in zip(tile, overlap, strict=True)]
    height, width = (side * given for side in tile)
    rows: list[Tensor] = []
    above: list[Tensor] = []  # the row of tiles before
    for top in range(0, x.shape[3], steps[0] * given):
        row: list[Tensor] = []
        for left in range(0, x.shape[4], steps[1] * given):
            done = network(x[..., top : top + height, left : left + width])
            if above:
                done = _blend(above[len(row)], done, overlap[0] * made, dim=3)
            if row:
                done = _blend(row[-1], done, overlap[1] * made, dim=4)
            row.append(done)
        rows.append(torch.cat([done[..., : steps[0] * made, : steps[1] * made] for done in row], dim=4))
        above = row
    return torch.cat(rows, dim=3)


def _blend(before: Tensor, x: Tensor, extent: int, dim: int) -> Tensor:
    """x with its first `extent` rows or columns faded in over the last ones of the tile before."""
    extent = min(before.shape[dim], x.shape[dim], extent)
    if not extent:
        return x
    shape = [1] * x.ndim
    shape[dim] = extent
    share = (torch.arange(extent, device=x.device, dtype=x.dtype) / extent).view(shape)
    faded = before.narrow(dim, before.shape[dim] - extent, extent) * (1 - share) + x.narrow(dim, 0, extent) * share
    return torch.cat([faded, x.narrow(dim, extent, x.shape[dim] - extent)], dim=dim)
