"""`rushes train`: the loop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import yaml
from rich.console import Console

from latents.dataset import LatentDataset
from model.diffusion import NoiseSchedule
from model.transformer import PRESETS
from orchestration.errors import ConfigError, RushesError
from orchestration.lock import WriterLock
from orchestration.runs import RunFolder
from orchestration.storage import Storage
from train import checkpoints
from train.config import TrainConfig
from train.data import Examples, StageData
from train.engine import Engine, NotFinite, deepspeed_ranks
from train.loss import losses
from train.ranks import Ranks, ranks
from train.stopping import Stopping
from train.watch import Watch


def train(config: TrainConfig, console: Console) -> None:
    """The whole run; it goes on from the newest checkpoint of the same configuration and data.

    Raises ConfigError for what cannot begin, RushesError for what could not be completed.
    """
    output = Storage(config.output)
    if not output.local:
        raise ConfigError(
            "output: a local folder that all machines see; copy it to the bucket when the training is done"
        )
    if config.threads and config.device != "cuda":
        torch.set_num_threads(config.threads)
    with ranks(config.device) as us, deepspeed_ranks(us):
        if not us.first:
            _Training(config, us, Console(quiet=True)).go()
            return
        with WriterLock(output, "train"):
            run = RunFolder(output, "train", config, Path(config.output))
            try:
                text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
                (Path(config.output) / "config.yaml").write_text(text)
                _Training(config, us, console).go()
            finally:
                run.close()


class _Training:
    def __init__(self, config: TrainConfig, us: Ranks, console: Console):
        self._config, self._us, self._console = config, us, console
        self._folder = Path(config.output) / "checkpoints"
        self._stopping = Stopping(console)
        self._data = LatentDataset(config.dataset, set=config.set, cache=config.cache, cache_gb=config.cache_gb)
        befores = itertools.accumulate([0, *(stage.steps for stage in config.stages)])
        pairs = zip(config.stages, befores, strict=False)
        self._stages = [StageData(config, stage, self._data, before) for stage, before in pairs]  # all, before any work
        self._refuse()
        self._engine = Engine(config, us)
        self._check_shapes()
        self._schedule = _schedule(config)
        self._alpha_bars = self._schedule.alpha_bars()

    def go(self) -> None:
        start, seconds = self._resume()
        if start >= self._config.steps:
            self._console.print(f"all {start:,} steps are done")
            return
        with self._stopping:
            if not self._us.first:
                self._steps(start, None)
                return
            with Watch(Path(self._config.output), self._config.steps, start, seconds, self._console) as watch:
                self._steps(start, watch)

    def _steps(self, start: int, watch: Watch | None) -> None:
        config = self._config
        frames, kept = 0, {"loss": [], "grad_norm": []}
        for step, batch in self._batches(start):
            loss, norm = self._step(step, batch)
            kept["loss"].append(loss)
            kept["grad_norm"].append(norm)
            done = step + 1
            frames += sum(one.latents.shape[0] * one.latents.shape[1] for one in batch)
            if watch is not None:
                watch.step(done, frames)
                if done % config.watch.log_every == 0 or done == config.steps:
                    means = {name: float(np.mean(values)) for name, values in kept.items()}
                    watch.scalars(done, {"stage": config.place(step)[0], "lr": self._rate(step), **means})
                    kept = {name: [] for name in kept}
            stop = self._us.any(self._stopping.asked)
            if stop or done % config.checkpoint.every == 0 or done == config.steps:
                self._save(done, watch.seconds if watch is not None else 0.0)
            if stop and done < config.steps:
                raise RushesError(f"stopped at step {done:,}, which is saved: the same command goes on from there")

    def _batches(self, start: int) -> Iterator[tuple[int, list[Examples]]]:
        step = start
        while step < self._config.steps:
            number, at = self._config.place(step)
            self._enter(number)
            for _, batch in self._stages[number].steps(at, self._us.rank, self._us.size):
                yield step, batch
                step += 1

    def _enter(self, number: int) -> None:
        """Positions are made for the size of the last stage that names one."""
        for stage in self._config.stages[: number + 1]:
            if stage.sample_size is not None:
                frames, height, width = stage.sample_size
                size = {"sample_frames": frames, "sample_height": height // 8, "sample_width": width // 8}
                self._engine.network.config = replace(self._engine.network.config, **size)

    def _step(self, step: int, batch: list[Examples]) -> tuple[float, float]:
        """One optimizer step; the global batch's mean loss, and the gradient's norm."""
        engine, us = self._engine, self._us
        total = torch.zeros((), device=us.device)
        for number, examples in enumerate(batch):
            moved = examples.to(us.device, torch.float32)
            found = losses(engine.forward, self._schedule, self._alpha_bars, moved, engine.dtype)
            share = found.mean() / len(batch)
            if us.any(not bool(torch.isfinite(share))):
                self._not_finite(step, examples)
            total += share.detach()
            engine.accumulate(share, last=number == len(batch) - 1)
        try:
            norm = engine.step(self._rate(step))
        except NotFinite:
            self._not_finite(step, *batch)
        us.average([total])
        return float(total), norm

    def _not_finite(self, step: int, *batch: Examples) -> NoReturn:
        keys = ", ".join(key for examples in batch for key in examples.keys)
        raise RushesError(
            f"step {step}: the loss or its gradient is not finite; no checkpoint was touched. Samples of rank "
            f"{self._us.rank}: {keys}. Look at them (rushes latents verify, decode), or lower the learning rate"
        )

    def _rate(self, step: int) -> float:
        """Learning rate of a step."""
        number, at = self._config.place(step)
        stage, given = self._config.stages[number], self._config.optimizer
        warmed = min(1.0, (step + 1) / given.warmup) if given.warmup else 1.0
        cosine = 0.5 * (1 + math.cos(math.pi * at / stage.steps))
        return stage.lr * warmed * (given.last + (1 - given.last) * cosine)

    def _save(self, step: int, seconds: float) -> None:
        """All ranks write their part; the first one declares it whole."""
        us = self._us
        if us.first:
            checkpoints.begin(self._folder, step)
        us.wait()
        self._engine.save(checkpoints.writing(self._folder, step))
        us.wait()
        if us.first:
            facts = {"config": self._config.identity(), "ranks": us.size, "seconds": seconds, "data": self._manifest}
            checkpoints.finish(self._folder, step, facts)
            kept = self._config.checkpoint
            checkpoints.prune(self._folder, step, kept.keep_last, kept.keep_every)
        us.wait()

    def _resume(self) -> tuple[int, float]:
        found = checkpoints.newest(self._folder, self._console)
        if found is None:
            return 0, 0.0
        was, now = found.facts["config"], self._config.identity()
        others = [f"{name} was {was.get(name)}, is {now[name]}" for name in now if was.get(name) != now[name]]
        if found.facts["ranks"] != self._us.size:
            others.append(f"it was written by {found.facts['ranks']} ranks, there are {self._us.size}")
        if found.facts["data"] != self._manifest:
            others.append("the data set's shards are others")
        if others:
            raise ConfigError(f"{found.folder} is of another training: {'; '.join(others)}. Give another output")
        self._engine.load(found.folder)
        self._console.print(f"going on from step {found.step:,} of {self._config.steps:,}")
        return found.step, found.facts["seconds"]

    @property
    def _manifest(self) -> str:
        return self._data.manifest_hash

    def _refuse(self) -> None:
        """What the ranks cannot divide."""
        for number, stage in enumerate(self._config.stages):
            if stage.batch % (self._us.size * self._config.micro_batch):
                raise ConfigError(
                    f"stages.{number}.batch is {stage.batch}: {self._us.size} ranks with a micro_batch of "
                    f"{self._config.micro_batch} need a multiple of {self._us.size * self._config.micro_batch}"
                )

    def _check_shapes(self) -> None:
        """The model takes these latents and texts."""
        config, vae = self._engine.network.config, self._data.encoder["vae"]
        if vae["latent_channels"] != config.in_channels:
            raise ConfigError(
                f"the latents have {vae['latent_channels']} channels, the model takes {config.in_channels}: encode "
                "them with the VAE that the model was made for"
            )
        width = self._data[0].text[0].shape[1] if self._data[0].text else None
        if width != config.text_embed_dim:
            raise ConfigError(
                f"the texts are {width} wide, the model takes {config.text_embed_dim}: encode them with the text "
                "encoder that the model was made for (text.model)"
            )


def _schedule(config: TrainConfig) -> NoiseSchedule:
    if config.model in PRESETS:
        return NoiseSchedule(snr_shift_scale=1.0 if config.model == "5b" else 3.0)
    try:
        return NoiseSchedule.from_pretrained(config.model)
    except (ValueError, OSError) as error:
        raise ConfigError(f"model: {error}") from error
