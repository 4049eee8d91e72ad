"""Rewriting that only removes: what a model makes of a caption counts only where it adds nothing and loses nothing."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pydantic import Field

from captioning.backend import Answer, Request, Sampling
from captioning.checks.clean import clean
from captioning.job import Round
from captioning.prompt import Prompt
from orchestration.config import Config


class RewriteConfig(Config):
    """What a rewritten caption has to keep."""

    content: float = Field(default=0.8, ge=0, le=1)  # least share of the words that carry meaning


@dataclass(frozen=True)
class Rewritten:
    """text: rewritten, or the original, cleaned, for the reason in `note`. failed: nobody answered, which may pass."""

    text: str
    note: str = ""
    answers: tuple[Answer, ...] = ()
    failed: Answer | None = None


def rewrite_steps(
    key: str, caption: str, prompt: Prompt, sampling: Sampling, tries: int, config: RewriteConfig
) -> Generator[Round, Sequence[Answer], Rewritten]:
    """Asks for a rewritten `caption`, and again with other sampling, at most `tries` times after the first."""
    answers = yield Round([Request(key, prompt.render(caption=caption), sampling=sampling)], by="text")
    return Rewritten(clean(caption), note="not judged yet", answers=tuple(answers))
