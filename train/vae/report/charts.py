"""Curves over steps, as report.js draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST = 400  # points of a curve
HELD_OUT = "held_out_psnr"

Steps = dict[int, dict[str, float]]  # what was logged, in order


@dataclass(frozen=True)
class Curves:
    """A chart. names: of what is logged, with labels. log: an axis of decades, where the values need it."""

    key: str
    title: str
    doc: str
    names: Mapping[str, str]
    wide: bool = False
    log: bool = False


def _one(name: str, title: str, doc: str, log: bool = False) -> Curves:
    return Curves(name.replace("_", "-"), title, doc, {name: ""}, log=log)


CHARTS = (
    Curves(
        "psnr",
        "PSNR",
        "dB. Training batches: of latents drawn from their distribution. Held out: windows nothing is learnt from.",
        {"psnr": "training batches", HELD_OUT: "held out"},
        wide=True,
    ),
    _one("loss", "Loss", "The weighted sum of the terms.", log=True),
    _one("l1", "L1", "Mean absolute difference of source and reconstruction.", log=True),
    _one("perceptual", "Perceptual", "Distance in the features of a network that was trained to see.", log=True),
    _one("kl", "KL", "From the latents' distribution to a normal one.", log=True),
    _one("adversarial", "Adversarial", "The discriminator's verdict on reconstructions."),
    _one("adversarial_weight", "Adversarial weight", "What makes its gradient as long as the reconstruction's."),
    _one("discriminator", "Discriminator", "Its own loss."),
    _one("lr", "Learning rate", "Of the VAE."),
    _one("grad_norm", "Gradient norm", "Before it is clipped.", log=True),
)


def shown(steps: Steps) -> list[Curves]:
    """Charts that there is something in."""
    return [chart for chart in CHARTS if any(line.get(name) for line in steps.values() for name in chart.names)]


def draw(chart: Curves, steps: Steps) -> dict[str, Any]:
    curves = [_curve(name, label or chart.title, steps) for name, label in chart.names.items()]
    values = [value for curve in curves for value in curve["y"] if value is not None]
    return {
        "curves": curves,
        "range": [0, max(steps) or 1],
        "lines": [{"x": step, "label": f"{stage}"} for stage, step in _beginnings(steps)],
        "log": _log(values) if chart.log else None,
    }


def group(count: int) -> int:
    """How many values a point is the mean of."""
    return math.ceil(count / MOST)


def last(name: str, steps: Steps) -> float | None:
    return next((line[name] for line in reversed(steps.values()) if name in line), None)


def _curve(name: str, label: str, steps: Steps) -> dict[str, Any]:
    """Values that are not finite are gaps."""
    logged = [(step, line[name]) for step, line in steps.items() if name in line]
    size = group(len(logged))
    groups = [logged[at : at + size] for at in range(0, len(logged), size)] if logged else []
    return {
        "name": label,
        "role": "good" if name == HELD_OUT else "neutral",
        "x": [some[-1][0] for some in groups],
        "y": [_mean([value for _, value in some]) for some in groups],
        "dots": 0 < len(groups) <= 50,
    }


def _log(values: Sequence[float]) -> int | str | None:
    """Where a logarithmic axis has ticks, as Plotly writes it; None: a linear one shows all that there is."""
    low, high = min(values, default=0), max(values, default=0)
    if low <= 0 or high < 10 * low:
        return None
    return "D2" if high < 100 * low else 1  # at 1, 2 and 5, or at each decade


def _mean(values: Sequence[float]) -> float | None:
    mean = sum(values) / len(values)
    return float(f"{mean:.5g}") if math.isfinite(mean) else None


def _beginnings(steps: Steps) -> list[tuple[int, int]]:
    """(stage, last step that was logged before it) of all but the first."""
    found: dict[int, int] = {}
    before = 0
    for step, line in steps.items():
        if math.isfinite(stage := line.get("stage", math.nan)):
            found.setdefault(int(stage), before)
            before = step
    return list(found.items())[1:]
