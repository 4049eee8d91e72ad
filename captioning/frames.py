"""Which frames of a clip a model is shown, and how large: arithmetic on the clip's row, nothing is opened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from captioning.job import FramePlan, Row
from curation import read
from orchestration.config import Config

COLUMNS = (*read.FIELDS, "start_s", "end_s", "fps", "image")  # of a clip's row, joined with its video's

ROUNDING = 1e-6  # of a step, so that a duration of 1.0000000000000002 s has as many steps as one of 1 s


class FramesConfig(Config):
    """Which frames of a clip are shown to a model. Each is a cost: visual tokens are most of a prompt."""

    # fps: the frame nearest to each step of 1/fps seconds. uniform: `count` frames from first to last. keyframes: those
    # that the codec stored whole, which cost least to decode.
    policy: Literal["fps", "uniform", "keyframes"] = "fps"
    fps: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    max: int = Field(default=16, ge=1)  # frames of a clip; of a longer one evenly spaced ones (fps, keyframes)
    count: int = Field(default=8, ge=1)  # uniform; of a shorter clip all frames
    pixels: int = Field(default=200_704, ge=784)  # height * width of a frame at most; none is made larger


def plan_frames(row: Row, config: FramesConfig) -> FramePlan:
    """The frames of a clips row joined with its video's columns (COLUMNS). Raises ValueError where it is no clip's."""
    try:
        length = _length(row)
        size = fitted(*read.shown_size(row), config.pixels)
        duration = _duration(row, length) if length > 1 else 0.0
        indices = _chosen(length, duration, config)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"clip {row.get('clip_id')}: its row says nothing usable of its frames: {error}") from error
    keyframes = config.policy == "keyframes" and length > 1
    return FramePlan(indices, _seconds(indices, length, duration), size, keyframes)


def seconds_of(row: Row, indices: Sequence[int]) -> tuple[float, ...]:
    """When frames of a clip are shown, in seconds from its start, as if all lasted equally long."""
    length = _length(row)
    return _seconds(indices, length, _duration(row, length) if length > 1 else 0.0)


def fitted(height: float, width: float, pixels: int) -> tuple[int, int]:
    """The largest (height, width) of about the same shape with even sides and at most `pixels`; none larger than given.

    Of the even sizes beside the exact one that with the nearest shape. A side is 2 at least.
    """
    scale = min(1.0, math.sqrt(pixels / (height * width)))
    low, wide = (max(2, 2 * math.floor(side * scale / 2)) for side in (height, width))
    sizes = [
        (h, w)
        for h in (low, low + 2)
        for w in (wide, wide + 2)
        if h * w <= pixels and h <= max(2, height) and w <= max(2, width)
    ]
    if not sizes:  # one side is as short as it may be
        return min(low, _even(pixels / min(low, wide))), min(wide, _even(pixels / min(low, wide)))
    shape = math.log(height / width)
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - shape), -size[0] * size[1]))


def _even(side: float) -> int:
    return max(2, 2 * math.floor(side / 2))


def _length(row: Row) -> int:
    """Frames of the clip."""
    length = 1 if row.get("image") else int(row["end_frame"]) - int(row["start_frame"])
    if length < 1:
        raise ValueError(f"frames {row['start_frame']} to {row['end_frame']}")
    return length


def _duration(row: Row, length: int) -> float:
    """Seconds; where start and end do not tell, by the frame rate."""
    start, end, fps = (_number(row.get(name)) for name in ("start_s", "end_s", "fps"))
    if math.isfinite(end - start) and end > start:
        return end - start
    if fps > 0 and math.isfinite(length / fps):
        return length / fps
    raise ValueError(
        f"neither start_s and end_s ({row.get('start_s')}, {row.get('end_s')}) nor fps tell how long it is"
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _chosen(length: int, duration: float, config: FramesConfig) -> tuple[int, ...]:
    if config.policy == "uniform":
        return tuple(read.choose_frames(length, min(config.count, length)))
    steps = max(1, math.ceil(min(duration * config.fps, length) - ROUNDING))
    if config.policy == "keyframes" or steps >= length:
        return tuple(read.choose_frames(length, min(config.max, length)))
    shown = read.choose_frames(steps, min(config.max, steps))
    frames = (math.floor(step / config.fps / duration * length + 0.5) for step in shown)
    return tuple(dict.fromkeys(min(frame, length - 1) for frame in frames))


def _seconds(indices: Sequence[int], length: int, duration: float) -> tuple[float, ...]:
    return tuple(index / length * duration for index in indices)
