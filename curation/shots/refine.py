"""From what a detector reported and the thumbnails to frame-exact shots: verify, complete, stitch, split."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from pydantic import Field, model_validator

from curation.shots import transitions as physics
from curation.shots.likeness import BAND, Likeness
from curation.shots.thumbs import Thumbs
from curation.video import Meter, ShotDetector, Span, Tracks, VideoInfo

# How long something may interrupt a shot (a flash, a strobe, a passing bus) without ending it.
_INTERRUPTION_S = 0.5


class RefinedDetector(ShotDetector):
    """A detector whose cuts are checked and completed against thumbnails. Subclasses report `cuts`."""

    max_s: float | None = Field(default=10.0, gt=0)  # longer shots are split into equal parts; null: never split
    min_s: float = Field(default=2.0, ge=0)  # splitting makes no shorter parts; the selection may drop shorter shots
    transitions: bool = True  # search dissolves, fades, blends and wipes; their frames belong to no shot
    stitch: bool = True  # join neighbours whose ends look alike (flashes, inserted frames, strobes, exposure jumps)

    @model_validator(mode="after")
    def _lengths(self) -> RefinedDetector:
        if self.max_s is not None and self.max_s < 2 * self.min_s:
            raise ValueError(
                f"max_s ({self.max_s:g}) must be at least twice min_s ({self.min_s:g}), else halves are short"
            )
        return self

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        return {"thumbs": Thumbs()}

    def cuts(self, tracks: Tracks) -> list[Span]:
        """What the detector saw: spans of frames that mix two shots; a hard cut is an empty one at its new frame."""
        raise NotImplementedError

    def shots(self, tracks: Tracks) -> list[Span]:
        """Disjoint ascending spans of at most `max_s` seconds; frames of transitions are in none."""
        thumbs = tracks.meters["thumbs"]["rgb"]
        gaps = find_gaps(thumbs, tracks.info.fps, self.cuts(tracks), self.transitions, self.stitch)
        return [part for span in between(gaps, len(thumbs)) for part in split(span, tracks, self.max_s)]


def find_gaps(
    thumbs: np.ndarray, fps: float, reported: list[Span], transitions: bool = True, stitch: bool = True
) -> list[Span]:
    """Transitions of a video, disjoint and ascending; a hard cut is an empty span.

    Args:
        thumbs: [N, 27, 48, 3] uint8 RGB.
        fps: average rate; at high rates long transitions are searched on every second (third, ...) frame.
        reported: what a detector saw, see `RefinedDetector.cuts`.
    """
    if len(thumbs) < 2:
        return []
    like = Likeness(thumbs)
    gaps = _verified(like, reported)
    if transitions:
        gaps += physics.find_cuts(like) + physics.find_fades(like) + physics.find_blends(like, thumbs)
        wipes = physics.find_wipes(like, thumbs)
        step = round(fps / 30)
        if step > 1:
            sparse = thumbs[::step]
            coarse = Likeness(sparse)
            gaps += [_dense(gap, step, len(thumbs)) for gap in physics.find_blends(coarse, sparse) if _is_long(gap)]
            wipes += [_dense(gap, step, len(thumbs)) for gap in physics.find_wipes(coarse, sparse) if _is_long(gap)]
        # Somebody who walks into the lens before a cut looks like a wipe; a wipe has no cut within.
        cuts = [gap.start for gap in gaps if gap.start == gap.end]
        gaps += [wipe for wipe in wipes if not any(wipe.start < cut < wipe.end for cut in cuts)]
    if stitch:
        patience = min(max(2, round(_INTERRUPTION_S * fps)), BAND // 2)
        gaps = [gap for gap in gaps if not _returns(like, gap, patience)]
    return _merge([_over_blank(like, gap) for gap in gaps])


def _is_long(gap: Span) -> bool:
    """Short blends were sought in all frames."""
    return gap.end - gap.start > 2


def _dense(gap: Span, step: int, frames: int) -> Span:
    """A transition found in every `step`-th frame."""
    return Span((gap.start - 1) * step + 1, min(gap.end * step, frames))


def between(gaps: list[Span], frames: int) -> list[Span]:
    """The shots that remain between transitions."""
    edges = [0, *(edge for gap in gaps for edge in gap), frames]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [Span(start, end) for start, end in pairs if end > start]


def split(span: Span, tracks: Tracks, max_s: float | None) -> list[Span]:
    """Cut a shot into the fewest parts of nearly equal duration that last at most `max_s`, by the frames' real times.

    Only a single frame that is itself shown for longer than `max_s` makes a longer part.
    """
    start, end = tracks.seconds(span)
    if max_s is None or end - start <= max_s:
        return [span]
    times = np.append(tracks.times[span.start : span.end], end)
    for count in range(math.ceil((end - start) / max_s), span.end - span.start + 1):
        marks = np.linspace(start, end, count + 1)
        edges = np.unique(np.searchsorted(times, marks[1:-1] - 1e-9))
        edges = np.concatenate(([0], edges[(edges > 0) & (edges < len(times) - 1)], [len(times) - 1]))
        if np.all((np.diff(times[edges]) <= max_s + 1e-6) | (np.diff(edges) == 1)):
            return [Span(span.start + a, span.start + b) for a, b in pairwise(edges.tolist())]
    return [Span(k, k + 1) for k in range(span.start, span.end)]


def _verified(like: Likeness, reported: list[Span]) -> list[Span]:
    """Reported hard cuts must be spikes; a reported gradual transition is taken at its word."""
    inside = [Span(max(0, gap.start), min(gap.end, like.frames)) for gap in reported if 0 < gap.end < like.frames]
    hard = np.array([gap.start for gap in inside if gap.start == gap.end], int)
    steps = hard[physics.is_step(like, hard, own=False)]
    return [gap for gap in inside if gap.end > gap.start] + [Span(int(c), int(c)) for c in steps]


def _returns(like: Likeness, gap: Span, patience: int) -> bool:
    """Whether the picture before a gap is seen again soon after it: then nothing was cut."""
    reach = min(gap.end - gap.start + patience, BAND)
    before = np.arange(max(0, gap.start - patience), gap.start)
    after = np.arange(gap.end, min(gap.end + patience, like.frames))
    if not len(before) or not len(after):
        return False
    i, j = (axis.ravel() for axis in np.meshgrid(before, after, indexing="ij"))
    near = j - i <= reach
    i, lag = i[near], (j - i)[near]
    if not len(i):
        return False
    outside = like.change(gap.start - 1, min(gap.end - gap.start + 1, BAND))
    change, structure = like.change(i, lag), like.structure(i, lag)
    same = (structure > 0.6) | (change < min(0.1 * outside, 150.0))
    # Under a moving camera nothing looks quite the same again; an excursion is then far from both its ends.
    last = gap.start - 1
    excursion = np.max(like.change(last, np.arange(1, min(reach, like.frames - 1 - last) + 1)))
    return bool((same | ((change < 0.25 * excursion) & (structure > 0.25))).any())


def _over_blank(like: Likeness, gap: Span) -> Span:
    """Black held between a fade-out and the next picture belongs to the fade."""
    start, end = gap
    if end > start:
        while start > 0 and physics.is_blank(like, start - 1):
            start -= 1
        while end < like.frames and physics.is_blank(like, end):
            end += 1
    return Span(start, end)


def _merge(gaps: list[Span]) -> list[Span]:
    """One gap where several overlap or all but touch: two finders saw the same transition."""
    merged: list[Span] = []
    for gap in sorted(gaps):
        if merged and gap.start <= merged[-1].end + 2:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, gap.end))
        else:
            merged.append(gap)
    return merged
