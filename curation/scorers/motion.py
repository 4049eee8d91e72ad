"""Object motion apart from camera motion: a zoom over a photograph is none."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.flow import RATE, FlowMeter, pairs_within
from curation.video import Column, Meter, Scorer, Span, Tracks, VideoInfo

BLANK = 0.005  # share of textured blocks below which nothing could be seen to move


class Motion(Scorer):
    """Mean of what is left of the optical flow after the camera's part, magnitudes averaged, never signed flow."""

    kind: Literal["motion"] = "motion"
    rate: float = Field(RATE, gt=0, le=30, description="flow fields per second, the same for the whole dataset")

    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "motion",
                pa.float32(),
                "% of frame diagonal / s",
                "speed of objects apart from the camera, mean over picture and time; null for blank or too short clips",
                "DIS flow (Kroeger et al. 2016) less a robust planar camera model (curation/scorers/flow.py)",
                temporal=True,
            ),
        )

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        return {f"flow@{self.rate:g}": FlowMeter(self.rate)}

    def score(self, tracks: Tracks, span: Span) -> dict[str, Any]:
        meter = tracks.meters[f"flow@{self.rate:g}"]
        here = pairs_within(meter, span)
        seen = meter["texture"][here] >= BLANK
        if not seen.any():
            return {"motion": None}
        seconds = tracks.times[meter["last"][here]] - tracks.times[meter["first"][here]]
        return {"motion": float(np.average(meter["objects"][here][seen], weights=seconds[seen]))}
