"""The loop: batches in, steps, and what is looked at and kept between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NoReturn

import torch

from model.diffusion import NoiseSchedule
from orchestration.errors import RushesError
from train.config import TrainConfig
from train.data import Examples, StageData
from train.engine import Engine, NotFinite
from train.evaluate import Evaluation
from train.loss import losses
from train.meter import Meter, by_range, peak_flops
from train.ranks import Ranks
from train.stopping import Stopping
from train.watch import Watch


class Loop:
    """save: called by all ranks with the steps that are done."""

    def __init__(
        self,
        config: TrainConfig,
        us: Ranks,
        engine: Engine,
        schedule: NoiseSchedule,
        stages: list[StageData],
        evaluation: Evaluation | None,
        save: Callable[[int], None],
    ):
        self._config, self._us, self._engine = config, us, engine
        self._schedule, self._alpha_bars = schedule, schedule.alpha_bars()
        self._stages, self._evaluation, self._save = stages, evaluation, save
        given = config.watch.peak_tflops
        peak = given * 1e12 if given else peak_flops(us.device)
        self._meter = Meter(us, schedule.num_train_timesteps, peak)

    def run(self, start: int, watch: Watch | None, stopping: Stopping) -> None:
        """From a step to the end. watch: of the first rank. Raises RushesError where a signal or a number ends it."""
        config = self._config
        for step, batch in self._batches(start):
            loss, norm = self._step(step, batch)
            self._meter.stepped(loss, norm)
            done = step + 1
            last = done == config.steps
            if watch is not None:
                watch.step(done, 0)
            if last or done % config.watch.log_every == 0:
                measured = {"stage": config.place(step)[0], "lr": self._rate(step), **self._meter.take()}
                if watch is not None:
                    watch.scalars(done, measured)
            if self._evaluation is not None and (last or done % config.watch.held_out_every == 0):
                self._look(done, watch)
            stop = self._us.any(stopping.asked)
            if stop or last or done % config.checkpoint.every == 0:
                self._save(done)
            if stop and not last:
                raise RushesError(f"stopped at step {done:,}, which is saved: the same command goes on from there")

    def _batches(self, start: int) -> Iterator[tuple[int, list[Examples]]]:
        step = start
        while step < self._config.steps:
            number, at = self._config.place(step)
            self._enter(number)
            batches = self._stages[number].steps(at, self._us.rank, self._us.size)
            while True:
                with self._meter.waiting():
                    batch = next(batches, None)
                if batch is None:
                    break
                yield step, batch[1]
                step += 1

    def _enter(self, number: int) -> None:
        """Positions are made for the size of the last stage that names one."""
        network = self._engine.network
        for stage in self._config.stages[: number + 1]:
            if stage.sample_size is not None:
                frames, height, width = stage.sample_size
                size = {"sample_frames": frames, "sample_height": height // 8, "sample_width": width // 8}
                network.config = replace(network.config, **size)

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
            self._meter.seen(examples, found, engine.network.config)
            total += share.detach()
            engine.accumulate(share, last=number == len(batch) - 1)
        try:
            norm = engine.step(self._rate(step))
        except NotFinite:
            self._not_finite(step, *batch)
        us.average([total])
        return float(total), norm

    def _look(self, done: int, watch: Watch | None) -> None:
        assert self._evaluation is not None
        with self._engine.looking():
            found = self._evaluation(self._engine.forward, self._schedule, self._alpha_bars, self._engine.dtype)
        if watch is not None:
            named = by_range(found, self._schedule.num_train_timesteps)
            each = {f"held_out_by_timestep/{name}": value for name, value in named.items()}
            watch.scalars(done, {"held_out_loss": sum(found) / len(found), **each})

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
