"""Fixed parts, for footage without cuts (surveillance, dashcams) or to compare with."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
from pydantic import Field

from curation.video import Meter, ShotDetector, Span, Tracks, VideoInfo


class Stride(ShotDetector):
    """A new shot every `seconds` of real time; the last one is what remains."""

    kind: Literal["stride"] = "stride"
    seconds: float = Field(default=10.0, gt=0)

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        return {}

    def shots(self, tracks: Tracks) -> list[Span]:
        if not tracks.frames:
            return []
        # A hair of tolerance: 2.9999999 s of summed frame times is the start of the third second.
        part = np.floor((tracks.times - tracks.times[0] + 1e-6) / self.seconds)
        edges = [0, *(np.flatnonzero(np.diff(part) > 0) + 1).tolist(), tracks.frames]
        return [Span(start, end) for start, end in pairwise(edges)]
