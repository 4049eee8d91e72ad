"""Buckets: the shapes that samples are made in, and which windows of a clip go into which. Arithmetic, no pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from latents.windows import Facts, Row, covered, facts_of, starts, steps
from orchestration.config import Config

GROUP = 8  # the VAE takes one frame and then groups of so many
ROUNDING = 1e-6  # of a size, so that 1023.9999999 columns fill 1024

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, order=True)
class Bucket:
    """A sample's shape in frames and pixels. Raises ValueError for one that the VAE cannot take."""

    frames: int
    height: int
    width: int

    def __post_init__(self):
        if min(self.frames, self.height, self.width) < 1:
            raise ValueError(f"bucket {self.name}: frames, height and width are 1 at least")
        if (self.frames - 1) % GROUP:
            below = (self.frames - 1) // GROUP * GROUP + 1
            raise ValueError(f"bucket {self.name}: the VAE takes 8N+1 frames, so {below} or {below + GROUP}")

    @property
    def name(self) -> str:
        """As in names of folders: 17x256x384."""
        return f"{self.frames}x{self.height}x{self.width}"

    @property
    def area(self) -> int:
        return self.height * self.width

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), as read_clip takes it."""
        return self.height, self.width

    def check(self, multiple: int) -> None:
        """Raises ValueError where a side is no multiple."""
        for name, side in (("height", self.height), ("width", self.width)):
            if side % multiple:
                below = side // multiple * multiple
                near = f"{below} or {below + multiple}" if below else str(multiple)
                raise ValueError(f"bucket {self.name}: {name} {side} is no multiple of {multiple}; {near} is")


class BucketsConfig(Config):
    """The buckets, and how clips are laid into them."""

    # [[frames, height, width], ...]. null: found from the clips, see the next four.
    table: tuple[tuple[int, int, int], ...] | None = None
    areas: tuple[int, ...] = (98_304,)  # height * width of a bucket at most (98304: 256 * 384)
    frames: tuple[int, ...] = (17, 33, 49)  # 8N+1; 1 is for pictures
    shapes: int = Field(default=5, ge=1, le=64)  # different (height, width) an area, at most
    multiple: int = Field(default=16, ge=1)  # of height and width: 8 of the VAE times 2 of the transformer's patches
    max_upscale: float = Field(default=1.0, gt=0, le=16)  # enlarged by more than this: too small
    fps: tuple[Rate, ...] | None = None  # of samples; of several the highest that fits. null: the clip's own
    windows: Annotated[int, Field(ge=1)] | Literal["all"] = 1  # of a clip, evenly spaced; one is in the middle
    stride: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # s between windows; null: side by side
    stills_from_video: bool = False  # videos that fit nowhere else give their middle frame to buckets of one frame
    prefer_larger: float = Field(default=0.05, ge=0, le=1)  # what a sample of twice as many pixels may waste more

    @field_validator("fps", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return value if value is None or isinstance(value, list | tuple) else (value,)

    @field_validator("fps")
    @classmethod
    def _descending(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value == ():
            raise ValueError("give at least one rate, or null for the clip's own")
        return None if value is None else tuple(sorted(set(value), reverse=True))

    @model_validator(mode="after")
    def _sound(self) -> BucketsConfig:
        given = sorted({"areas", "frames", "shapes"} & self.model_fields_set)
        if self.table is not None and given:
            raise ValueError(f"table says all of the buckets; leave {', '.join(given)} out, or table")
        if self.table is not None and not self.table:
            raise ValueError("table is empty; give [[frames, height, width], ...], or null for buckets from the data")
        for bucket in self.buckets or ():
            bucket.check(self.multiple)
        if self.table is not None and len(set(self.table)) < len(self.table):
            raise ValueError("table names a bucket twice")
        if not (self.areas and self.frames):
            raise ValueError("areas and frames need a value each")
        for count in self.frames:
            Bucket(count, self.multiple, self.multiple)
        if min(self.areas) < self.multiple**2:
            raise ValueError(f"an area of {min(self.areas)} holds no {self.multiple} x {self.multiple} pixels")
        return self

    @property
    def buckets(self) -> tuple[Bucket, ...] | None:
        """Those of the table, sorted; None where they have to be derived."""
        return None if self.table is None else tuple(sorted(Bucket(*row) for row in self.table))


@dataclass(frozen=True)
class Window:
    """A sample to be made: read_clip(row, frames, bucket.size) are its pictures."""

    number: int  # from 0, by time
    bucket: Bucket
    frames: tuple[int, ...]  # numbers within the clip, ascending
    seconds: float  # when the first is shown, from the clip's start
    fps: float | None  # of the sample; None of a single frame
    kept: float  # share of the picture that the crop leaves
    scale: float  # its pixels are so many times as wide as the clip's; above 1 it is enlarged
    waste: float  # of the whole clip in this bucket, see `waste`

    def key(self, clip_id: str) -> str:
        return f"{clip_id}-w{self.number}"


class _Times(NamedTuple):
    """When windows of so many frames lie in a clip."""

    pattern: tuple[int, ...]  # frames of a window that begins at 0
    begins: list[int]
    shown: float  # share of the clip's time


class _Place(NamedTuple):
    """A clip in a bucket."""

    bucket: Bucket
    kept: float
    scale: float
    waste: float


def fill(facts: Facts, height: int, width: int) -> tuple[float, float]:
    """(scale, share of the picture that is left) where a clip is scaled to cover a size and cut around the centre."""
    scale = max(height / facts.height, width / facts.width)
    return scale, min(1.0, height / (facts.height * scale)) * min(1.0, width / (facts.width * scale))


def waste(kept: float, shown: float, scale: float) -> float:
    """0 to 2: the share of a clip's picture x time that no sample shows, and the share of pixels that is made up.

    `kept`: share of the picture, `shown`: of the time. Enlarged by `scale` > 1, 1 - 1/scale² of the pixels say nothing.
    """
    return 1 - kept * shown + (1 - 1 / scale**2 if scale > 1 else 0.0)


def assign(row: Row, buckets: Sequence[Bucket], config: BucketsConfig) -> list[Window] | str:
    """The windows of a clip, all in the bucket where it wastes least; or why there are none, in words.

    `row`: of the clips table, joined with its video's (windows.COLUMNS). Never raises, whatever the row holds. A bucket
    of twice as many pixels (frames x height x width) may waste `prefer_larger` more; of equal ones the larger is taken.
    """
    try:
        facts = facts_of(row)
    except ValueError as error:
        return str(error)
    single = [bucket for bucket in buckets if bucket.frames == 1]
    if facts.fps is None:
        return _still(facts, single, config) if single else "a picture: no bucket has one frame"
    found = _moving(facts, [bucket for bucket in buckets if bucket.frames > 1], config)
    if isinstance(found, str) and single and config.stills_from_video:
        still = _still(facts, single, config)
        return found if isinstance(still, str) else still
    return found


def _still(facts: Facts, buckets: Iterable[Bucket], config: BucketsConfig) -> list[Window] | str:
    times = {1: _Times((0,), starts(facts.length, 1, 1), 1 / facts.length)}
    return _best(facts, buckets, times, None, config) or _too_small(facts, buckets)


def _moving(facts: Facts, buckets: Sequence[Bucket], config: BucketsConfig) -> list[Window] | str:
    if not buckets:
        return "a video: all buckets have one frame"
    assert facts.fps is not None
    most, counts = None if config.windows == "all" else config.windows, {bucket.frames for bucket in buckets}
    stride = None if config.stride is None else config.stride * facts.fps
    long_enough: list[Bucket] = []
    for fps in config.fps or (facts.fps,):
        times = {}
        for count in counts:
            pattern = steps(facts.fps, fps, count)
            begins = starts(facts.length, pattern[-1] + 1, most, stride) if pattern else []
            if pattern and begins:
                times[count] = _Times(pattern, begins, covered(begins, count * facts.fps / fps, facts.length))
        found = _best(facts, buckets, times, fps, config)
        if found:
            return found
        long_enough = long_enough or [bucket for bucket in buckets if bucket.frames in times]
    return _too_small(facts, long_enough) if long_enough else _too_short(facts, min(counts), config)


def _best(
    facts: Facts,
    buckets: Iterable[Bucket],
    times: dict[int, _Times],
    fps: float | None,
    config: BucketsConfig,
) -> list[Window] | None:
    """The windows in the best bucket; None where the clip fills none. `times`: by the numbers of frames that it has."""
    places = []
    for bucket in buckets:
        if bucket.frames in times:
            scale, kept = fill(facts, bucket.height, bucket.width)
            if scale <= config.max_upscale * (1 + ROUNDING):
                places.append(_Place(bucket, kept, scale, waste(kept, times[bucket.frames].shown, scale)))
    if not places:
        return None
    place = min(places, key=lambda place: _preference(place, config))
    pattern, begins, _ = times[place.bucket.frames]
    return [
        Window(
            number,
            place.bucket,
            tuple(begin + step for step in pattern),
            begin / facts.fps if facts.fps else 0.0,
            fps,
            place.kept,
            place.scale,
            place.waste,
        )
        for number, begin in enumerate(begins)
    ]


def _preference(place: _Place, config: BucketsConfig) -> tuple[float, int, Bucket]:
    """What the best place has least of."""
    pixels = place.bucket.frames * place.bucket.area
    # Rounded, so that the last bits of a float do not decide between equals.
    return round(place.waste - config.prefer_larger * math.log2(pixels), 9), -pixels, place.bucket


def _too_small(facts: Facts, buckets: Iterable[Bucket]) -> str:
    scale, bucket = min((fill(facts, bucket.height, bucket.width)[0], bucket) for bucket in buckets)
    return (
        f"too small: {facts.height:.0f} x {facts.width:.0f} pixels (height x width), to fill the nearest bucket, "
        f"{bucket.name}, they would be enlarged {scale:.3g} times"
    )


def _too_short(facts: Facts, fewest: int, config: BucketsConfig) -> str:
    assert facts.fps is not None
    lowest = min(config.fps or (facts.fps,))
    if steps(facts.fps, lowest, fewest) is None:
        return f"too slow: {facts.fps:.4g} fps, and {lowest:.4g} are wanted without showing a frame twice"
    there = f"{facts.length} frames at {facts.fps:.4g} fps"
    if config.fps:
        there += f", {max(1, math.floor(facts.length * lowest / facts.fps))} at {lowest:.4g} fps"
    return f"too short: {there}, the shortest bucket needs {fewest}"
