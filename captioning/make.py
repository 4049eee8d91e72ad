"""Who answers, made of its configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from captioning.backend import Backend
from captioning.backends.attributes import AttributesBackend, AttributesConfig
from captioning.backends.local import LocalBackend, LocalConfig
from captioning.backends.openai import OpenAIBackend, OpenAIConfig
from captioning.backends.text import TextBackend, TextConfig
from captioning.backends.vllm import VllmConfig, identity, require_vllm
from captioning.brought.config import BroughtConfig
from captioning.config import CaptionConfig
from captioning.job import Role

_BACKENDS: dict[Any, Callable[[Any], Any]] = {
    AttributesConfig: AttributesBackend,
    LocalConfig: LocalBackend,
    OpenAIConfig: OpenAIBackend,
    TextConfig: TextBackend,
}


def model_of(config: CaptionConfig, roles: Sequence[Role]) -> str:
    """What identifies all who answer. Raises ConfigError where one of them cannot be had on this machine."""
    if isinstance(config.captions, BroughtConfig):
        return "brought"
    if isinstance(config.captions, VllmConfig):
        if config.ray.address is None:
            require_vllm()
        return identity(config.captions)
    return " + ".join(dict.fromkeys(make().model for make in makers(config, roles).values()))


def makers(config: CaptionConfig, roles: Sequence[Role]) -> dict[Role, Callable[[], Backend]]:
    """Who is asked in these roles; one that is asked for both is one and the same object. Empty: nobody is asked, or an
    engine that answers for all workers."""
    if type(config.captions) not in _BACKENDS:
        return {}
    seeing = partial(_BACKENDS[type(config.captions)], _placed(config.captions, config))
    reading = partial(_BACKENDS[type(config.text)], _placed(config.text, config)) if config.text is not None else seeing
    made: dict[Role, Callable[[], Backend]] = {"pictures": seeing, "text": reading}
    return {role: made[role] for role in roles}


def _placed(backend: Any, config: CaptionConfig) -> Any:
    """Workers that were given no GPU leave those of the machine alone: there may be many workers."""
    if getattr(backend, "device", None) == "auto" and not config.ray.worker_gpus:
        return backend.model_copy(update={"device": "cpu"})
    return backend
