"""Histograms of lengths, and the growth of a vocabulary, as report.js draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from captioning.report.survey import MOST, Lengths
from captioning.report.vocabulary import Vocabulary
from orchestration.report import formats

BINS = 40


def lengths(shapes: Sequence[Lengths], limit: int | None = None) -> list[dict[str, Any]]:
    """A chart for each, all over the same range, so that they can be compared. limit: drawn as a line."""
    total = np.sum([shape.counts.sum(0) for shape in shapes], axis=0)
    highest = int(np.flatnonzero(total)[-1]) if total.any() else 0
    bulk = int(np.searchsorted(np.cumsum(total), 0.995 * total.sum()))
    end = max(highest if highest <= 1.5 * bulk else bulk, round(1.1 * limit) if limit else 0, 8)
    width = -(-(end + 1) // BINS)
    bins = -(-(end + 1) // width)
    return [_chart(shape, width, bins, limit, highest) for shape in shapes]


def _chart(shape: Lengths, width: int, bins: int, limit: int | None, highest: int) -> dict[str, Any]:
    place = np.minimum(np.arange(MOST + 1) // width, bins - 1)  # what lies beyond counts in the last bin
    counts = [np.bincount(place, side, bins).astype(int) for side in shape.counts]
    shown = [(name, role, y) for name, role, y in zip(("no flag", "flagged"), ("good", "bad"), counts, strict=True)]
    shown = [item for item in shown if item[2].any()]
    hover = []
    for index in range(bins):
        low, high = index * width, (index + 1) * width - 1
        head = (
            f"{low} and more" if index == bins - 1 and highest > high else f"{low} to {high}" if width > 1 else f"{low}"
        )
        hover.append("\n".join([head, *(f"{name} {y[index]:,}" for name, _, y in shown)]))
    line = {"x": limit + 0.5, "label": f"≤ {limit}", "reject": "above"} if limit else None
    return {
        "x": [index * width + (width - 1) / 2 for index in range(bins)],
        "width": width,
        "range": [-0.5, bins * width - 0.5],
        "series": [{"name": name, "role": role, "y": y.tolist()} for name, role, y in shown],
        "lines": [line] if line else [],
        "hover": hover,
    }


def growth(found: Vocabulary) -> dict[str, Any]:
    return {
        "x": [formats.count(captions) for captions, _ in found.growth],
        "category": True,
        "series": [{"name": "distinct words", "role": "neutral", "y": [words for _, words in found.growth]}],
        "hover": [
            f"{formats.plural(words, 'distinct word')} in {formats.plural(captions, 'caption')}"
            for captions, words in found.growth
        ],
    }
