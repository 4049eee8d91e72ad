"""Videos that are clips already."""

from __future__ import annotations

from typing import Literal

from curation.video import Meter, ShotDetector, Span, Tracks, VideoInfo


class Whole(ShotDetector):
    """The whole video is one clip, however long."""

    kind: Literal["none"] = "none"

    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        return {}

    def shots(self, tracks: Tracks) -> list[Span]:
        return [Span(0, tracks.frames)] if tracks.frames else []
