"""Bins of a score: chosen from a sample, aligned with the thresholds, filled batch by batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from curation.report.data import DROPPED, KEPT, UNDECIDED
from curation.video import Column
from orchestration.report import formats

BINS = 40


@dataclass(frozen=True)
class Bound:
    """One threshold of one column: values on its `side` (`min`: at or above `value`) pass."""

    column: str
    side: str  # min or max
    value: float

    def passes(self, values: np.ndarray) -> np.ndarray:
        return values >= self.value if self.side == "min" else values <= self.value

    @property
    def label(self) -> str:
        return f"{'≥' if self.side == 'min' else '≤'} {formats.number(self.value)}"


@dataclass
class Histogram:
    """Counts of kept, dropped and undecided clips in `edges`; what lies outside counts in the first or last bin."""

    column: Column
    edges: np.ndarray  # [bins + 1], equally wide
    low: float  # smallest value there is
    high: float
    quantiles: tuple[float, float, float]  # 5 %, 50 %, 95 %, estimated from a sample
    bounds: tuple[Bound, ...]
    counts: dict[int, np.ndarray] = field(init=False)
    missing: int = 0
    failing: dict[Bound, int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = {state: np.zeros(len(self.edges) - 1, np.int64) for state in (KEPT, DROPPED, UNDECIDED)}
        self.failing = dict.fromkeys(self.bounds, 0)

    def add(self, values: np.ndarray, states: np.ndarray) -> None:
        known = ~np.isnan(values)
        self.missing += int(len(values) - known.sum())
        bins = len(self.edges) - 1
        place = np.clip(np.nan_to_num((values[known] - self.edges[0]) / self.width, posinf=bins), 0, bins - 1).astype(
            int
        )
        for state, counts in self.counts.items():
            counts += np.bincount(place[states[known] == state], minlength=bins)
        for bound in self.bounds:
            self.failing[bound] += int((~bound.passes(values[known])).sum())

    @property
    def width(self) -> float:
        return float(self.edges[1] - self.edges[0])

    @property
    def total(self) -> np.ndarray:
        return np.sum(list(self.counts.values()), axis=0)

    @property
    def measured(self) -> int:
        return int(self.total.sum())

    @property
    def constant(self) -> bool:
        return self.low == self.high and not self.bounds

    def place(self, value: float) -> int:
        """Percent of the clips that lie below `value`, from the bins."""
        position = min(max((value - self.edges[0]) / self.width, 0.0), float(len(self.edges) - 1))
        index = int(position)
        total = self.total
        part = total[index] * (position - index) if index < len(total) else 0
        return round(100 * float(total[:index].sum() + part) / max(1, self.measured))

    def chart(self) -> dict[str, Any]:
        """What report.js draws."""
        series = [("kept", "good", KEPT), ("dropped", "bad", DROPPED), ("not selected yet", "neutral", UNDECIDED)]
        shown = [(name, role, self.counts[state]) for name, role, state in series if self.counts[state].any()]
        below, total = np.cumsum(self.total) - self.total, max(1, self.measured)
        hover = []
        for index in range(len(self.edges) - 1):
            first, last = (
                index == 0 and self.low < self.edges[0],
                index == len(self.edges) - 2 and self.high > self.edges[-1],
            )
            low, high = formats.number(_clean(self.edges[index])), formats.number(_clean(self.edges[index + 1]))
            head = f"below {high}" if first else f"{low} and above" if last else f"{low} to {high}"
            lines = [f"{name} {counts[index]:,}" for name, _, counts in shown]
            if index:
                lines.append(f"{formats.share(float(below[index]), total)} of the clips lie below")
            hover.append("\n".join([head, *lines]))
        return {
            "x": [_clean(x) for x in (self.edges[:-1] + self.width / 2).tolist()],
            "width": self.width,
            "range": [float(self.edges[0]), float(self.edges[-1])],
            "series": [{"name": name, "role": role, "y": counts.tolist()} for name, role, counts in shown],
            "lines": [
                {"x": bound.value, "label": bound.label, "reject": "below" if bound.side == "min" else "above"}
                for bound in self.bounds
            ],
            "hover": hover,
        }


def histogram(
    column: Column, sample: np.ndarray, low: float, high: float, bounds: Sequence[Bound], whole: bool
) -> Histogram:
    """`sample` has the finite values to choose the range by, `low` and `high` are the extremes of all values."""
    low_q, median, high_q = np.quantile(sample, (0.05, 0.5, 0.95)).tolist() if len(sample) else (math.nan,) * 3
    quantiles = (low_q, median, high_q)
    return Histogram(column, _edges(sample, low, high, bounds, whole), low, high, quantiles, tuple(bounds))


def _edges(sample: np.ndarray, low: float, high: float, bounds: Sequence[Bound], whole: bool) -> np.ndarray:
    """Bins over the bulk of the values and all thresholds; the first threshold is the edge of a bin."""
    marks = [bound.value for bound in bounds]
    if not len(sample):
        low, high = min(marks, default=0.0) - 0.5, max(marks, default=1.0) + 0.5
        return np.linspace(low, high, BINS + 1)
    start, end = (float(q) for q in np.quantile(sample, (0.005, 0.995)))
    if high - low <= 1.5 * (end - start):
        start, end = low, high
    start, end = min([start, *marks]), max([end, *marks])
    if whole and end - start < BINS:  # few whole numbers: a bar for each
        return np.arange(math.floor(start) - 0.5, math.floor(end) + 1)
    span = end - start or max(abs(start), 1.0) * 0.1
    width = _tidy(span / BINS)
    anchor = marks[0] if marks else 0.0
    first, last = math.floor((start - anchor) / width), math.ceil((end - anchor) / width)
    if anchor + last * width <= end:
        last += 1  # bins are open at their end
    return anchor + width * np.arange(first, max(last, first + 1) + 1)


def _tidy(width: float) -> float:
    """The next width up among 1, 2, 2.5 and 5 times a power of ten, so that bins have readable limits."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= width * 0.999)


def _clean(value: float) -> float:
    """Without the last digits' noise of sums of floats."""
    return float(f"{value:.10g}")
