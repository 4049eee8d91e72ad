"""Another version's captions with what is not about the clip taken out; nothing is added, see rewriting.py."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from captioning.frames import FramesConfig
from captioning.job import FramePlan, Role, Row
from captioning.prompt import Prompt, load
from captioning.recipes.base import Attempt, Draft, Recipe, Said, Try
from captioning.rewriting import RewriteConfig, rewrite_steps


class Rewrite(Recipe):
    """Reads no frames. Where what the model makes of a caption adds or loses something, the caption stays as it was."""

    kind: Literal["rewrite"] = "rewrite"
    of: str = Field(min_length=1)  # the version that is rewritten, by name or fingerprint
    prompt: str = "rewrite-1"
    tries: int = Field(default=2, ge=0, le=10)  # after the first
    keep: RewriteConfig = RewriteConfig()

    ROLES: ClassVar[tuple[Role, ...]] = ("text",)

    def prompts(self) -> dict[str, Prompt]:
        return {"prompt": load(self.prompt, frozenset({"caption"}))}

    def plan(self, row: Row, frames: FramesConfig) -> FramePlan | None:
        return None

    def attempt(self, this: Try) -> Attempt:
        dense, short = this.row["source"]
        key = str(this.row["clip_id"])
        done = yield from rewrite_steps(key, dense, this.prompts["prompt"], this.sampling, self.tries, self.keep)
        if done.failed is not None:
            return Draft.failed(done.failed, done.answers)
        return Draft(Said(short=short, dense=done.text), done.text, reason=done.note, answers=done.answers)
