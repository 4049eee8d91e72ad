"""Text from a causal language model on this machine: summaries and rewriting, without pictures.

The default, `smollm2`, needs no hub: its weights are in a published package, see smollm2.py.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from captioning.backend import Request
from captioning.backends import smollm2
from captioning.backends.generation import TransformersBackend, WeightsConfig
from captioning.backends.messages import unfit


class TextConfig(WeightsConfig):
    """A causal language model that transformers loads."""

    kind: Literal["text"] = "text"
    # `smollm2` (135M parameters, out of a published package), a hub name, or a folder in Hugging Face's layout.
    model: str = Field(smollm2.KEYWORD, min_length=1)
    batch_size: int = Field(16, ge=1)  # halved for a batch that does not fit into memory


class TextBackend(TransformersBackend):
    """Answers requests without frames."""

    HINT = (
        "Is it a folder with config.json, *.safetensors, the tokenizer's files and a chat template, or a hub name that "
        f"this machine can reach or has in its cache? A model that needs neither is {smollm2.KEYWORD}."
    )
    _words: Any = None

    @cached_property
    def model(self) -> str:
        return smollm2.NAME if self.config.model == smollm2.KEYWORD else super().model

    @property
    def _tokenizer(self) -> Any:
        return self._words

    def _weights(self) -> str:
        return str(smollm2.folder()) if self.config.model == smollm2.KEYWORD else self.config.model

    def _load(self, folder: str, source: dict[str, Any]) -> Any:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._words = AutoTokenizer.from_pretrained(folder, padding_side="left", **source)
        if not self._words.chat_template:
            raise ValueError("it has no chat template: take a model that was trained to follow instructions")
        if self._words.pad_token is None:
            self._words.pad_token = self._words.eos_token
        return AutoModelForCausalLM

    def _unfit(self, request: Request) -> str:
        return "this backend takes text only" if len(request.frames) else unfit(request)

    def _inputs(self, requests: list[Request]) -> Any:
        return self._words.apply_chat_template(
            [[{"role": "user", "content": request.prompt}] for request in requests],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            sanitize_control_tokens=True,
        )
