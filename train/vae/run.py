"""`rushes train-vae`: windows, then steps with checkpoints, then what the VAE is worth."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from rich.console import Console

from captioning.todo import require_clips
from latents.weights import torch_dtype
from orchestration.errors import ConfigError, RushesError
from orchestration.lock import WriterLock
from orchestration.runs import RunFolder
from orchestration.storage import Storage
from train import checkpoints
from train.checkpoints import Checkpoint
from train.ranks import Ranks, ranks
from train.stopping import Stopping
from train.vae.batches import batch, pixels
from train.vae.config import TrainVaeConfig
from train.vae.learner import Learner, channel_statistics
from train.vae.measure import held_out_psnr, measure
from train.vae.report.write import write_report
from train.vae.windows import Windows, load_windows, make_windows
from train.watch import Watch

NORMALISED_ON = 16  # batches whose latents are brought to mean 0 and deviation 1


def train_vae(config: TrainVaeConfig, console: Console) -> None:
    """The whole run; it goes on from the newest checkpoint of the same configuration.

    Raises ConfigError for what cannot begin, RushesError for what could not be completed.
    """
    output = Storage(config.output)
    if not output.local:
        raise ConfigError("output: a local folder; copy it to the bucket when the training is done")
    for root in filter(None, (config.dataset, config.measure.dataset)):
        require_clips(Storage(root))
        if Storage(root).uri == output.uri:
            raise ConfigError(f"output: {output.uri} is the data set, which is only read; give another folder")
    if config.threads and config.device != "cuda":
        torch.set_num_threads(config.threads)
    with ranks(config.device) as us:
        if us.first:
            with WriterLock(output, "train-vae"):
                run = RunFolder(output, "train-vae", config, Path(config.output))
                try:
                    _train(config, us, console)
                finally:
                    run.close()
        else:
            _train(config, us, Console(quiet=True))


def _train(config: TrainVaeConfig, us: Ranks, console: Console) -> None:
    found = _standing(config, us, console)  # what cannot go on is refused before anything there is changed
    learner = Learner(config, us)
    if us.first:
        path = Path(config.output) / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        make_windows(config, console)
    us.wait()
    windows = load_windows(config)
    start, seconds = 0, 0.0
    if found is not None:
        learner.load(found.folder)
        start, seconds = found.step, found.facts["seconds"]
        console.print(f"going on from step {start:,} of {config.steps:,}")
    if start < config.steps:
        seconds = _Training(config, us, learner, windows, console).go(start, seconds)
    if us.first:
        _finish(config, learner, windows, seconds, console)
    us.wait()


def _standing(config: TrainVaeConfig, us: Ranks, console: Console) -> Checkpoint | None:
    """What there is to go on from. Raises ConfigError for a checkpoint of other settings."""
    found = checkpoints.newest(_checkpoints(config), console)
    if found is None:
        return None
    if others := checkpoints.changes(found.facts["config"], config.identity()):
        raise ConfigError(
            f"{found.folder} is of other settings: {'; '.join(others)}. Give another output; init={found.folder} "
            "goes on from its weights"
        )
    if found.facts["ranks"] != us.size:
        raise ConfigError(f"{found.folder} is of {found.facts['ranks']} ranks, not {us.size}: samples would be others")
    return found


class _Training:
    """The loop."""

    def __init__(self, config: TrainVaeConfig, us: Ranks, learner: Learner, windows: Windows, console: Console):
        self._config, self._us, self._learner, self._windows, self._console = config, us, learner, windows, console
        self._stopping = Stopping(console)

    def go(self, start: int, seconds: float) -> float:
        """From a step to the end; the seconds of all steps. Raises RushesError where a signal ends it."""
        with self._stopping:
            if not self._us.first:
                self._steps(start, None)
                return seconds
            with Watch(Path(self._config.output), self._config.steps, start, seconds, self._console) as watch:
                if start == 0:
                    count, seen = len(self._windows.learnt), self._learner.perceptual_name
                    self._console.print(f"learning from {count:,} windows; perceptual distance: {seen}")
                self._steps(start, watch)
                return watch.seconds

    def _steps(self, start: int, watch: Watch | None) -> None:
        config, us = self._config, self._us
        saved, frames = time.monotonic(), 0
        sums: dict[str, list[float]] = {}
        for step in range(start, config.steps):
            number = config.stage(step)
            if self._begins(step) and config.stages[number].normalise:
                self._normalise(step)
            video = batch(self._windows, config.stages[number], config.seed, step, us.rank)
            for name, value in self._learner.step(step, video).items():
                sums.setdefault(name, []).append(value)
            frames += video.shape[0] * video.shape[2]
            done = step + 1
            if watch is not None:
                watch.step(done, frames)
                if done % config.log_every == 0 or done == config.steps:
                    means = {name: float(np.mean(values)) for name, values in sums.items()}
                    lr = config.optimizer.lr * self._learner.rate(step)
                    watch.scalars(done, {"stage": number, "lr": lr, **means})
                    sums = {}
                if done % config.measure.every == 0 or done == config.steps:
                    self._look(done, watch)
            stop = us.any(self._stopping.asked)
            due = us.any(time.monotonic() - saved > 60 * config.save_minutes)
            if stop or due or done == config.steps:
                if watch is not None:
                    self._save(done, watch.seconds)
                us.wait()
                saved = time.monotonic()
            if stop and done < config.steps:
                raise RushesError(f"stopped at step {done:,}, which is saved: the same command goes on from there")

    def _begins(self, step: int) -> bool:
        return step == 0 or self._config.stage(step) != self._config.stage(step - 1)

    def _normalise(self, step: int) -> None:
        """On what the stage will show; equal on all ranks."""
        config = self._config
        stage = config.stages[config.stage(step)]
        self._learner.normalise([batch(self._windows, stage, config.seed, step + i, 0) for i in range(NORMALISED_ON)])

    def _save(self, step: int, seconds: float) -> None:
        config = self._config
        facts = {"config": config.identity(), "ranks": self._us.size, "seconds": seconds}
        checkpoints.save(_checkpoints(config), step, facts, self._learner.save)
        checkpoints.prune(_checkpoints(config), step, config.keep_last, config.keep_every)

    def _look(self, step: int, watch: Watch) -> None:
        """Held out windows, by the average of the weights."""
        config, dtype = self._config, torch_dtype(self._config.dtype)
        found = held_out_psnr(self._learner.average, self._windows, config.measure.held_out, dtype)
        if found is None:
            return
        watch.scalars(step, {"held_out_psnr": found})
        video = self._windows.pixels[self._windows.held_out[0]]
        x = pixels(video[None]).to(self._us.device)
        with torch.no_grad():
            network = self._learner.average
            made = network.decode(network.encode(x).mean)[0, :, -1].float().add(1).mul(127.5).clamp(0, 255)
        shown = np.concatenate([video[-1], made.permute(1, 2, 0).to(torch.uint8).cpu().numpy()], 1)
        watch.picture(step, "held out: source, reconstruction", shown)


def _checkpoints(config: TrainVaeConfig) -> Path:
    return Path(config.output) / "checkpoints"


def _finish(config: TrainVaeConfig, learner: Learner, windows: Windows, seconds: float, console: Console) -> None:
    """The VAE as a diffusers folder, what it is worth, the report."""
    network = learner.average
    stage = config.stages[-1]
    videos = [batch(windows, stage, config.seed, config.steps + i, 0) for i in range(NORMALISED_ON)]
    mean, std = channel_statistics(network, videos)
    scale = 1 / float((std.square() + mean.square()).mean().sqrt())
    measured = {"latents_mean": tuple(mean.tolist()), "latents_std": tuple(std.tolist())}
    network.config = dataclasses.replace(network.config, scaling_factor=scale, **measured)
    folder = Path(config.output) / "vae"
    network.to(torch_dtype(config.store)).save_pretrained(folder)
    network.to(torch.float32)  # rounded: what is measured is what was written
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    about = {"step": config.steps, "trained_s": round(seconds, 1), "bytes": size}
    found = measure(config, network, windows, about, console)
    write_report(Storage(config.output))
    for video in found["videos"]:
        ours, theirs = video["vae"], video["pca"]
        console.print(
            f"{video['name']}: PSNR {ours['psnr']:.2f} dB (linear code {theirs['psnr']:.2f}), SSIM {ours['ssim']:.3f} "
            f"({theirs['ssim']:.3f}), frame differences {ours['flicker']:.2f} dB ({theirs['flicker']:.2f})",
            soft_wrap=True,
            highlight=False,
        )
    console.print(f"VAE: {folder} ({size / 1e6:.1f} MB)", soft_wrap=True, highlight=False)
    console.print(f"report: {Path(config.output) / 'report' / 'index.html'}", soft_wrap=True, highlight=False)
