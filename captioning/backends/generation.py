"""What every backend on transformers does: load safetensors, answer in batches, draw tokens.

Drawing tokens is seeded per request: what a request is answered does not depend on which requests it was batched with,
save for rounding.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal

import xxhash
from pydantic import Field, model_validator

from captioning.backend import Answer, Request, Sampling
from captioning.backends.messages import unfit
from curation.scorers.runtime import allow_torchvision, torch_device
from orchestration.config import Config
from orchestration.errors import RushesError

# What answers depend on besides the weights: they are part of a folder's fingerprint.
IDENTIFYING = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")

_NO_MEMORY = re.compile("out of memory|can't allocate memory")  # what CUDA says, and torch on a CPU


class WeightsConfig(Config):
    """Weights that transformers loads, and how they compute."""

    model: str = Field(min_length=1)
    revision: str | None = None  # of a hub name: a commit, so that the weights stay the same
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = (
        "auto"  # auto: the checkpoint's on a GPU, float32 on a CPU
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int = Field(8, ge=1)  # halved for a batch that does not fit into memory
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    trust_remote_code: bool = False  # runs Python out of the model's repository

    # What changes how answers are computed, but not which; the weights are named by TransformersBackend.model.
    HOW: ClassVar[set[str]] = {"kind", "model", "revision", "device", "batch_size", "attention", "trust_remote_code"}

    @model_validator(mode="after")
    def _pinned(self) -> WeightsConfig:
        if self.trust_remote_code and not self.revision and not Path(self.model).is_dir():
            raise ValueError("trust_remote_code runs the repository's Python: set revision to the commit you have read")
        return self


def weights_name(model: str, revision: str | None) -> str:
    """`NAME@REVISION` of a hub name, `FOLDER#FINGERPRINT` of a folder, over its weights and settings."""
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{revision or 'main'}"
    digest = xxhash.xxh3_64()
    for path in sorted({path for pattern in IDENTIFYING for path in folder.glob(pattern)}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return f"{folder.resolve().name}#{digest.hexdigest()}"


class TransformersBackend(ABC):
    """Answers requests in batches. A device that is lost raises: then the worker has to be replaced."""

    HINT = ""  # in the message about weights that cannot be loaded: what they should be, and what to do without

    def __init__(self, config: WeightsConfig):
        self.config = config
        self._model: Any = None
        self._device: Any = None
        self._ends: set[int] = set()

    @cached_property
    def model(self) -> str:
        return weights_name(self.config.model, self.config.revision)

    @abstractmethod
    def _load(self, folder: str, source: dict[str, Any]) -> Any:
        """Load what makes tokens of text; returns the class of the model. Raises OSError, ValueError, ImportError."""

    @property
    @abstractmethod
    def _tokenizer(self) -> Any: ...

    @abstractmethod
    def _inputs(self, requests: list[Request]) -> Any:
        """What the model takes, [N, L] padded on the left. Special tokens in a prompt's words are text, not tokens."""

    def _unfit(self, request: Request) -> str:
        """Why the model cannot take this request; empty where nothing is wrong."""
        return unfit(request)

    def _weights(self) -> str:
        """A folder, or a hub name."""
        return self.config.model

    def setup(self) -> None:
        """Load tokenizer or processor, and weights. Raises RushesError where they are not to be had, ConfigError for
        the device."""
        allow_torchvision()
        from transformers import GenerationConfig
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        config = self.config
        self._device = torch_device(config.device)
        weights = self._weights()
        source = {"revision": config.revision or "main", "trust_remote_code": config.trust_remote_code}
        attention = {} if config.attention == "auto" else {"attn_implementation": config.attention}
        dtype = "float32" if config.dtype == "auto" and self._device.type == "cpu" else config.dtype
        try:
            kind = self._load(weights, source)
            found: Any = kind.from_pretrained(
                weights, dtype=dtype, use_safetensors=True, output_loading_info=True, **attention, **source
            )
        except (OSError, ValueError, ImportError) as error:
            raise RushesError(f"cannot load {config.model} for captions: {error}\n{self.HINT}") from error
        model, loaded = found
        if strange := sorted(loaded["missing_keys"]) + sorted(map(str, loaded["mismatched_keys"])):
            raise RushesError(  # transformers would fill these in at random and say so in a warning
                f"the weights of {config.model} are not those of the architecture that its config.json names: "
                f"{len(strange)} tensors are missing or of another shape, the first one is {strange[0]}"
            )
        self._model = model.to(self._device).eval()
        # A request says how to draw; of the checkpoint's own settings only the tokens that end an answer count.
        ends = self._model.generation_config.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        self._ends = set(ends if isinstance(ends, list) else [ends])
        pad = self._tokenizer.pad_token_id
        self._model.generation_config = GenerationConfig(
            eos_token_id=sorted(self._ends), pad_token_id=min(self._ends) if pad is None else pad, do_sample=False
        )

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer a request, in their order."""
        if self._model is None:
            raise RushesError(f"{type(self).__name__}.answer before setup: call setup in the worker that answers")
        answers: dict[int, Answer] = {}
        for place, request in enumerate(requests):
            if reason := self._unfit(request):
                answers[place] = Answer(request.key, "failed", reason=reason)
        # Text, pictures and videos apart, and alike with alike: padding costs time.
        places = sorted(
            (place for place in range(len(requests)) if place not in answers), key=lambda place: _size(requests[place])
        )
        for _, group in groupby(places, key=lambda place: _kind(requests[place])):
            alike = list(group)
            for start in range(0, len(alike), self.config.batch_size):
                batch = alike[start : start + self.config.batch_size]
                answers.update(zip(batch, self._halving([requests[place] for place in batch]), strict=True))
        return [answers[place] for place in range(len(requests))]

    def _halving(self, requests: list[Request]) -> list[Answer]:
        """The batch at once; where that fails, for want of memory or because of one request, its halves."""
        began = time.perf_counter()
        try:
            found = self._generate(requests)
        except Exception as error:
            import torch

            memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _NO_MEMORY.search(str(error))
            if not memory and isinstance(error, getattr(torch, "AcceleratorError", ())):
                raise  # nothing more can be computed in this process
            failure = f"no memory left for it: {error}" if memory else f"{type(error).__name__}: {error}"
        else:
            share = (time.perf_counter() - began) / len(requests)
            return [Answer(seconds=share, **each) for each in found]
        self._free()  # here, where the error and what it kept alive are gone
        if len(requests) == 1:
            share = time.perf_counter() - began
            return [Answer(requests[0].key, "failed", reason=failure, seconds=share)]
        middle = len(requests) // 2
        return self._halving(requests[:middle]) + self._halving(requests[middle:])

    def _free(self) -> None:
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _generate(self, requests: list[Request]) -> list[dict[str, Any]]:
        """Answers' fields, in order. All requests are of one kind."""
        import torch
        from transformers import LogitsProcessorList

        inputs = self._inputs(requests).to(self._device)
        length = inputs["input_ids"].shape[1]
        prompts = inputs["attention_mask"].sum(1).tolist()
        draw = drawing([request.sampling for request in requests], [r.key for r in requests], prompts, length)
        with torch.inference_mode():
            output = self._model.generate(
                **inputs,
                max_new_tokens=max(request.sampling.max_tokens for request in requests),
                logits_processor=LogitsProcessorList([draw]),
            )
        return [
            {"key": request.key, "prompt_tokens": count, **self._read(row[: request.sampling.max_tokens])}
            for request, row, count in zip(requests, output[:, length:].tolist(), prompts, strict=True)
        ]

    def _read(self, tokens: list[int]) -> dict[str, Any]:
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        kept = tokens if end is None else tokens[:end]
        text = self._tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        finish = "length" if end is None else "stop"
        return {"status": "ok", "text": text.strip(), "finish": finish, "output_tokens": len(kept)}


