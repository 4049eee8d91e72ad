"""From shards to what a step trains on. Everything that is drawn is drawn by (seed, step, place in the global batch):
the number of ranks changes nothing, and resuming needs no state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curation.dataset.records import clip_schema
from latents.dataset import LatentDataset, LatentSample
from model.timesteps import explicit_uniform
from orchestration.errors import ConfigError
from orchestration.storage import Storage
from orchestration.tables import snapshot
from train.config import SelectConfig, StageConfig, TrainConfig
from train.held_out import is_held_out
from train.order import Order


@dataclass(frozen=True)
class Examples:
    """Samples at once. B of one bucket, F latent frames.

    latents, noise: [B, F, C, h, w] float32, latents scaled. text: [B, L, E] float32. timesteps: [B] int64.
    keys: what they are, for messages.
    """

    latents: Tensor
    noise: Tensor
    text: Tensor
    timesteps: Tensor
    keys: tuple[str, ...]

    def to(self, device: torch.device, dtype: torch.dtype) -> Examples:
        latents, noise, text = (t.to(device, dtype) for t in (self.latents, self.noise, self.text))
        return Examples(latents, noise, text, self.timesteps.to(device), self.keys)


def _held_out(config: TrainConfig, data: LatentDataset, number: int) -> bool:
    return is_held_out(clip_of(data.key(number)), config.watch.held_out)


def clip_of(key: str) -> str:
    """A sample's clip: keys are CLIP-wN."""
    return key.rpartition("-w")[0]


class StageData:
    """The examples of a stage's steps. Raises ConfigError where the stage cannot have its batches.

    held_out: numbers of the samples in its buckets that nothing is learnt from. manifest: of what it learns from.
    """

    def __init__(self, config: TrainConfig, stage: StageConfig, data: LatentDataset, before: int):
        """before: steps of the training that are behind when the stage begins."""
        self._config, self._stage, self._data, self._before = config, stage, data, before
        chosen = _best(Storage(config.dataset), stage.select) if stage.select else None
        buckets: dict[str, Sequence[int]] = {}
        for name in stage.buckets or data.buckets:
            if name not in data.buckets:
                raise ConfigError(f"the data set has no bucket {name}; it has {', '.join(data.buckets)}")
            buckets[name] = [
                number
                for number in data.buckets[name]
                if not _held_out(config, data, number) and (chosen is None or clip_of(data.key(number)) in chosen)
            ]
        numbers = hashlib.sha256(repr(sorted(buckets.items())).encode()).hexdigest()
        self.manifest = f"{data.manifest_hash} {numbers}"
        manifest = f"{data.manifest_hash} {stage.model_dump_json(include={'buckets', 'select'})}"
        self.order = Order(buckets, dict.fromkeys(buckets, stage.batch), config.seed, manifest, stage.images)
        self._scale = float(data.encoder["vae"]["scaling_factor"])
        empty = data.empty_text()
        if empty is None:
            raise ConfigError("these latents have no text embeddings: encode them with a text encoder (text.model)")
        self._empty = empty[0]
        self.held_out = [n for name in buckets for n in data.buckets[name] if _held_out(config, data, n)]

    def steps(self, start: int, rank: int, size: int) -> Iterator[tuple[str, list[Examples]]]:
        """From a step of the stage on: each one's bucket, and a rank's micro-batches. The next is read meanwhile."""
        with ThreadPoolExecutor(1, "latents") as pool:
            waiting = pool.submit(self._step, start, rank, size)
            for step in range(start, self._stage.steps):
                ready = waiting.result()
                if step + 1 < self._stage.steps:
                    waiting = pool.submit(self._step, step + 1, rank, size)
                yield ready

    def _step(self, step: int, rank: int, size: int) -> tuple[str, list[Examples]]:
        batch = self.order(step)
        mine = batch.of_rank(rank, size)
        count, first = len(mine), rank * len(mine)
        number = self._before + step  # of the whole training: stages do not draw the same noise
        timesteps = explicit_uniform(self._config.seed, number, count, rank, size)
        samples = self._data.__getitems__(mine)
        each = self._config.micro_batch
        return batch.bucket, [
            self._examples(samples[at : at + each], timesteps[at : at + each], number, first + at)
            for at in range(0, count, each)
        ]

    def _examples(self, samples: Sequence[LatentSample], timesteps: Tensor, step: int, first: int) -> Examples:
        given, noise, text = [], [], []
        for place, sample in enumerate(samples, first):
            drawn = np.random.default_rng([self._config.seed, 2, step, place])
            generator = torch.Generator().manual_seed(int(drawn.integers(2**62)))
            given.append(latents(sample, generator, self._scale))
            noise.append(torch.randn(given[-1].shape, generator=generator))
            dropped, which = drawn.random() < self._config.text_dropout, int(drawn.integers(max(1, len(sample.text))))
            text.append(self._empty.float() if dropped else caption(sample, which))
        keys = tuple(sample.key for sample in samples)
        return Examples(torch.stack(given), torch.stack(noise), torch.stack(text), timesteps, keys)


def latents(sample: LatentSample, generator: torch.Generator | None, scale: float) -> Tensor:
    """[F, C, h, w] float32, scaled: drawn from the posterior, or its mean without a generator."""
    mean = sample.mean.float()
    if generator is not None and sample.logvar is not None:
        mean = mean + torch.exp(0.5 * sample.logvar.float()) * torch.randn(mean.shape, generator=generator)
    return mean.transpose(0, 1) * scale


def caption(sample: LatentSample, which: int) -> Tensor:
    """[L, E] float32."""
    return sample.text[which].float()


def _best(storage: Storage, select: SelectConfig) -> set[str]:
    """Clips with most of a score. Raises ConfigError where there is no such score."""
    if select.score not in clip_schema().names:
        raise ConfigError(f"select.score: no score {select.score!r} in the clips table")
    found: dict[str, float] = {}
    for table in snapshot(storage, "clips", ["clip_id", select.score]):
        rows: list[Mapping[str, Any]] = table.to_pylist()
        found |= {row["clip_id"]: float(row[select.score]) for row in rows if row[select.score] is not None}
    if not found:
        raise ConfigError(f"select.score: no clip of the data set has a {select.score}; curate with that scorer")
    count = max(1, round(select.best * len(found)))
    return set(sorted(found, key=lambda clip: (-found[clip], clip))[:count])
