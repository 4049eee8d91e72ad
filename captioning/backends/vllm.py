"""Captions from vLLM engines on a cluster's GPUs, through ray.data.llm: the settings, what identifies the model, and
what an engine is asked. How requests travel is captioning.engine's business: an engine gets those of all clips at once.

Prompts are rendered and tokenized here, not by Ray's stages or by vLLM: special tokens in a prompt's words (text read
off a video may hold them) are then plain text, as with the `local` backend, and nothing but the engine needs vLLM. vLLM
puts as many tokens as frames need where a prompt in tokens has a placeholder, as it does with text.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import xxhash
from pydantic import Field, field_validator, model_validator

from captioning.backend import Answer, Request
from captioning.backends.generation import weights_name
from captioning.backends.local import PRESETS
from captioning.backends.messages import chat, video
from curation.scorers.runtime import allow_torchvision
from orchestration.config import Config, secret_key
from orchestration.errors import ConfigError, RushesError

# Of the engine's errors those that are not about the request.
_PASSING = re.compile(r"Engine\w*(Dead|Generate)|died|shut ?down|connection|timed? ?out|out of memory", re.IGNORECASE)

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

    # What changes how answers are computed, but not which; `identity` names the weights.
    HOW: ClassVar[set[str]] = {
        *("kind", "model", "revision", "tensor_parallel", "engines", "gpu_memory", "max_num_seqs", "batch_size"),
        *("prefix_caching", "trust_remote_code"),
    }

    @field_validator("model")
    @classmethod
    def _preset(cls, name: str) -> str:
        return PRESETS.get(name, name)

    @field_validator("engine_kwargs")
    @classmethod
    def _not_ours(cls, given: dict[str, Any]) -> dict[str, Any]:
        if named := secret_key(given):
            raise ValueError(f"{named} looks like a key, and would be kept in the data set: set HF_TOKEN")
        for name in sorted(given.keys() & OURS.keys()):
            instead = f"set {OURS[name]} instead" if OURS[name] else "captioning decides it"
            raise ValueError(f"{name} is no business of engine_kwargs: {instead}")
        return given

    @model_validator(mode="after")
    def _pinned(self) -> VllmConfig:
        if self.trust_remote_code and not self.revision and not Path(self.model).is_dir():
            raise ValueError("trust_remote_code runs the repository's Python: set revision to the commit you have read")
        return self

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """vLLM's EngineArgs. A request holds one video or one picture at most."""
        pinned = {"revision": self.revision, "tokenizer_revision": self.revision} if self.revision else {}
        return {
            **self.engine_kwargs,
            **pinned,
            "dtype": self.dtype,
            "tensor_parallel_size": self.tensor_parallel,
            "max_model_len": self.max_model_len,
            "gpu_memory_utilization": self.gpu_memory,
            "max_num_seqs": self.max_num_seqs,
            "enable_prefix_caching": self.prefix_caching,
            "trust_remote_code": self.trust_remote_code,
            "limit_mm_per_prompt": {"image": 1, "video": 1},
            "generation_config": "vllm",  # a request says how to draw, not the checkpoint
        }


def identity(config: VllmConfig) -> str:
    """What identifies the weights, as LocalBackend.model does; the engine that computes with them is no part of it."""
    return weights_name(config.model, config.revision)


def require_vllm() -> None:
    """Raises ConfigError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "captions.kind is vllm, but vLLM is not installed: pip install 'rushes[vllm]' on machines with a GPU. "
            "kind: local (transformers) and kind: openai (a server elsewhere) do without it"
        )


class Asker:
    """Makes engine requests. Loads the processor's files, no weights."""

    def __init__(self, config: VllmConfig):
        allow_torchvision()
        from transformers import AutoProcessor, GenerationConfig

        source = {"revision": config.revision or "main", "trust_remote_code": config.trust_remote_code}
        try:
            self._processor: Any = AutoProcessor.from_pretrained(config.model, **source)
        except (OSError, ValueError, ImportError) as error:
            raise RushesError(f"cannot load the processor of {config.model}: {error}") from error
        try:
            ends = GenerationConfig.from_pretrained(config.model, revision=config.revision or "main").eos_token_id
        except OSError:
            ends = None
        ends = ends if isinstance(ends, list) else [ends]
        self._ends = sorted({end for end in [*ends, self._processor.tokenizer.eos_token_id] if end is not None})

    def __call__(self, request: Request) -> dict[str, Any]:
        """The columns that Ray's engine stage reads, and `most` and `ends`, from which `answer` tells how it ended."""
        sampling = request.sampling
        row = {
            "tokenized_prompt": self.tokens(request),
            "sampling_params": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                "repetition_penalty": sampling.repetition_penalty,
                "seed": xxhash.xxh3_64_intdigest(f"{sampling.seed}\0{request.key}".encode()) >> 1,
            },
            "most": sampling.max_tokens,
            "ends": self._ends,
        }
        if len(request.frames) == 1:
            from PIL import Image

            row["multimodal_data"] = {"image": [Image.fromarray(request.frames[0])]}
        elif request.frames:
            row["multimodal_data"] = {"video": [video(request)]}
            row["mm_processor_kwargs"] = {"do_sample_frames": False}
        return row

    def tokens(self, request: Request) -> list[int]:
        """With one placeholder for the video or picture, which vLLM expands."""
        parts = [{"type": "image" if len(request.frames) == 1 else "video"}] if request.frames else []
        return self._processor.tokenizer.apply_chat_template(
            chat(request.prompt, parts),
            chat_template=self._processor.chat_template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            sanitize_control_tokens=True,
        )


def answer(row: Mapping[str, Any]) -> Answer:
    """Of a row that came out of the engine stage: Ray's vLLMOutputData, which does not say why the text ended."""
    if reason := row.get("__inference_error__"):
        return Answer(row["key"], "failed", reason=f"vLLM: {reason}", passing=bool(_PASSING.search(reason)))
    tokens = [int(token) for token in row["generated_tokens"]]
    ended = bool(tokens) and tokens[-1] in row["ends"]
    return Answer(
        row["key"],
        "ok",
        str(row["generated_text"]).strip(),
        finish="stop" if ended or len(tokens) < row["most"] else "length",
        prompt_tokens=int(row["num_input_tokens"]),
        output_tokens=len(tokens) - ended,
    )
