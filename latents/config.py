"""The configuration of an encoding run: one YAML."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from captioning.prefetch import PrefetchConfig
from latents.buckets import BucketsConfig
from latents.text import TextConfig
from latents.vae import VaeConfig
from orchestration.config import Config
from orchestration.session import RayConfig

Text = Literal["dense", "short", "others"]


class ReportConfig(Config):
    """The latents' page of the report."""

    enabled: bool = True
    samples: int = Field(default=6, ge=0, le=100)  # that are decoded and shown beside their source


class LatentsConfig(Config):
    """`rushes latents`: kept and captioned clips become shards of latents and text embeddings."""

    dataset: str  # a captioned data set: a folder or any fsspec URI; shards are written into it
    buckets: BucketsConfig = BucketsConfig()
    vae: VaeConfig = VaeConfig()
    text: TextConfig = TextConfig()
    captions: tuple[Text, ...] = Field(default=("dense", "short"), min_length=1)  # texts of a clip, the first trains
    shard_samples: int = Field(default=64, ge=1, le=100_000)  # of a shard; the last one of a run has fewer
    limit: int | None = Field(default=None, ge=1)  # so many clips only, spread over the data set, always the same
    retry: bool = False  # try again what failed; what failed for a passing reason is tried again anyway
    scratch: str | None = None  # local folder for files in work; null: the system's temporary folder
    prefetch: PrefetchConfig = PrefetchConfig()
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _fits(self) -> LatentsConfig:
        for name in ("vae", "text"):
            if getattr(self, name).device == "cuda" and not self.ray.worker_gpus:
                raise ValueError(f"{name}.device is cuda, but workers have no GPU: set ray.worker_gpus")
        return self
