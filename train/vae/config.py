"""The configuration of `rushes train-vae`: one YAML."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from captioning.prefetch import PrefetchConfig
from model.vae import VAEConfig, check_frames
from model.vae_loss import VAELossConfig
from orchestration.config import Config

SMALLEST = 32  # px: what the perceptual networks and the discriminator can see


class NetworkConfig(Config):
    """The VAE's shape; weights start at random unless `init` is given."""

    channels: tuple[int, int, int, int] = (16, 32, 96, 128)  # of the four levels, the full size first
    layers: int = Field(default=1, ge=1)  # residual blocks a level of the encoder; the decoder has one more
    groups: int = Field(default=8, ge=1)  # of the group normalisations; each level's channels are a multiple
    latent_channels: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> NetworkConfig:
        if odd := [width for width in self.channels if width % self.groups]:
            raise ValueError(f"channels {odd} cannot be normalised in {self.groups} groups")
        return self

    def build(self) -> VAEConfig:
        return VAEConfig(
            latent_channels=self.latent_channels,
            block_out_channels=self.channels,
            layers_per_block=self.layers,
            norm_num_groups=self.groups,
            sample_height=256,
            sample_width=256,
            scaling_factor=1.0,
        )


class WindowsConfig(Config):
    """Pieces of clips, decoded once into the output folder: what batches are cut out of."""

    count: int = Field(default=2000, ge=1)  # at most; a window takes frames * size * size * 3 bytes of disk
    frames: int = Field(default=17, ge=9)  # 8N+1, one after the other
    size: int = Field(default=128, ge=SMALLEST, multiple_of=8)  # px, of a square somewhere in the picture
    short_sides: tuple[int, ...] = Field(default=(256,), min_length=1)  # px: pictures are shrunk to one of these first
    squares: int = Field(default=2, ge=1)  # of each window of a clip, at different places
    held_out: float = Field(default=0.05, ge=0, lt=1)  # share of the clips that nothing is learnt from

    @field_validator("frames")
    @classmethod
    def _causal(cls, frames: int) -> int:
        check_frames(frames)
        return frames


class StageConfig(Config):
    """A part of the training. Later stages usually have longer and larger samples."""

    steps: int = Field(ge=1)
    frames: int = 17  # 8N+1, of a sample; 1: pictures only
    size: int = Field(default=64, ge=SMALLEST, multiple_of=8)  # px
    batch: int = Field(default=4, ge=1)  # samples a step and rank
    images: float = Field(default=0.2, ge=0, le=1)  # share of the steps that take pictures
    image_batch: int = Field(default=8, ge=1)  # pictures a step and rank then
    motion: float = Field(default=0.0, ge=0, le=1)  # share of the videos that more motion is added to, see batches.py
    faded: float = Field(default=0.0, ge=0, le=1)  # share of the samples that are shown with less contrast
    normalise: bool = False  # first bring each latent channel to mean 0 and deviation 1; the decoder follows

    @field_validator("frames")
    @classmethod
    def _causal(cls, frames: int) -> int:
        check_frames(frames)
        return frames


class LossConfig(Config):
    """Weights of the terms, see model/vae_loss.py, and who judges."""

    l1: float = Field(default=1.0, ge=0)
    log_mse: float = Field(default=0.0, ge=0)
    perceptual: float = Field(default=0.1, ge=0)
    kl: float = Field(default=1e-6, ge=0)
    adversarial: float = Field(default=0.5, ge=0)
    adversarial_start: int = Field(default=5000, ge=0)  # step
    adaptive: bool = True
    game: Literal["hinge", "non_saturating"] = "hinge"
    r1: float = Field(default=0.0, ge=0)
    # lpips needs VGG16's weights; efficientnet comes with a package, and its numbers are ten times as large.
    network: Literal["auto", "lpips", "efficientnet"] = "auto"
    every: int = Field(default=1, ge=1)  # frames: the perceptual distance sees one of so many
    discriminator_width: int = Field(default=64, ge=4, multiple_of=4)
    discriminator_lr: float = Field(default=1e-4, gt=0)

    def weights(self) -> VAELossConfig:
        names = ("l1", "log_mse", "perceptual", "kl", "adversarial", "adversarial_start", "adaptive", "game", "r1")
        return VAELossConfig(**self.model_dump(include=set(names)))


