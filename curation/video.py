"""The nouns of curation: what a decoded video, a frame of it and a span of frames are, and what may watch them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from orchestration.config import Config


class Span(NamedTuple):
    """Frames `[start, end)` by decoded-frame index."""

    start: int
    end: int


@dataclass(frozen=True)
class Column:
    """A documented column of the clips table."""

    name: str
    type: pa.DataType
    unit: str
    doc: str
    source: str = ""
    temporal: bool = False  # needs more than one picture: says nothing of a still one, and no rule on it drops one


BOXES = pa.list_(pa.struct([*((side, pa.float32()) for side in "xywh"), ("kind", pa.string())]))
"""Boxes in the picture that is a clip's thumbnail: left, top, width and height as shares of the picture."""


@dataclass(frozen=True)
class VideoInfo:
    """What the container and the first frame say of a video stream."""

    codec: str
    container: str
    width: int  # coded pixels, before rotation and pixel aspect
    height: int
    fps: float  # average, 0 of a picture; real times are in `Tracks.times`
    rotation: int  # degrees clockwise to turn the picture for display: 0, 90, 180, 270
    pixel_aspect: float  # width of a pixel / its height
    pix_fmt: str
    bits: int
    full_range: bool
    interlaced: bool
    hdr: str  # "", "pq" or "hlg"
    matrix: str = "601"  # YUV to RGB: "601", "709" or "2020" (ITU-R BT.)