def _kind(request: Request) -> int:
    return min(len(request.frames), 2)  # text only, one picture, a video


def _size(request: Request) -> tuple[int, int, int]:
    pixels = sum(frame.shape[0] * frame.shape[1] for frame in request.frames)
    return _kind(request), pixels, len(request.prompt)


def drawing(samplings: Sequence[Sampling], keys: Sequence[str], prompts: Sequence[int], length: int) -> Any:
    """A LogitsProcessor after which each row's likeliest token is the one that the row's own sampling draws.

    Gumbel's trick: argmax(logits - log(E)), E exponentially distributed, is a draw from softmax(logits). The noise is a
    function of seed, key and step, so that one row's draw knows nothing of the others.

    Args:
        prompts: each row's tokens, which end at `length`; what lies before is padding.
    """
    import torch
    from transformers import (
        LogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopPLogitsWarper,
    )

    def steps(sampling: Sampling) -> list[Any]:
        found: list[Any] = []
        if sampling.repetition_penalty != 1:
            found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if sampling.temperature > 0:
            found.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_p < 1:
                found.append(TopPLogitsWarper(sampling.top_p))
        return found

    class Drawing(LogitsProcessor):
        def __init__(self) -> None:
            self.steps = [steps(sampling) for sampling in samplings]
            self.noise: list[Any] = []

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            """[N, L] and [N, V] to [N, V]."""
            if not self.noise:
                for sampling, key in zip(samplings, keys, strict=True):
                    seed = xxhash.xxh3_64_intdigest(f"{sampling.seed}\0{key}".encode()) >> 1
                    self.noise.append(torch.Generator(scores.device).manual_seed(seed))
            rows = []
            for row, sampling in enumerate(samplings):
                ids, found = input_ids[row : row + 1, length - prompts[row] :], scores[row : row + 1]
                for step in self.steps[row]:
                    found = step(ids, found)
                if sampling.temperature > 0:
                    found = found - torch.empty_like(found).exponential_(generator=self.noise[row]).log()
                rows.append(found)
            return torch.cat(rows)

    return Drawing()