class OptimizerConfig(Config):
    """Warmed up linearly, then down along a cosine to `last` of the learning rate.

    muon: torch's Muon for the convolutions between the first and the last, AdamW for the rest; a network that starts at
    random learns several times as fast by it.
    """

    kind: Literal["muon", "adamw"] = "muon"
    lr: float = Field(default=1e-3, gt=0)  # of AdamW
    muon_lr: float = Field(default=1e-2, gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=200, ge=0)  # steps
    last: float = Field(default=0.02, ge=0, le=1)
    clip: float = Field(default=5.0, gt=0)  # gradient norm
    ema: float = Field(default=0.999, ge=0, lt=1)  # of the weights that are tested and written


class MeasureConfig(Config):
    """What the trained VAE is tested on, beside the linear baseline."""

    dataset: str | None = None  # another curated data set; null: the held out windows' clips
    windows: int = Field(default=8, ge=1)  # a video
    frames: int = Field(default=17, ge=9)  # 8N+1
    short_side: int = Field(default=256, ge=SMALLEST)
    every: int = Field(default=1000, ge=1)  # steps between looks at held out windows
    held_out: int = Field(default=16, ge=0)  # of which so many
    interpolations: int = Field(default=3, ge=0)

    @field_validator("frames")
    @classmethod
    def _causal(cls, frames: int) -> int:
        check_frames(frames)
        return frames


class TrainVaeConfig(Config):
    """`rushes train-vae`: a causal 3D VAE learns from a curated data set's kept clips."""

    dataset: str  # a curated data set: a folder or any fsspec URI; only read
    output: str  # local folder for windows, checkpoints, metrics, the VAE and the report
    # A VAE to go on from: folder, hub name, or a checkpoint's folder; its shape takes the place of `network`.
    init: str | None = None
    network: NetworkConfig = NetworkConfig()
    windows: WindowsConfig = WindowsConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    measure: MeasureConfig = MeasureConfig()
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the computation; weights are kept in float32
    threads: int | None = Field(default=None, ge=1)  # of a rank on a CPU; null: torch's choice
    checkpointing: bool = False  # recompute blocks in the backward pass: less memory, a third more time
    save_minutes: float = Field(default=10.0, gt=0)  # between checkpoints
    keep_last: int = Field(default=2, ge=1)  # checkpoints
    keep_every: int | None = Field(default=None, ge=1)  # and those of every so many steps
    log_every: int = Field(default=50, ge=1)  # steps
    store: Literal["float32", "float16"] = "float16"  # of the VAE that is written
    prefetch: PrefetchConfig = PrefetchConfig()

    @model_validator(mode="after")
    def _fits(self) -> TrainVaeConfig:
        for number, stage in enumerate(self.stages):
            for name in ("frames", "size"):
                if getattr(stage, name) > getattr(self.windows, name):
                    raise ValueError(
                        f"stages.{number}.{name} is {getattr(stage, name)}, but windows.{name} is "
                        f"{getattr(self.windows, name)}: samples are cut out of windows"
                    )
        return self

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage(self, step: int) -> int:
        """Which stage a step (from 0) is in."""
        end = 0
        for number, stage in enumerate(self.stages):
            end += stage.steps
            if step < end:
                return number
        return len(self.stages) - 1

    def identity(self) -> dict[str, object]:
        """Settings that the weights depend on: a checkpoint of others is not gone on from."""
        names = ("dataset", "init", "network", "windows", "stages", "loss", "optimizer", "seed", "dtype")
        return self.model_dump(mode="json", include=set(names))
