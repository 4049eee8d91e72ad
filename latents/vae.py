"""Frames to latents and back: a causal 3D VAE, chunked and tiled, with what identifies the latents that it makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from curation.scorers.runtime import torch_device
from latents.weights import EncoderConfig, hash_files, identity, reproducible, torch_dtype
from orchestration.config import Config
from orchestration.errors import RushesError

if TYPE_CHECKING:
    import torch

    from model.vae import CausalVAE
    from model.vae_tiling import Tiling

DEFAULT = "small"  # the VAE that comes with rushes, see docs/vae.md


class TilingConfig(Config):
    """Pictures larger than a tile are encoded in tiles, whose overlaps are blended. Defaults: diffusers' at 480x720."""

    height: int = Field(default=240, ge=8, multiple_of=8)  # px
    width: int = Field(default=360, ge=8, multiple_of=8)
    overlap_height: float = Field(default=1 / 6, ge=0, le=0.5)  # of a tile
    overlap_width: float = Field(default=1 / 5, ge=0, le=0.5)


class VaeConfig(EncoderConfig):
    """The VAE, and how it sees videos. Chunking, tiling and dtype change the latents."""

    # A hub name or folder of a CogVideoX pipeline, or of its VAE alone (diffusers' AutoencoderKLCogVideoX). `small`
    # comes with rushes: trained on one film, for machines without a hub.
    model: str = Field(default=DEFAULT, min_length=1)
    revision: str | None = None  # of a hub name
    chunk_frames: int | None = Field(default=8, ge=8, multiple_of=8)  # frames seen at once; null: all
    tiling: TilingConfig | None = None  # null: pictures are seen whole
    moments: Literal["both", "mean"] = "both"  # both: training draws from the posterior; mean: half the bytes
    batch: int = Field(default=1, ge=1)  # samples at once, of encode_many; other batches, other last bits


