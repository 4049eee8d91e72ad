"""What every recipe has: prompts, the frames it wants, and one try at a caption."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from captioning.backend import Answer, Request, Sampling
from captioning.frames import FramesConfig, plan_frames
from captioning.job import FramePlan, Pictures, Role, Round, Row
from captioning.prompt import Prompt
from captioning.structured import Structured
from orchestration.config import Config


@dataclass(frozen=True)
class Said:
    """A caption as it was given: fields, from which short and dense text follow, or the texts themselves."""

    structured: Structured | None = None
    short: str = ""
    dense: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Try:
    """One try at a clip's caption. complaint: what was wrong with the answer before; tell it."""

    row: Row
    pictures: Pictures
    sampling: Sampling
    prompts: Mapping[str, Prompt]  # as they were when the run began, whatever becomes of their files
    complaint: str = ""
    before: Draft | None = None

    def request(self, prompt: str, pictures: Pictures | None = None, part: str = "") -> Request:
        """A question about the clip; `part` distinguishes several of one round."""
        shown = self.pictures if pictures is None else pictures
        key = str(self.row["clip_id"])
        return Request(
            f"{key}/{part}" if part else key,
            prompt,
            frames=shown.frames,
            seconds=shown.seconds,
            facts=self.row,
            sampling=self.sampling,
        )


@dataclass(frozen=True)
class Draft:
    """What a try came to. No `said`: it failed, for `reason`, or could not be read, which `complaint` explains."""

    said: Said | None = None
    text: str = ""  # the model's own words
    finish: str = ""
    reason: str = ""
    complaint: str = ""
    passing: bool = False
    answers: tuple[Answer, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)  # what a further try need not ask again

    @classmethod
    def failed(cls, answer: Answer, answers: Sequence[Answer]) -> Draft:
        return cls(reason=answer.reason, passing=answer.passing, answers=tuple(answers))


Attempt = Generator[Round, Sequence[Answer], Draft]


class Recipe(Config):
    """Base of the recipes. A recipe is its own configuration; what it asks is part of the version's fingerprint."""

    ROLES: ClassVar[tuple[Role, ...]] = ()  # who is asked

    def prompts(self) -> dict[str, Prompt]:
        """Read from their files. Raises ConfigError for one that cannot be used."""
        return {}

    def plan(self, row: Row, frames: FramesConfig) -> FramePlan | None:
        """The frames wanted of a clip; None: no frame. Raises ValueError where the row is no clip's."""
        return plan_frames(row, frames)

    def attempt(self, this: Try) -> Attempt:
        """One try. Raises nothing for what answers hold."""
        raise NotImplementedError

    def described(self, prompts: Mapping[str, Prompt]) -> dict[str, Any]:
        """What the version's fingerprint is made of: settings, and the prompts' texts in place of their names."""
        texts = {name: prompt.source for name, prompt in prompts.items()}
        return {**self.model_dump(mode="json", exclude=set(prompts)), **texts}


def with_complaint(prompt: str, complaint: str) -> str:
    """The prompt, and at its end, where it spoils no shared beginning, what was wrong with the answer before."""
    if not complaint:
        return prompt
    return f"{prompt}\n\nYour answer before could not be used: {complaint}. Answer again, as asked above."


def text_only(request: Request) -> Request:
    """For those who see no pictures."""
    return replace(request, frames=(), seconds=())
