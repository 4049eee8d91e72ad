"""Where the picture is: black letterbox and pillarbox bars, as a crop that downstream readers apply."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.sampling import LIT_EDGE, SAMPLES, Bars, Clock, frame_bars
from curation.video import Column, Frame, Meter, Scorer, Span, Tracks, VideoInfo, within

SMALLEST_SHARE = 0.2  # of the picture's area; less is a title on black, not a crop


class BordersMeter:
    """Leaves bar sizes [S, 4] (px: top, bottom, left, right) and lit shares [S, 4] (percent) of sampled frames."""

    def __init__(self, rate: float) -> None:
        self._clock = Clock(rate)
        self._index: list[int] = []
        self._bars: list[Bars] = []

    def see(self, frame: Frame) -> None:
        if self._clock.ticks(frame.time):
            self._index.append(frame.index)
            self._bars.append(frame_bars(frame))

    def finish(self) -> dict[str, np.ndarray]:
        bars = np.array(self._bars, np.float64).reshape(-1, 8)
        return {
            "index": np.array(self._index, np.int32),
            "size": bars[:, :4].astype(np.int16),
            "lit": np.clip(bars[:, 4:] * 100, 0, 100).astype(np.uint8),
        }


class Borders(Scorer):
    """Each side's bar is the smallest one of all samples: what is ever lit is picture, and a dark scene is no bar.

    A bar also needs a lit edge in some sample, so a night scene or a title on black keeps its whole picture.
    """

    kind: Literal["borders"] = "borders"
    rate: float = Field(SAMPLES, gt=0, le=30, description="samples per second")

    def columns(self) -> tuple[Column, ...]:
        source = "after ffmpeg cropdetect; per clip, with a lit-edge test"
        return (
            Column("crop_x", pa.int32(), "px", "left edge of the picture inside black bars, coded orientation", source),
            Column("crop_y", pa.int32(), "px", "top edge of the picture inside black bars, coded orientation", source),
            Column("crop_w", pa.int32(), "px", "width of the picture inside black bars, even where cropped", source),
            Column("crop_h", pa.int32(), "px", "height of the picture inside black bars, even where cropped", source),
        )

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        return {f"borders@{self.rate:g}": BordersMeter(self.rate)}

    def score(self, tracks: Tracks, span: Span) -> dict[str, Any]:
        meter = tracks.meters[f"borders@{self.rate:g}"]
        here = within(meter["index"], span)
        size, lit = meter["size"][here], meter["lit"][here]
        if len(size) == 0:
            return dict.fromkeys(("crop_x", "crop_y", "crop_w", "crop_h"))
        width, height = tracks.info.width, tracks.info.height
        whole = {"crop_x": 0, "crop_y": 0, "crop_w": width, "crop_h": height}
        bars = []
        for side in range(4):
            # A wholly dark sample says nothing: it reports no bars and no lit edge.
            seen = lit[:, side] > 0
            smallest = int(size[seen, side].min()) if seen.any() else 0
            edge = lit[seen & (size[:, side] <= smallest + 2), side]
            bars.append(smallest if edge.size and edge.max() >= 100 * LIT_EDGE else 0)
        top, bottom, left, right = bars
        x, w = _even(left, width - right, width)
        y, h = _even(top, height - bottom, height)
        if w * h < SMALLEST_SHARE * width * height:
            return whole
        return {"crop_x": x, "crop_y": y, "crop_w": w, "crop_h": h}


def _even(start: int, end: int, size: int) -> tuple[int, int]:
    """Round a cropped range inwards to even positions (4:2:0 chroma); an uncropped one stays whole."""
    if start == 0 and end == size:
        return 0, size
    start = start + 1 & ~1
    return start, max(0, (end & ~1) - start)
