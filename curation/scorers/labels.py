"""CogVideoX's six negative labels (arXiv 2408.06072, section 3.3) out of what is measured already, and of seams, jumps
and colours of a few pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.graphics import Graphics, graphics
from curation.video import ClipView, Column, Look, PictureScorer

LABELS = {
    "label_editing": "re-edited: split screens, pictures in pictures, frames, side bars, captions over footage",
    "label_disconnected_motion": "spliced of stills: slideshows, frozen frames, jumps; null of a single picture",
    "label_low_quality": "blurred, blocky, noisy, badly exposed or shaken",
    "label_lecture": "one person talking to the camera, beside a slide too; null of a single picture",
    "label_text_dominated": "much of the picture is text",
    "label_screenshot": "recorded from a screen: pages, editors, terminals, desktops, slides",
}
TEMPORAL = ("label_disconnected_motion", "label_lecture")

# What each label lives on: it is null where all of these are.
NEEDS = {
    "label_low_quality": ("sharpness", "exposure", "brisque"),
    "label_lecture": ("talking_head", "faces"),
    "label_text_dominated": ("text_area",),
}


class Classifier(NamedTuple):
    """Logistic regression: 1 / (1 + exp(-(bias + sum of weights x signals)))."""

    bias: float
    weights: Mapping[str, float]  # of signals, 0-1 each, see `signals`


# Fitted by benchmarks/labels.py --fit. No weight is below 0: a signal is evidence for a label, or none. Each plain
# defect is low quality by itself.
CLASSIFIERS: dict[str, Classifier] = {
    "label_editing": Classifier(
        -1.1, {"seam": 2.7, "pair of seams": 0.9, "soft sides": 0.8, "corners": 2.4, "overlay": 2.3}
    ),
    "label_disconnected_motion": Classifier(-2.2, {"jump": 3.9, "frozen": 3.7}),
    "label_low_quality": Classifier(
        -1.9,
        {
            "soft": 3.1,
            "blown up": 1.6,
            "unnatural": 1.6,
            "blocky": 2.5,
            "noisy": 3.0,
            "dark": 2.5,
            "bright": 2.5,
            "shaken": 2.5,
        },
    ),
    "label_lecture": Classifier(-2.5, {"talking head": 4.5, "face on a drawing": 4.3}),
    "label_text_dominated": Classifier(-2.9, {"text": 5.1, "lines of text": 1.7}),
    "label_screenshot": Classifier(
        -2.2, {"lines about text": 4.5, "few colours": 1.5, "drawn text": 0.8, "lines of text": 1.4}
    ),
}


def label_columns(source: str) -> tuple[Column, ...]:
    """The six columns, whoever fills them in: a language model that looks at clips writes the same ones."""
    return tuple(
        Column(name, pa.float32(), "0-1", doc, source, temporal=name in TEMPORAL) for name, doc in LABELS.items()
    )


class Labels(PictureScorer):
    """Six classifiers over other columns and some pictures; to be listed last. A column that is missing or null counts
    as no evidence, so labels without `text`, `faces` and `brisque` find less."""

    kind: Literal["labels"] = "labels"
    pictures: int = Field(default=6, ge=1, le=64, description="pictures of a clip that are looked at, evenly spaced")

    def columns(self) -> tuple[Column, ...]:
        return label_columns("logistic regression over named signals (curation/scorers/labels.py)")

    def setup(self) -> Look:
        return lambda views: [_score(view) for view in views]


def _score(view: ClipView) -> dict[str, Any]:
    shown = [picture.rgb for picture in view.pictures if picture.rgb.shape == view.pictures[0].rgb.shape]
    return classify(view.row, signals(view.row, graphics(shown)), several=len(shown) > 1)


def classify(row: Mapping[str, Any], evidence: Mapping[str, float], several: bool) -> dict[str, float | None]:
    """The labels of a row of the clips table and its signals; `several`: they come from more than one picture."""
    found: dict[str, float | None] = {}
    for label, (bias, weights) in CLASSIFIERS.items():
        needs = NEEDS.get(label)
        unknown = needs is not None and all(row.get(name) is None for name in needs)
        if unknown or (label in TEMPORAL and not several):
            found[label] = None
        else:
            found[label] = 1 / (1 + math.exp(-bias - sum(weight * evidence[name] for name, weight in weights.items())))
    return found


def signals(row: Mapping[str, Any], seen: Graphics) -> dict[str, float]:
    """What the classifiers weigh, each from 0, no evidence, to 1, plain. Bounds are in the units of the columns."""

    def column(name: str, none: float, full: float) -> float:
        return _ramp(row.get(name), none, full)

    text = column("text_area", 0.02, 0.12)
    drawn = _ramp(seen.palette, 0.4, 0.8)
    not_text = 1 - column("text_area", 0.01, 0.05)
    blocky = column("blockiness", 0.2, 0.45)
    sharpness = row.get("sharpness")
    octaves = None if sharpness is None else -math.log2(max(sharpness, 0.1))
    faces = row.get("faces")
    return {
        "seam": _ramp(seen.seam, 0.3, 0.8),
        "pair of seams": _ramp(seen.pair, 0.1, 0.5),
        "soft sides": _ramp(seen.soft_pair, 0.1, 0.5),
        "corners": _ramp(seen.corners, 0, 3),
        "overlay": column("overlay_text", 0.01, 0.05),
        "jump": _ramp(seen.jump, 0.35, 0.9),
        "frozen": column("freeze", 0.15, 0.6),
        "soft": _ramp(octaves, -math.log2(12), -2),
        "blown up": _ramp(seen.detail and -seen.detail, -0.5, -0.4) * _ramp(octaves, -4, -3),
        "unnatural": column("brisque", 50, 75) * (1 - drawn) * not_text,
        "blocky": blocky,
        "noisy": _ramp(seen.noise, 1, 5) * (1 - drawn) * not_text,
        "dark": column("exposure", 0.2, 0.07) * not_text,
        "bright": max(column("exposure", 0.84, 0.96), column("exposure_clipped", 0.2, 0.6)) * not_text,
        "shaken": column("camera_shake", 4, 12) * not_text,
        "talking head": column("talking_head", 0, 1),
        "face on a drawing": drawn * column("face_area", 0.002, 0.01) * (faces is not None and 0.4 <= faces <= 1.4),
        "text": text,
        "lines of text": column("text_lines", 2, 8),
        "lines about text": _ramp(seen.lines, 1, 5) * (1 - blocky) * max(drawn, column("text_lines", 0, 1.5)),
        "few colours": drawn,
        "flat": _ramp(seen.flat, 0.3, 0.7),
        "drawn text": drawn * text,
    }


def _ramp(value: float | None, none: float, full: float) -> float:
    """0 at `none` and before, 1 at `full` and beyond; 0 of what was not measured."""
    return 0.0 if value is None or math.isnan(value) else float(np.clip((value - none) / (full - none), 0, 1))
