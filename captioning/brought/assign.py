"""Which clips of its video a caption is given to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from captioning.brought.match import Video
from captioning.brought.rows import Row, Span

WHOLE = 0.9  # of a video's frames: a clip with as many shows what a caption of the whole video says


@dataclass(frozen=True)
class Clip:
    """One clip of the dataset. Times in seconds from the video's first frame; frames by decoded-frame index."""

    clip_id: str
    start_s: float
    end_s: float
    start_frame: int
    end_frame: int

    def covers(self, video: Video) -> bool:
        """Whether it is (nearly) the whole video."""
        if video.frames:
            return self.end_frame - self.start_frame >= WHOLE * video.frames
        return bool(video.duration_s) and self.end_s - self.start_s >= WHOLE * video.duration_s

    def overlap(self, span: Span) -> float:
        """Intersection over union of their times, 0 to 1."""
        shared = min(self.end_s, span[1]) - max(self.start_s, span[0])
        union = max(self.end_s, span[1]) - min(self.start_s, span[0])
        return shared / union if shared > 0 else 0.0


def clips_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Clip]]:
    """video_id → its clips in order of time; from rows of the clips table."""
    found: dict[str, list[Clip]] = {}
    for row in rows:
        clip = Clip(row["clip_id"], row["start_s"], row["end_s"], row["start_frame"], row["end_frame"])
        found.setdefault(row["video_id"], []).append(clip)
    for clips in found.values():
        clips.sort(key=lambda clip: (clip.start_frame, clip.end_frame))
    return found


def assign(
    row: Row, clip_id: str, video: Video, clips: list[Clip], spread: bool, min_overlap: float
) -> tuple[list[tuple[str, str]], list[str]]:
    """((clip_id, text) pairs, why the row, or each of its time spans, has no clip).

    clip_id: the one clip that the row names, or "".
    """
    if clip_id:
        return [(clip_id, text) for text in row.texts], []
    if not clips:
        return [], ["its video has no clip in the dataset"]
    if not row.spans:
        takers = clips if spread else [clip for clip in clips if clip.covers(video)]
        if takers:
            return [(clip.clip_id, text) for text in row.texts for clip in takers], []
        why = f"it is of a whole video that was cut into {len(clips)} clips, see captions.spread"
        if len(clips) == 1:
            why = "it is of a whole video, the clip is only a part of it, see captions.spread"
        return [], [why]
    given, missed = [], []
    for span, text in zip(row.spans, row.texts, strict=True):
        best = max(clips, key=lambda clip: clip.overlap(span))
        overlap = best.overlap(span)
        if overlap >= min_overlap:
            given.append((best.clip_id, text))
        else:
            missed.append(
                f"{span[0]:.2f} to {span[1]:.2f} s: the best clip overlaps by {overlap:.2f}, see captions.min_overlap"
            )
    return given, missed