@dataclass
class Frame:
    """One decoded picture. Smaller views are made once, when first asked for."""

    index: int  # decoded-frame index
    time: float  # seconds since the first frame
    planes: tuple[np.ndarray, np.ndarray, np.ndarray]  # Y [H, W], U and V [H/sy, W/sx], uint8, coded orientation
    info: VideoInfo
    interlaced: bool = False
    shared: dict[str, Any] = field(default_factory=dict)  # what one meter worked out of the frame and others need, too

    @property
    def luma(self) -> np.ndarray:
        """[H, W] uint8 at coded size and orientation."""
        return self.planes[0]

    @cached_property
    def medium_yuv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Y, U, V, each [h, w] uint8 as displayed upright; the longer side is in (256, 512] for larger videos."""
        return self._halved(self.planes, 512)

    @cached_property
    def small_yuv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Y, U, V, each [h, w] uint8 as displayed upright; the longer side is in (128, 256] for larger videos."""
        return self._halved(self.medium_yuv, 256, turn=False)

    @cached_property
    def small(self) -> np.ndarray:
        """[h, w] uint8 luma, see small_yuv."""
        return np.ascontiguousarray(self.small_yuv[0])

    @cached_property
    def small_bgr(self) -> np.ndarray:
        """[h, w, 3] uint8, see small_yuv."""
        return _bgr(self.small_yuv)

    @property
    def large_yuv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Y, U, V, each [h, w] uint8 as displayed upright; the longer side is in (512, 1024] for larger videos. Made
        anew each time: few frames are looked at so closely."""
        return self._halved(self.planes, 1024)

    @cached_property
    def thumb(self) -> np.ndarray:
        """[27, 48, 3] uint8 RGB, stretched to that shape (TransNetV2's input size)."""
        bgr = self.small_bgr
        while bgr.shape[1] >= 2 * 48 and bgr.shape[0] >= 2 * 27:  # the last step's cost grows with what is left to it
            bgr = halve(bgr)
        return cv2.cvtColor(cv2.resize(bgr, (48, 27), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)

    def _halved(
        self, planes: tuple[np.ndarray, np.ndarray, np.ndarray], longest: int, turn: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Planes at luma's size, halved until both sides are at most `longest`.

        Exact halving is OpenCV's fast path: any other ratio takes several times as long.
        """
        height, width = planes[0].shape
        halvings = 0
        while max(width, height) >> halvings > longest:
            halvings += 1
        size = (max(1, width >> halvings), max(1, height >> halvings))
        rotation = self.info.rotation if turn else 0
        y, u, v = (_upright(_shrink(plane, size), rotation) for plane in planes)
        return y, u, v


def halve(plane: np.ndarray) -> np.ndarray:
    """[H, W(, C)] at half size by 2 x 2 means, OpenCV's fast path; an odd last row or column is left out."""
    height, width = plane.shape[0] & ~1, plane.shape[1] & ~1
    return cv2.resize(plane[:height, :width], (width // 2, height // 2), interpolation=cv2.INTER_AREA)


def _shrink(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    while plane.shape[1] >= 2 * size[0] and plane.shape[0] >= 2 * size[1]:
        plane = halve(plane)
    if plane.shape[::-1] != size:
        plane = cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)
    return plane


def _bgr(yuv: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    y, u, v = yuv
    return cv2.cvtColor(cv2.merge([y, v, u]), cv2.COLOR_YCrCb2BGR)


def _upright(plane: np.ndarray, rotation: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(plane, k=-rotation // 90)) if rotation else plane


class Meter(Protocol):
    """Watches a video's frames once, in order, inside the guarded decoder, and leaves compact arrays."""

    def see(self, frame: Frame) -> None: ...

    def finish(self) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Tracks:
    """What one decode of a video left behind: times, damage and every meter's arrays."""

    info: VideoInfo
    times: np.ndarray  # [N] float64, seconds since the first frame
    end_time: float  # seconds at which the last frame ends
    damaged: np.ndarray  # [N] bool, frames that the decoder complained about
    meters: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        return len(self.times)

    def seconds(self, span: Span) -> tuple[float, float]:
        """Start and end of a span in seconds since the first frame."""
        end = self.times[span.end] if span.end < self.frames else self.end_time
        return float(self.times[span.start]), float(end)


def within(index: np.ndarray, span: Span) -> slice:
    """Where the ascending frame numbers `index` fall inside `span`."""
    start, end = np.searchsorted(index, (span.start, span.end))
    return slice(int(start), int(end))


class Scorer(Config):
    """A scorer is its own configuration. Subclasses add `kind: Literal["name"] = "name"` and their settings.

    `meters` run in the guarded decoder and see every frame of the video once; scorers that name the same meter share
    it. `score` turns what the meters left into columns for any span, later and without pixels. It returns None for a
    value that could not be measured, and never raises for odd content.
    """

    version: ClassVar[int] = 1  # raised where the same settings give other scores

    def columns(self) -> tuple[Column, ...]:
        raise NotImplementedError

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        raise NotImplementedError

    def score(self, tracks: Tracks, span: Span) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class Picture:
    """A sampled frame of a clip, as a person would see it."""

    index: int  # decoded-frame index
    time: float  # seconds since the video's first frame
    rgb: np.ndarray  # [H, W, 3] uint8, full range, upright, square pixels, no black bars; longer side at most 1024


@dataclass(frozen=True)
class ClipView:
    """A clip as picture scorers see it: some of its pictures, and what cheaper scorers have measured."""

    pictures: Sequence[Picture]  # in order of time; fewer than asked for where the clip is short, never none
    row: Mapping[str, Any]  # columns of the clips table so far, those of the scorers listed before included
    info: VideoInfo
    thumbnail: int | None = None  # which of the pictures is the clip's thumbnail; None: the one in the middle

    @property
    def middle(self) -> Picture:
        """The picture that boxes refer to: the clip's thumbnail."""
        return self.pictures[len(self.pictures) // 2 if self.thumbnail is None else self.thumbnail]


Look = Callable[[Sequence[ClipView]], list[dict[str, Any]]]
VECTOR = "vector"  # beside its columns a scorer may return this: float32 [D] of unit length, stored in embeddings/


class PictureScorer(Config):
    """Looks at a few pictures of a clip, outside of the decoder: for what needs a model or whole pictures.

    Like `Scorer` it is its own configuration. It runs after the scorers that look at every frame, in the order in which
    picture scorers are listed, and only on clips that the rules on what is measured so far keep (`score_all: true`: on
    all). `setup` is called once in a worker: there weights are loaded. It returns the function that scores clips, a
    batch at a time: one dict of all columns a clip, None where nothing could be measured; it never raises for odd
    pictures.
    """

    pictures: int = Field(default=3, ge=1, le=64, description="pictures of a clip that are looked at, evenly spaced")
    device: Literal["auto", "cpu", "cuda"] = "auto"

    version: ClassVar[int] = 1  # raised where the same settings give other scores

    def columns(self) -> tuple[Column, ...]:
        raise NotImplementedError

    def setup(self) -> Look:
        """Load weights. Raises RushesError where they cannot be had."""
        raise NotImplementedError

    def notice(self) -> str | None:
        """What a user has to know before the run starts. Raises ConfigError where the settings cannot work."""
        return None


class ShotDetector(Config):
    """A shot detector is its own configuration, like a scorer. `shots` returns disjoint ascending spans."""

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        raise NotImplementedError

    def shots(self, tracks: Tracks) -> list[Span]:
        raise NotImplementedError
