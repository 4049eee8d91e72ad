"""Picture scorers, one after the other, each on the clips that the rules on what is measured so far still keep."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from curation.config import CurateConfig
from curation.dataset.records import clip_schema, token
from curation.rules.overrides import Overrides
from curation.rules.prospects import could_be_kept
from curation.stills import Stills
from curation.video import VECTOR, ClipView, Look, PictureScorer, Span, Tracks
from orchestration.runs import log

BATCH = 16  # clips whose pictures are in memory at once
ODD_CONTENT = (ArithmeticError, LookupError, ValueError, cv2.error)

Vectors = dict[str, dict[str, np.ndarray]]  # token of a scorer → clip_id → vector


class Cascade:
    """The picture scorers of a configuration in one worker. Weights load when the first clip needs them."""

    def __init__(self, config: CurateConfig, overrides: Overrides):
        self._config, self._overrides = config, overrides
        self._schema = pa.schema([field for field in clip_schema() if field.name != "thumbnail"])
        self._looks: dict[str, Look] = {}
        self.cpu_s: dict[str, float] = {}  # CPU seconds of each scorer in the last run, without its set-up

    def run(self, clips: Sequence[dict[str, Any]], tracks: Tracks) -> Vectors:
        """Measure what `clips`, rows of the clips table of one video, lack: their columns and `measured` are filled in.

        Returns the vectors beside them.
        """
        vectors: Vectors = {}
        self.cpu_s = {}
        stills = Stills(tracks)
        scorers = self._config.picture_scorers
        for place, scorer in enumerate(scorers):
            name = token(scorer)
            lacking = [clip for clip in clips if name not in clip["measured"]]
            pending = {column.name for later in scorers[place:] for column in later.columns()}
            prospects = self._prospects(lacking, pending)
            for start in range(0, len(prospects), BATCH):
                batch = prospects[start : start + BATCH]
                views = [self._view(scorer, clip, stills, tracks) for clip in batch]
                for clip, found in zip(batch, self._scored(scorer, views), strict=True):
                    if (vector := found.pop(VECTOR, None)) is not None:
                        vectors.setdefault(name, {})[clip["clip_id"]] = vector
                    clip |= found
                    clip["measured"] = [*clip["measured"], name]
        return vectors

    def _prospects(self, clips: list[dict[str, Any]], pending: set[str]) -> list[dict[str, Any]]:
        if self._config.score_all or not clips:
            return clips
        table = pa.Table.from_pylist(clips, self._schema)
        config = self._config
        kept = could_be_kept(table, config.select, pending, damage=config.damage, overrides=self._overrides)
        return list(itertools.compress(clips, kept))

    def _view(self, scorer: PictureScorer, clip: dict[str, Any], stills: Stills, tracks: Tracks) -> ClipView:
        span = Span(clip["start_frame"], clip["end_frame"])
        pictures, middle = stills.pictures(span, scorer.pictures, clip)
        return ClipView(pictures, clip, tracks.info, middle)

    def _scored(self, scorer: PictureScorer, views: list[ClipView]) -> list[dict[str, Any]]:
        """The columns of each view; null for a clip of which there is no picture."""
        nothing: dict[str, Any] = {column.name: None for column in scorer.columns()}
        shown = [view for view in views if view.pictures]
        found = iter(self._looked(scorer, shown, nothing) if shown else ())
        return [next(found) if view.pictures else dict(nothing) for view in views]

    def prepare(self) -> None:
        """Load all weights now."""
        for scorer in self._config.picture_scorers:
            self._look_of(scorer)

    def _look_of(self, scorer: PictureScorer) -> Look:
        if scorer.kind not in self._looks:
            device = scorer.device if self._config.ray.worker_gpus else "cpu"
            self._looks[scorer.kind] = scorer.model_copy(update={"device": device}).setup()
        return self._looks[scorer.kind]

    def _looked(self, scorer: PictureScorer, views: list[ClipView], nothing: dict[str, Any]) -> list[dict[str, Any]]:
        look = self._look_of(scorer)
        started = time.process_time()
        try:
            return look(views)
        except (*ODD_CONTENT, RuntimeError) as error:
            if len(views) == 1 and not isinstance(error, ODD_CONTENT):
                raise
            problem = error
        finally:
            self.cpu_s[scorer.kind] = self.cpu_s.get(scorer.kind, 0.0) + time.process_time() - started
        if len(views) > 1:  # one of them is odd, or they are too many at once
            return [found for view in views for found in self._looked(scorer, [view], nothing)]
        log.error("clip %s: %s could not score it: %r", views[0].row.get("clip_id"), scorer.kind, problem)
        return [dict(nothing)]
