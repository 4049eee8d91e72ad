"""What a demonstration found: demo.json, beside the videos that it is about."""

from __future__ import annotations

import math

from pydantic import BaseModel

FOLDER = "demo"  # in the training's output folder
NAME = f"{FOLDER}/demo.json"
SHARE = 0.8  # of the captions have to be right


class Sampled(BaseModel):
    """A caption's sample beside the caption's clip; `sample`, `clip`: names in FOLDER.

    features, psnr: how like each clip of the demonstration the sample is, in their order. own: is the caption's own
    clip the nearest, by both? shuffled: is the next caption's?
    """

    prompt: str
    key: str
    sample: str
    clip: str
    features: list[float]
    psnr: list[float]
    own: bool
    shuffled: bool


class Demonstration(BaseModel):
    """made_of: weights, samples and settings that all the rest follows from. seconds: of training."""

    made_of: str
    step: int
    seconds: float
    sampling: str
    clips: list[Sampled]

    @property
    def right(self) -> int:
        return sum(each.own for each in self.clips)

    @property
    def right_shuffled(self) -> int:
        return sum(each.shuffled for each in self.clips)

    @property
    def needed(self) -> int:
        return math.ceil(SHARE * len(self.clips))
