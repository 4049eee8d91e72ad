"""Mean and standard deviation of channels as bars on one axis, for `parts.channels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def strips(rows: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Where each channel's (mean, deviation) lies on the axis, in per cent of its width; the last row is of all."""
    reach = 1.1 * max([1.0, *(abs(mean) + deviation for mean, deviation in rows)])

    def strip(mean: float, deviation: float) -> dict[str, Any]:
        left, width = 50 * (1 + (mean - deviation) / reach), 100 * deviation / reach
        return {"mean": mean, "deviation": deviation, "left": f"{left:.2f}", "width": f"{width:.2f}"}

    return {
        "channels": [strip(*row) for row in rows[:-1]],
        "whole": strip(*rows[-1]),
        "band": (f"{50 * (1 - 1 / reach):.2f}", f"{100 / reach:.2f}"),  # -1 to 1
    }
