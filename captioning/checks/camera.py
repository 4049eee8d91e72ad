"""A caption's words on the camera against what curation/scorers/camera_motion.py measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from captioning.checks.flag import Flag
from captioning.checks.words import brief, sentences, unquoted
from orchestration.config import Config

_LY = r"(?:\s+\w+ly)?"
_TURNS = rf"""\bpan(?:s|ning|ned)?{_LY}\s+(?:to(?:wards?)?\s+the\s+)?SIDE
    | \bcamera{_LY}\s+(?:moves?|moving|sweeps?|swings?|turns?|slides?|travels?){_LY}\s+(?:to\s+the\s+)?SIDE
    | \bSIDE(?:ward)?\s+pan\b"""
_TILTS = rf"""\b(?:camera|shot|view)[^.;]{{0,40}}\btilt(?:s|ing|ed)?{_LY}\s+SIDE
    | \bSIDEward\s+tilt\b | \btilt\s+SIDE(?:ward)?\b"""
_STILL = r"(?:static|still|stationary|fixed|motionless|steady|in\s+place|unmoving)"
# What is said: the label that it names, the sign of its column (0: none), how it is said.
_CLAIMS = {
    "pan left": ("pan", -1, _TURNS.replace("SIDE", "left")),
    "pan right": ("pan", 1, _TURNS.replace("SIDE", "right")),
    "pan": (
        "pan",
        0,
        r"""\bcamera(?:\s+\w+ly)?\s+pan(?:s|ning)?\b | \b(?:shot|view|frame|footage|perspective)\s+(?:\w+\s+)?pans\b
        | \b(?:slow|quick|fast|gentle|smooth)\s+pan\b""",
    ),
    "tilt up": ("tilt", 1, _TILTS.replace("SIDE", "up")),
    "tilt down": ("tilt", -1, _TILTS.replace("SIDE", "down")),
    "zoom in": (
        "zoom",
        1,
        rf"""\bzoom(?:s|ing|ed)?{_LY}[\s-]in\b | \bpush(?:es|ing)?{_LY}[\s-]in\b | \bdoll(?:y|ies)\s+in\b
        | \bcamera{_LY}\s+moves?{_LY}\s+(?:closer|forward)""",
    ),
    "zoom out": (
        "zoom",
        -1,
        rf"""\bzoom(?:s|ing|ed)?{_LY}[\s-]out\b | \bdoll(?:y|ies)\s+out\b
        | \bpull(?:s|ing)?{_LY}\s+(?:back|out)\s+(?:to\s+reveal|from)
        | \bcamera{_LY}\s+(?:pulls?|moves?){_LY}\s+(?:back|away|backwards?)""",
    ),
    "static": (
        "static",
        0,
        rf"""\b(?:static|stationary|fixed|motionless|immobile|locked-off|locked-down)\s+(?:\w+\s+)?
            (?:camera|shot|view|frame|angle)\b
        | \b(?:camera|shot)\s+(?:is|remains|stays|stands|holds|kept|keeps)\s+(?:\w+ly\s+|perfectly\s+)?{_STILL}\b
        | \bcamera\s+fixed\b | \bcamera\s+(?:does\s+not|doesn['’]t)\s+move\b""",
    ),
}
_PATTERNS = {said: re.compile(pattern, re.I | re.X) for said, (_, _, pattern) in _CLAIMS.items()}
_OPPOSITE = {"pan left": "pan right", "tilt up": "tilt down", "zoom in": "zoom out"}
_OPPOSITE |= {b: a for a, b in _OPPOSITE.items()}
_UNITS = {"pan": "% of width / s", "tilt": "% of height / s", "zoom": "% / s"}


class CameraConfig(Config):
    confidence: float = Field(
        default=0.85,
        ge=0,
        le=1,
        description="`camera_confidence` from which a measured label counts; the measured wrong ones reach 0.81",
    )
    speed: float = Field(default=1.0, ge=0, description="% / s; a direction counts from this mean speed")


def camera(text: str, row: Mapping[str, Any], config: CameraConfig) -> list[Flag]:
    """Flags `camera`. Only two things contradict: standing still against moving, and a direction against its opposite
    where that is what was measured. Nothing measured, or no trust in it, contradicts nothing."""
    label, confidence = row.get("camera_motion"), row.get("camera_confidence")
    if not isinstance(label, str) or confidence is None or not confidence >= config.confidence:
        return []
    said = claims(text)
    for name, words in said.items():
        claimed, sign, _ = _CLAIMS[name]
        speed = row.get(f"camera_{label}")
        if claimed == "static":
            # A caption that also tells of a move says that the camera rests for a while.
            wrong = label != "static" and len(said) == 1
        elif label == "static":
            wrong = True
        else:
            turned = isinstance(speed, int | float) and speed * sign <= -config.speed
            wrong = claimed == label and turned and _OPPOSITE.get(name) not in said
        if wrong:
            shown = f" {speed:+.1f} {_UNITS[label]}" if label in _UNITS and isinstance(speed, int | float) else ""
            why = f"says '{brief(words)}' ({name}), measured {label}{shown} with confidence {confidence:.2f}"
            return [Flag("camera", why)]
    return []


def claims(text: str) -> dict[str, str]:
    """What is said of the camera (`pan left`, `static`, ...) and in which words. `pan` without a direction only where
    none has one."""
    found: dict[str, str] = {}
    for sentence in sentences(unquoted(text)):
        for said, pattern in _PATTERNS.items():
            if said not in found and (match := pattern.search(sentence)):
                found[said] = match.group()
    if {"pan left", "pan right"} & found.keys():
        found.pop("pan", None)
    return found
