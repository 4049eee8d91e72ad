"""The protocol between captioning and whatever answers: a request with frames and a prompt in, an answer out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """How a model draws tokens. A temperature of 0 takes the likeliest each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """One question about one clip.

    frames: [H, W, 3] uint8 RGB each, of equal size, in order of time; none for a question about text only.
    seconds: when each frame is shown, from the clip's start.
    facts: the clip's row: what curation measured (for backends that see no pictures).
    """

    key: str  # clip_id, or clip_id and what distinguishes several questions about it
    prompt: str
    frames: Sequence[np.ndarray] = ()
    seconds: Sequence[float] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Answer:
    """What came back for one request; `key` is the request's. A failed one has a reason and no text."""

    key: str
    status: Literal["ok", "failed"]
    text: str = ""
    finish: Literal["stop", "length", ""] = ""  # length: cut off at max_tokens
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    reason: str = ""
    passing: bool = False  # a failure that may be gone when it is asked again (overload, connection, time-out)
    seconds: float = 0.0  # of the backend, this request's share


class Backend(Protocol):
    """Answers requests. Constructed cheaply; `setup` loads weights, in the worker that answers."""

    def setup(self) -> None: ...

    @property
    def model(self) -> str:
        """What identifies the weights: name and revision, or a folder's name and fingerprint. Part of the caption's."""
        ...

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer a request, in their order. Never raises for what a request holds, or for what a server says."""
        ...
