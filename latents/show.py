"""Reconstructions: what is left of a sample's pictures after the VAE, beside the source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from captioning.todo import clip_rows
from curation.read import read_clip
from curation.report.previews import encode as mp4
from latents.config import LatentsConfig
from latents.dataset import LatentDataset, LatentSample
from latents.index import DECODED
from latents.vae import VideoEncoder
from orchestration.errors import ConfigError
from orchestration.storage import Storage

RATE = 8.0  # pictures a second, of a sample that has no rate


def decode(config: LatentsConfig, key: str) -> str:
    """Write source and reconstruction of a sample side by side as mp4; where that is, and how near they are."""
    dataset = LatentDataset(config.dataset, text=None)
    try:
        sample = dataset[dataset.find(key)]
    except KeyError:
        raise ConfigError(f"there is no sample {key!r} in {config.dataset}; keys are in samples/*.parquet") from None
    vae = VideoEncoder(config.vae)
    _same(vae.facts, sample)
    vae.setup()
    source = source_frames(Storage(config.dataset), sample)
    made = vae.decode(sample.mean)
    name = f"{DECODED}/{key}.mp4"
    storage = Storage(config.dataset)
    storage.write_bytes(name, mp4(np.concatenate([source, made], axis=2), sample.facts["fps"] or RATE))
    return f"{storage.uri}/{name}: source left, reconstruction right, PSNR {psnr(source, made):.2f} dB"


def source_frames(storage: Storage, sample: LatentSample) -> np.ndarray:
    """[T, H, W, 3] uint8: the pictures that the sample was made of. Raises ConfigError where the clip is gone."""
    rows = list(clip_rows(storage, {sample.facts["clip_id"]}))
    if not rows:
        raise ConfigError(f"the clip of {sample.key} is no longer in {storage.uri}")
    _, height, width = sample.facts["bucket"]
    return read_clip(rows[0], sample.facts["frames"], (height, width), root=storage.uri)


def psnr(source: np.ndarray, made: np.ndarray) -> float:
    """dB over all pixels, of uint8 pictures."""
    error = float(np.mean((source.astype(np.float64) - made.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _same(facts: Mapping[str, Any], sample: LatentSample) -> None:
    used = sample.facts["encoder"]["vae"]
    if used.get("weights") != facts.get("weights"):
        raise ConfigError(
            f"{sample.key} was encoded by the VAE {used.get('model')}, the configuration names {facts['model']}"
        )
