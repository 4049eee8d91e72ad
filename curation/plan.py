"""What one decode of a video has to measure: the shot detector's and the frame scorers' meters, each once."""

from __future__ import annotations

from typing import Any

from curation.scorers import AnyScorer
from curation.shots import Shots
from curation.video import Meter, Scorer, Span, Tracks, VideoInfo
from orchestration.config import Config


class MeasurePlan(Config):
    """`shots` is absent where the spans are known already and only scores are missing. Picture scorers have no part in
    the decode and are passed over."""

    shots: Shots | None = None
    scorers: tuple[AnyScorer, ...] = ()

    @property
    def frame_scorers(self) -> tuple[AnyScorer, ...]:
        return tuple(scorer for scorer in self.scorers if isinstance(scorer, Scorer))

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        """Meters by name; parts that name the same meter share it."""
        found: dict[str, Meter] = {}
        for part in (self.shots, *self.frame_scorers):
            if part is not None:
                found = {**part.meters(info), **found}
        return found

    def score(self, tracks: Tracks, span: Span) -> dict[str, Any]:
        scores: dict[str, Any] = {}
        for scorer in self.frame_scorers:
            scores |= scorer.score(tracks, span)
        return scores
