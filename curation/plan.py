"""What one decode of a video has to measure: the shot detector's and the scorers' meters, each once."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from curation.scorers import AnyScorer
from curation.shots import Shots
from curation.video import Meter, Span, Tracks, VideoInfo
from orchestration.config import Config


class MeasurePlan(Config):
    """`shots` is absent where the spans are known already and only scores are missing."""

    shots: Shots | None = None
    scorers: tuple[AnyScorer, ...] = ()

    @model_validator(mode="after")
    def _each_scorer_once(self) -> MeasurePlan:
        kinds = [scorer.kind for scorer in self.scorers]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise ValueError(f"scorer {twice[0]!r} is listed twice")
        return self

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        """Meters by name; parts that name the same meter share it."""
        found: dict[str, Meter] = {}
        for part in (self.shots, *self.scorers):
            if part is not None:
                found = {**part.meters(info), **found}
        return found

    def score(self, tracks: Tracks, span: Span) -> dict[str, Any]:
        scores: dict[str, Any] = {}
        for scorer in self.scorers:
            scores |= scorer.score(tracks, span)
        return scores
