"""Captions from vLLM engines on a cluster's GPUs, through ray.data.llm: the settings, and what identifies the model.

How requests travel is captioning.engine's business: an engine gets those of all clips at once, not of one worker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from captioning.backends.local import PRESETS, weights_name
from orchestration.config import Config

# What the settings of VllmConfig and captioning.engine decide.
OURS = {
    "model": "model",
    "tokenizer": "model",
    "revision": "revision",
    "tokenizer_revision": "revision",
    "code_revision": "revision",
    "dtype": "dtype",
    "tensor_parallel_size": "tensor_parallel",
    "pipeline_parallel_size": "tensor_parallel",
    "data_parallel_size": "engines",
    "max_model_len": "max_model_len",
    "gpu_memory_utilization": "gpu_memory",
    "max_num_seqs": "max_num_seqs",
    "trust_remote_code": "trust_remote_code",
    "limit_mm_per_prompt": "",
    "enable_prefix_caching": "prefix_caching",
    "seed": "",
    "generation_config": "",
    "task_type": "",
    "runner": "",
    "skip_tokenizer_init": "",
}


class VllmConfig(Config):
    """A video-language model in vLLM engines, one or several."""

    kind: Literal["vllm"] = "vllm"
    # A preset's name, a hub name, or a folder in Hugging Face's layout, at the same place on every node.
    model: str = Field(PRESETS["qwen3-vl-8b"], min_length=1)
    revision: str | None = None  # of a hub name: a commit, so that the weights stay the same
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tensor_parallel: int = Field(1, ge=1)  # GPUs an engine
    engines: int | None = Field(None, ge=1)  # null: as many as the cluster's GPUs are enough for
    max_model_len: int = Field(16384, ge=256)  # tokens of prompt, frames and answer together
    gpu_memory: float = Field(0.9, gt=0, le=1)  # share of a GPU's memory that an engine takes
    max_num_seqs: int = Field(64, ge=1)  # requests that an engine works on at once
    batch_size: int = Field(16, ge=1)  # requests that are handed to an engine together
    prefix_caching: bool = True  # a prompt's beginning is computed once for all clips
    trust_remote_code: bool = False  # runs Python out of the model's repository
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)  # further arguments of vLLM's engine

    @field_validator("model")
    @classmethod
    def _preset(cls, name: str) -> str:
        return PRESETS.get(name, name)

    @field_validator("engine_kwargs")
    @classmethod
    def _not_ours(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in sorted(given.keys() & OURS.keys()):
            instead = f"set {OURS[name]} instead" if OURS[name] else "captioning decides it"
            raise ValueError(f"{name} is no business of engine_kwargs: {instead}")
        return given

    @model_validator(mode="after")
    def _pinned(self) -> VllmConfig:
        if self.trust_remote_code and not self.revision and not Path(self.model).is_dir():
            raise ValueError("trust_remote_code runs the repository's Python: set revision to the commit you have read")
        return self


def identity(config: VllmConfig) -> str:
    """What identifies the weights, as LocalBackend.model does; the engine that computes with them is no part of it."""
    return weights_name(config.model, config.revision)
