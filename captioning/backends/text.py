"""Text from a causal language model on this machine: summaries and rewriting, without pictures.

The default, `smollm2`, needs no hub: its weights are in a published package, see smollm2.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from captioning.backend import Answer, Request
from orchestration.config import Config


class TextConfig(Config):
    """A causal language model that transformers loads."""

    kind: Literal["text"] = "text"
    # `smollm2` (135M parameters, out of a published package), a hub name, or a folder in Hugging Face's layout.
    model: str = Field("smollm2", min_length=1)
    revision: str | None = None  # of a hub name: a commit, so that the weights stay the same
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = (
        "auto"  # auto: the checkpoint's on a GPU, float32 on a CPU
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int = Field(16, ge=1)  # halved for a batch that does not fit into memory


class TextBackend:
    """Answers requests without frames."""

    def __init__(self, config: TextConfig):
        self.config = config

    @property
    def model(self) -> str:
        return self.config.model

    def setup(self) -> None: ...

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        return [Answer(request.key, "failed", reason="not there yet") for request in requests]
