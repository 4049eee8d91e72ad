"""`rushes train`: what is refused, what is gone on from, the loop between."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from latents.dataset import LatentDataset
from orchestration.errors import ConfigError
from orchestration.lock import WriterLock
from orchestration.runs import RunFolder
from orchestration.storage import Storage
from train import checkpoints
from train.checkpoints import Checkpoint
from train.config import StageConfig, TrainConfig
from train.data import StageData
from train.engine import Engine, deepspeed_ranks
from train.evaluate import Evaluation
from train.loop import Loop
from train.previews import Previews
from train.ranks import Ranks, ranks
from train.source import noise_schedule
from train.stopping import Stopping
from train.watch import Watch, require_wandb


def train(config: TrainConfig, console: Console) -> None:
    """The whole run; it goes on from the newest checkpoint of the same configuration and data.

    Raises ConfigError for what cannot begin, RushesError for what could not be completed.
    """
    output = Storage(config.output)
    if not output.local:
        raise ConfigError(
            "output: a local folder that all machines see; copy it to the bucket when the training is done"
        )
    if config.watch.wandb:
        require_wandb()
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
        self._before, self._begun = 0.0, time.monotonic()
        self._sets: dict[tuple[str | None, tuple[str, ...] | None], LatentDataset] = {}
        self._previews: Previews | None = None  # of the first rank, while it trains
        self._folder = Path(config.output) / "checkpoints"
        self._data = [self._opened(stage) for stage in config.stages]
        self._agree()
        befores = itertools.accumulate([0, *(stage.steps for stage in config.stages)])
        given = zip(config.stages, self._data, befores, strict=False)
        self._stages = [StageData(config, stage, data, before) for stage, data, before in given]  # all, before any work
        self._refuse()
        self._found = self._standing()
        try:
            self._schedule = noise_schedule(config.model)
        except (ValueError, OSError) as error:
            raise ConfigError(f"model: {error}") from error
        self._engine = Engine(config, us)
        self._check_shapes()

    def go(self) -> None:
        config, found = self._config, self._found
        start = 0
        if found is not None:
            self._engine.load(found.folder)
            start, self._before = found.step, found.facts["seconds"]
            if start >= config.steps:
                self._console.print(f"all {start:,} steps are done")
                return
            self._console.print(f"going on from step {start:,} of {config.steps:,}")
        loop = Loop(config, self._us, self._engine, self._schedule, self._stages, self._evaluation(), self._save)
        with Stopping(self._console) as stopping:
            if not self._us.first:
                loop.run(start, None, stopping)
                return
            output = Path(config.output)
            given = output, config.steps, start, self._before, self._console
            with (
                Watch(*given, wandb=config.watch.wandb, about=config.model_dump(mode="json")) as watch,
                Previews(config.previews, output, watch, self._console) as self._previews,
            ):
                loop.run(start, watch, stopping)

    def _evaluation(self) -> Evaluation | None:
        """Of the samples that no stage learns from."""
        pairs = zip(self._stages, self._data, strict=True)
        samples = list(dict.fromkeys((data, number) for stage, data in pairs for number in stage.held_out))
        most = self._config.watch.held_out_samples
        if not samples or not most:
            self._console.print("no held out loss: watch.held_out leaves no sample out, or held_out_samples is 0")
            return None
        return Evaluation(samples, most, self._us)

    def _save(self, step: int) -> None:
        """All ranks write their part; the first one declares it whole."""
        us, config = self._us, self._config
        if us.first:
            checkpoints.begin(self._folder, step)
        us.wait()
        self._engine.save(checkpoints.writing(self._folder, step))
        us.wait()
        if us.first:
            saved = checkpoints.finish(self._folder, step, self._facts())
            kept, previews = config.checkpoint, self._previews
            assert previews is not None
            last = step == config.steps
            if previews.due(step, last):
                previews.start(step, saved.folder, last)
            previews.collect()
            checkpoints.prune(self._folder, step, kept.keep_last, kept.keep_every, previews.sampled)
        us.wait()

    def _facts(self) -> dict[str, Any]:
        """Of a checkpoint: what it can be gone on from by, and sampled from."""
        return {
            "config": self._config.identity(),
            "ranks": self._us.size,
            "data": [stage.manifest for stage in self._stages],
            "seconds": self._before + time.monotonic() - self._begun,
            "encoder": self._data[-1].encoder,
        }

    def _standing(self) -> Checkpoint | None:
        """What there is to go on from. Raises ConfigError for a checkpoint of another training."""
        found = checkpoints.newest(self._folder, self._console)
        if found is None:
            return None
        config, now = self._config, self._facts()
        if found.facts["ranks"] != now["ranks"]:
            raise ConfigError(
                f"{found.folder} was written by {found.facts['ranks']} ranks, there are {now['ranks']}: start as many, "
                f"or give another output and model={found.folder} to go on from its weights"
            )
        others = checkpoints.changes(found.facts["config"], now["config"])
        if found.facts["data"] != now["data"]:
            others.append("the samples that it learns from are others")
        if others and not config.checkpoint.allow_changes:
            raise ConfigError(
                f"{found.folder} is of another training: {'; '.join(others)}. Give another output, or "
                "checkpoint.allow_changes=true to go on all the same"
            )
        for change in others:
            self._console.print(f"allowed: {change}", soft_wrap=True, highlight=False)
        return found

    def _opened(self, stage: StageConfig) -> LatentDataset:
        """The latents of a stage, opened once. Where there are several sets, its buckets may say which."""
        config = self._config
        which = (stage.set or config.set, stage.buckets)
        if which not in self._sets:
            given = {"cache": config.cache, "cache_gb": config.cache_gb}
            self._sets[which] = LatentDataset(config.dataset, stage.buckets, which[0], **given)
        return self._sets[which]

    def _agree(self) -> None:
        """All stages learn the same encoders' latents and texts."""
        first, *others = self._data
        for number, data in enumerate(others, 1):
            for part in ("vae", "text"):
                ours, theirs = (one.encoder.get(part) or {} for one in (first, data))
                if ours.get("weights") != theirs.get("weights"):
                    raise ConfigError(
                        f"stages.{number}.set: {data.set} was made by another {part} ({theirs.get('model')}) than that "
                        f"of the first stage ({ours.get('model')}): encode both with one"
                    )

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
        config, vae = self._engine.network.config, self._data[-1].encoder["vae"]
        if vae["latent_channels"] != config.in_channels:
            raise ConfigError(
                f"the latents have {vae['latent_channels']} channels, the model takes {config.in_channels}: encode "
                "them with the VAE that the model was made for"
            )
        width = self._data[-1][0].text[0].shape[1]
        if width != config.text_embed_dim:
            raise ConfigError(
                f"the texts are {width} wide, the model takes {config.text_embed_dim}: encode them with the text "
                "encoder that the model was made for (text.model)"
            )