class VideoEncoder:
    """uint8 frames to moments, moments to frames. Constructed cheaply; `setup` loads weights, in the worker."""

    HINT = (
        "vae.model takes the name or folder of a CogVideoX pipeline (THUDM/CogVideoX-2b), or of its VAE alone, with "
        f"safetensors; {DEFAULT!r} comes with rushes."
    )

    def __init__(self, config: VaeConfig):
        self._given = config
        self._network: CausalVAE | None = None

    @cached_property
    def config(self) -> VaeConfig:
        """As given, with nothing left to the machine."""
        return self._given.here()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What latents depend on. Needs the weights' files, and loads none of them; does not need `setup`.

        model: NAME@COMMIT, or FOLDER#HASH. weights: SHA-256 over the safetensors' bytes.
        """
        from model.pretrained import weight_files
        from model.vae import CausalVAE

        try:
            shape, weights = CausalVAE.read_config(self.folder), hash_files(weight_files(self.folder))
        except (ValueError, OSError) as error:
            raise self._unusable(error) from error
        name = identity(self._where, self.folder, weights, json.dumps(asdict(shape), sort_keys=True))
        kept = ("dtype", "store", "chunk_frames", "tiling", "moments", "batch")
        return {
            "model": name,
            "weights": weights,
            "scaling_factor": shape.scaling_factor,
            "latent_channels": shape.latent_channels,
            **self.config.model_dump(mode="json", include=set(kept)),
        }

    def setup(self) -> None:
        """Load the weights. Raises RushesError where they are not to be had, ConfigError for the device."""
        device, dtype = torch_device(self.config.device), torch_dtype(self.config.dtype)
        from model.vae import CausalVAE

        try:
            network = CausalVAE.from_pretrained(self.folder, dtype=dtype)
        except (ValueError, OSError) as error:
            raise self._unusable(error) from error
        self._network = network.to(device).eval().requires_grad_(False)

    def encode(self, frames: np.ndarray) -> dict[str, torch.Tensor]:
        """Moments of one video, not scaled: `mean` and, unless only the mean is kept, `logvar`, [C, F, h, w].

        On the CPU, in the type they are kept in.

        Args:
            frames: [8N+1, H, W, 3] uint8 RGB, H and W multiples of 8 (an image: N = 0).

        Raises:
            ValueError: other frames.
            MemoryError: they do not fit.
            RushesError: the VAE gives no numbers for them in this dtype.
        """
        return self.encode_many([frames])[0]

    def encode_many(self, videos: Sequence[np.ndarray]) -> list[dict[str, torch.Tensor]]:
        """`encode` of several videos of one shape, `batch` at a time: equal to it but for rounding, and equal in all
        bits with a batch of 1."""
        import torch

        if len({video.shape for video in videos}) > 1:
            raise ValueError(f"videos of several shapes: {sorted({video.shape for video in videos})}")
        found: list[dict[str, torch.Tensor]] = []
        network, store = self._ready(), torch_dtype(self.config.store)
        for start in range(0, len(videos), self.config.batch):
            with reproducible(self._device):
                x = self._pixels(videos[start : start + self.config.batch])
                posterior = network.encode(x, chunk_frames=self.config.chunk_frames, tiling=self._tiling)
                moments = {"mean": posterior.mean}
                if self.config.moments == "both":
                    moments["logvar"] = posterior.logvar
                kept = {name: tensor.to(store).cpu() for name, tensor in moments.items()}
            if not all(torch.isfinite(tensor).all() for tensor in kept.values()):
                raise RushesError(
                    f"{self._given.model} gives infinite latents in {self.config.dtype}, kept as {self.config.store}: "
                    "set vae.dtype and vae.store to bfloat16 or float32"
                )
            # Clones: a sample of its own, not a view that keeps the batch in memory.
            found += [
                {name: tensor[i].clone(memory_format=torch.contiguous_format) for name, tensor in kept.items()}
                for i in range(len(x))
            ]
        return found

    def decode(self, latents: torch.Tensor | np.ndarray) -> np.ndarray:
        """[C, 2N+1, h, w] as `encode` gives them (not scaled) -> [8N+1, H, W, 3] uint8 RGB.

        Raises ValueError for other latents, MemoryError where they do not fit.
        """
        import torch

        network = self._ready()
        with reproducible(self._device):
            z = torch.as_tensor(latents).to(self._device, torch_dtype(self.config.dtype))[None]
            video = network.decode(z, chunk_frames=self.config.chunk_frames, tiling=self._tiling)[0]
            pixels = video.float().mul_(0.5).add_(0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
            return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()

    @cached_property
    def _where(self) -> str:
        """The hub name or folder."""
        from model.vae import SMALL

        return str(SMALL) if self._given.model == DEFAULT else self._given.model

    @cached_property
    def folder(self) -> Path:
        """Of config.json and weights. Raises RushesError where there is none."""
        from model.pretrained import locate

        try:
            return locate(self._where, "vae", self._given.revision)
        except (ValueError, OSError) as error:
            raise self._unusable(error) from error

    @cached_property
    def _tiling(self) -> Tiling | None:
        from model.vae_tiling import Tiling

        return Tiling(**self._given.tiling.model_dump()) if self._given.tiling else None

    @property
    def _device(self) -> Any:
        return next(self._ready().parameters()).device

    def _ready(self) -> CausalVAE:
        if self._network is None:
            raise RushesError("VideoEncoder is used before setup: call setup in the worker that encodes")
        return self._network

    def _pixels(self, videos: Sequence[np.ndarray]) -> torch.Tensor:
        """[B, 3, T, H, W] in [-1, 1], as diffusers' VideoProcessor makes it: in float32, then rounded to the dtype."""
        import torch

        for video in videos:
            if video.ndim != 4 or video.shape[3] != 3 or video.dtype != np.uint8:
                raise ValueError(f"frames are {video.dtype} {list(video.shape)}; the VAE takes uint8 [T, H, W, 3]")
        x = torch.from_numpy(np.stack(videos)).to(self._device).permute(0, 4, 1, 2, 3)
        x = x.to(torch.float32, memory_format=torch.contiguous_format)
        return x.div_(255).mul_(2).sub_(1).to(torch_dtype(self.config.dtype))

    def _unusable(self, error: Exception) -> RushesError:
        return RushesError(f"cannot use {self._given.model} as VAE: {error}\n{self.HINT}")
