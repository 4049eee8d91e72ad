"""What the camera does: a label with confidence, and its speeds."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.flow import MEAN_RADIUS, RATE, FlowMeter, pairs_within
from curation.video import Column, Meter, Scorer, Span, Tracks, VideoInfo

LABELS = ("static", "pan", "tilt", "zoom", "roll", "shake")
SUPPORT = 0.15  # trusted share of the picture that must agree on a camera motion
TEXTURE = 0.02  # share of blocks whose flow can be trusted; title cards have less
SMOOTH_S = 0.8  # seconds; what the camera does slower than this is a move, faster is shake
SOURCE = "planar camera model fitted to DIS flow (curation/scorers/flow.py)"


class CameraMotion(Scorer):
    """Every component is turned into the mean speed it gives to a point of the picture, so that they compare.

    Moves are the smoothed part of the camera's path, shake is what smoothing takes away. The largest wins; standing
    still takes part with the constant speed `still`. Confidence is the winner's share of the sum of squares, times the
    share of the clip's time at which the camera could be measured.
    """

    kind: Literal["camera_motion"] = "camera_motion"
    rate: float = Field(RATE, gt=0, le=30, description="flow fields per second, the same for the whole dataset")
    still: float = Field(
        default=0.6, gt=0, description="speed under which a camera counts as static, % of diagonal / s"
    )

    def columns(self) -> tuple[Column, ...]:
        found = (
            ("camera_motion", pa.string(), "", "static, pan, tilt, zoom, roll or shake"),
            ("camera_confidence", pa.float32(), "0-1", "the label's share of all camera motion"),
            ("camera_pan", pa.float32(), "% of width / s", "mean pan; positive: the view moves right"),
            ("camera_tilt", pa.float32(), "% of height / s", "mean tilt; positive: the view moves up"),
            ("camera_zoom", pa.float32(), "% / s", "mean growth of what is seen; positive: zoom in"),
            ("camera_roll", pa.float32(), "degrees / s", "mean roll; positive: camera turns clockwise"),
            ("camera_shake", pa.float32(), "% of diagonal / s", "RMS speed of the camera's tremble"),
        )
        return tuple(Column(*facts, SOURCE, temporal=True) for facts in found)

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        return {f"flow@{self.rate:g}": FlowMeter(self.rate)}

    def score(self, tracks: Tracks, span: Span) -> dict[str, Any]:
        meter = tracks.meters[f"flow@{self.rate:g}"]
        here = pairs_within(meter, span)
        measured = (meter["support"][here] >= SUPPORT) & (meter["texture"][here] >= TEXTURE)
        if not measured.any():
            return {column.name: None for column in self.columns()}
        camera = meter["camera"][here][measured].astype(np.float64)
        info = tracks.info
        upright = (info.height, info.width) if info.rotation in (90, 270) else (info.width, info.height)
        diagonal = float(np.hypot(*upright))
        per_unit = np.array([upright[0] / diagonal, upright[1] / diagonal, MEAN_RADIUS / 2, MEAN_RADIUS / 2]) * 100
        speed = camera * per_unit  # [P, 4] % of diagonal / s at a typical point: pan, tilt, zoom, roll
        slow = _smooth(speed, max(1, round(SMOOTH_S * self.rate)))
        moves = np.abs(slow).mean(axis=0)
        shake = float(np.sqrt(np.square(speed - slow).sum(axis=1).mean()))
        strength = np.array([self.still, *moves, shake])
        share = np.square(strength) / np.square(strength).sum()
        best = int(share.argmax())
        pan, tilt, zoom, roll = camera.mean(axis=0)
        return {
            "camera_motion": LABELS[best],
            "camera_confidence": float(share[best] * measured.mean()),
            "camera_pan": float(-pan * 100),
            "camera_tilt": float(tilt * 100),
            "camera_zoom": float(zoom * 100),
            "camera_roll": float(np.degrees(-roll)),
            "camera_shake": shake,
        }


def _smooth(speed: np.ndarray, window: int) -> np.ndarray:
    """Moving mean over `window` pairs of [P, 4]; shorter at the ends, so that no motion is made up there."""
    total = np.concatenate([np.zeros((1, speed.shape[1])), np.cumsum(speed, axis=0)])
    place = np.arange(len(speed))
    start = np.maximum(place - (window - 1) // 2, 0)
    end = np.minimum(place + window // 2 + 1, len(speed))
    return (total[end] - total[start]) / (end - start)[:, None]
