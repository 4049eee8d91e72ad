"""The openai backend, set up to fail fast."""

from __future__ import annotations

from typing import Any

from captioning.backend import Answer, Request
from captioning.backends.openai import OpenAIBackend, OpenAIConfig

QUICK: dict[str, Any] = {"model": "m", "wait_s": 0.01, "longest_wait_s": 0.1, "timeout_s": 10, "max_wait_s": 30}


def backend(url: str, **settings: Any) -> OpenAIBackend:
    made = OpenAIBackend(config(**{**QUICK, "url": url, **settings}))
    made.setup()
    return made


def config(**settings: Any) -> OpenAIConfig:
    return OpenAIConfig(**{"url": "https://example.com/v1", "model": "m", **settings})


def ask(url: str, prompts: list[str], **settings: Any) -> list[Answer]:
    return backend(url, **settings).answer([Request(f"key {prompt}", prompt) for prompt in prompts])


def after(fault: str, times: int = 1) -> Any:
    """A script: `fault` for a prompt's first tries, then its answer."""
    return lambda prompt, tries: fault if tries < times else "ok"
