"""What a run of `rushes train-vae` left in its output folder. Every file may be missing, half-written or damaged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestration.storage import Storage
from train.vae.config import StageConfig


class Scores(BaseModel):
    """Means over a video's windows. psnr, flicker: dB; flicker is the PSNR of frame differences."""

    psnr: float
    ssim: float
    flicker: float


class Pictures(BaseModel):
    """The middle frame of a window and what the two made of it: names in `pictures/`; dB of the whole window."""

    source: str
    pca: str
    vae: str
    pca_psnr: float
    vae_psnr: float


class Video(BaseModel):
    name: str
    windows: int
    frames: int  # of a window
    height: int
    width: int
    vae: Scores
    pca: Scores
    pca_own: Scores | None = None  # fitted on the very frames that are tested
    pictures: tuple[Pictures, ...] = ()


class Latents(BaseModel):
    """Moments of each channel over all windows, after the scaling factor."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scaling_factor: float = 1.0
    windows: int = 0

    @property
    def rows(self) -> list[tuple[float, float]]:
        """(mean, standard deviation) of each channel."""
        return list(zip(self.mean, self.std, strict=False))


class Quality(BaseModel):
    """quality.json."""

    step: int
    trained_s: float
    machine: str
    parameters: int
    bytes: int  # of the file of weights
    videos: tuple[Video, ...]
    latents: Latents
    interpolations: tuple[tuple[str, ...], ...] = ()  # names in `pictures/`


@dataclass
class Survey:
    """steps: what was logged, by step, in order. stages: of the configuration. damaged: what cannot be read."""

    config: str = ""
    stages: tuple[StageConfig, ...] = ()
    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    quality: Quality | None = None
    damaged: list[str] = field(default_factory=list)


def survey_run(output: Storage) -> Survey:
    survey = Survey(config=read_text(output, "config.yaml"))
    try:
        found = yaml.safe_load(survey.config) or {"stages": ()}
        survey.stages = TypeAdapter(tuple[StageConfig, ...]).validate_python(found["stages"])
    except (yaml.YAMLError, ValueError, KeyError, TypeError):
        survey.damaged.append("config.yaml is damaged or cut off: what the stages are is not known.")
    survey.steps, unread = logged(read_text(output, "metrics.jsonl"))
    if unread:
        survey.damaged.append(f"metrics.jsonl is damaged: {unread} of its lines cannot be read.")
    if text := read_text(output, "quality.json"):
        try:
            survey.quality = Quality.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            survey.damaged.append(f"quality.json is damaged or cut off: {where + ': ' if where else ''}{first['msg']}.")
    return survey


def read_text(output: Storage, name: str) -> str:
    """Empty where there is none."""
    try:
        return output.read_bytes(name).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def logged(text: str) -> tuple[dict[int, dict[str, float]], int]:
    """What was logged, by step, and how many lines cannot be read; the last may still be in work.

    A run that went on from a checkpoint logs steps again: the later line counts.
    """
    steps: dict[int, dict[str, float]] = {}
    lines = text.split("\n")
    unread = 0
    for line in filter(str.strip, lines):
        try:
            found = json.loads(line)
            values = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
            step = int(values["step"])
        except (ValueError, KeyError, AttributeError, ArithmeticError):
            unread += line is not lines[-1]
            continue
        steps[step] = steps.get(step, {}) | values
    return dict(sorted(steps.items())), unread
