"""The configuration of `rushes train`: one YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from orchestration.config import Config
from orchestration.errors import ConfigError


class LoraConfig(Config):
    """Low-rank adapters in place of all weights."""

    rank: int = Field(default=64, ge=1)
    alpha: float | None = Field(default=None, gt=0)  # null: the rank
    targets: tuple[str, ...] = Field(default=("to_q", "to_k", "to_v", "to_out.0"), min_length=1)


class SelectConfig(Config):
    """Samples of the clips that have most of a score, as the paper's last stage has the best 20 %."""

    score: str  # a column of the clips table
    best: float = Field(gt=0, le=1)  # share of the clips that have the score


class StageConfig(Config):
    """A part of the training; later ones usually have larger and longer samples."""

    name: str = ""
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)  # samples of a step, all ranks together
    lr: float = Field(gt=0)
    set: str | None = Field(default=None, min_length=1)  # of latents; null: the training's
    buckets: tuple[str, ...] | None = None  # frames x height x width, as 17x256x384; null: all
    images: float | None = Field(default=None, ge=0, le=1)  # share of the steps that take pictures; null: as there are
    select: SelectConfig | None = None
    sample_size: tuple[int, int, int] | None = None  # frames, height, width that positions are for; null: as before


class OptimizerConfig(Config):
    """AdamW, the learning rate of each stage warmed up, then down along a cosine to `last` of it."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup: int = Field(default=100, ge=0)  # steps, of the first stage
    last: float = Field(default=0.1, ge=0, le=1)
    clip: float = Field(default=1.0, gt=0)  # gradient norm
    ema: float | None = Field(default=0.999, gt=0, lt=1)  # of the weights that are sampled and exported; null: none


class DeepSpeedConfig(Config):
    """How weights, gradients and optimizer are divided over the ranks."""

    zero: Literal[0, 1, 2, 3] = 1
    offload: bool = False  # the optimizer's part to the CPU
    config: str | None = None  # a ds_config JSON of your own, below what is set here

    def given(self) -> dict[str, Any]:
        """What is in `config`. Raises ConfigError where it cannot be read."""
        if self.config is None:
            return {}
        try:
            found = json.loads(Path(self.config).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"deepspeed.config: cannot read {self.config}: {error}") from error
        if not isinstance(found, dict):
            raise ConfigError(f"deepspeed.config: {self.config} holds no JSON object")
        return found

    def resolved(self) -> dict[str, Any]:
        """The settings, with what `config` holds in place of its name."""
        return {**self.model_dump(mode="json"), "config": self.given()}


class WatchConfig(Config):
    """What is written while it trains, and what it is not shown."""

    log_every: int = Field(default=10, ge=1)  # steps
    held_out: float = Field(default=0.02, ge=0, lt=1)  # share of the clips that nothing is learnt from
    held_out_every: int = Field(default=500, ge=1)  # steps between looks at them
    held_out_samples: int = Field(default=16, ge=0)  # that are looked at, 9 timesteps each
    peak_tflops: float | None = Field(default=None, gt=0)  # of a device, for MFU; null: as is known of it
    wandb: str | None = Field(default=None, min_length=1)  # project, where wandb is installed


class PreviewsConfig(Config):
    """Videos of these prompts, by the averaged weights of checkpoints, made beside the training by another process.

    What is null is as in `rushes sample`: a size, the one that the model is trained for.
    """

    prompts: tuple[str, ...] = ()  # none: no videos
    every: int = Field(default=1000, ge=1)  # steps, a multiple of checkpoint.every
    frames: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=16)  # px
    width: int | None = Field(default=None, ge=16)
    steps: int = Field(default=25, ge=1)  # of denoising
    guidance: float = Field(default=6.0, ge=0)
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"


class CheckpointConfig(Config):
    """When the whole state is saved, and what is kept of it."""

    every: int = Field(default=500, ge=1)  # steps
    keep_last: int = Field(default=2, ge=1)
    keep_every: int | None = Field(default=None, ge=1)  # steps
    allow_changes: bool = False  # go on from a checkpoint of other settings or data; losses are not those of one run


class TrainConfig(Config):
    """`rushes train`: the transformer learns from the shards of a data set."""

    dataset: str  # a data set with latents: a folder or any fsspec URI; only read
    output: str  # local folder, the same on all machines: checkpoints, metrics
    set: str | None = None  # of latents; needed where there are several
    cache: str | None = None  # local folder for samples of a data set in a bucket
    cache_gb: float = Field(default=50.0, gt=0)
    model: str = "tiny"  # tiny, 2b, 5b at random weights, or a CogVideoX folder or hub name to go on from
    lora: LoraConfig | None = None  # null: all weights
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    text_dropout: float = Field(default=0.1, ge=0, le=1)  # share of the captions that become empty
    micro_batch: int = Field(default=1, ge=1)  # samples at once on a rank; the rest of a batch is accumulated
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    activation_checkpointing: bool = False
    compile: bool = False
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    watch: WatchConfig = WatchConfig()
    previews: PreviewsConfig = PreviewsConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1)  # of a rank on a CPU

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.previews.prompts and self.previews.every % self.checkpoint.every:
            raise ValueError(
                f"previews.every is {self.previews.every}, no multiple of checkpoint.every {self.checkpoint.every}: "
                "checkpoints are what is sampled"
            )
        for number, stage in enumerate(self.stages):
            if stage.batch % self.micro_batch:
                raise ValueError(
                    f"stages.{number}.batch is {stage.batch}, no multiple of micro_batch {self.micro_batch}"
                )
        return self

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def place(self, step: int) -> tuple[int, int]:
        """Of a step (from 0): its stage, and how many steps of that stage are behind it."""
        for number, stage in enumerate(self.stages):
            if step < stage.steps:
                return number, step
            step -= stage.steps
        return len(self.stages) - 1, self.stages[-1].steps

    def identity(self) -> dict[str, object]:
        """Settings that losses depend on: a checkpoint of others is not gone on from."""
        names = {"model", "lora", "stages", "optimizer", "text_dropout", "dtype", "seed", "micro_batch"}
        found: dict[str, object] = self.model_dump(mode="json", include=names)
        return found | {"held_out": self.watch.held_out, "deepspeed": self.deepspeed.resolved()}
