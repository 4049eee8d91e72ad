"""Captions that somebody else wrote: nothing is asked, the clip's row brings them."""

from __future__ import annotations

from typing import Literal

from captioning.frames import FramesConfig
from captioning.job import FramePlan, Row
from captioning.recipes.base import Attempt, Draft, Recipe, Said, Try


class Brought(Recipe):
    """Of several texts of a clip the longest is the dense caption and the shortest the short one."""

    kind: Literal["brought"] = "brought"

    def plan(self, row: Row, frames: FramesConfig) -> FramePlan | None:
        return None

    def attempt(self, this: Try) -> Attempt:
        texts = sorted(this.row["source"], key=lambda text: (len(text), text))
        yield from ()
        short = texts[0] if len(texts) > 1 else ""
        others = tuple(text for text in this.row["source"] if text not in (texts[0], texts[-1]))
        return Draft(Said(short=short, dense=texts[-1], others=others), texts[-1])
