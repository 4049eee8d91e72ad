"""Stills: pictures of clips look as `read_clip` shows them, whatever the video is like."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers_frames import read_bgr, run_meters, to_frames
from helpers_media import make_video

from curation.decode import DecodeConfig, decode, load_tracks
from curation.plan import MeasurePlan
from curation.read import read_clip
from curation.scorers.borders import Borders
from curation.stills import JPEG, STILLS, Stills, StillsMeter
from curation.video import Span, Tracks


def decoded(path: Path, folder: Path) -> Tracks:
    folder.mkdir()
    plan = MeasurePlan(scorers=(Borders(),))
    return load_tracks(folder, decode(path, folder, DecodeConfig(), plan, lambda message: None))


def row_of(path: Path, tracks: Tracks, span: Span) -> dict[str, Any]:
    info = tracks.info
    return {
        "clip_id": "clip",
        "uri": str(path),
        "start_frame": span.start,
        "end_frame": span.end,
        **{name: getattr(info, name) for name in ("rotation", "pixel_aspect", "interlaced", "hdr", "width", "height")},
        **Borders().score(tracks, span),
    }


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"size": (1280, 720)},
        {"size": (1280, 720), "filters": "scale=out_color_matrix=bt709", "extra": ("-colorspace", "bt709")},
        {"rotation": 90},
        {"rotation": 270},
        {"rotation": 180},
        {"sar": "16/11"},
        {"sar": "1/2", "rotation": 90},
        {"filters": "scale=out_range=full", "extra": ("-color_range", "pc")},
        {"size": (360, 240), "filters": "drawbox=0:0:iw:30:black:fill,drawbox=0:ih-30:iw:30:black:fill"},
        {"rotation": 90, "size": (360, 240), "filters": "drawbox=0:0:40:ih:black:fill,drawbox=300:0:60:ih:black:fill"},
        {"pix_fmt": "yuv420p10le", "codec": "hevc"},
        {"codec": "ffv1", "pix_fmt": "rgb24"},
    ],
    ids=lambda case: " ".join(f"{key}={value}" for key, value in case.items() if key != "extra") or "plain",
)
def test_pictures_look_as_readers_see_them(case: dict[str, Any], samples: Path, tmp_path: Path):
    suffix = ".mkv" if case.get("codec") == "ffv1" else ".mp4"
    path = make_video(tmp_path / f"video{suffix}", samples / "bigbuckbunny.mp4", frames=60, **case)
    tracks = decoded(path, tmp_path / "tracks")
    span = Span(10, 60)
    row = row_of(path, tracks, span)
    pictures, middle = Stills(tracks).pictures(span, 3, row)
    assert len(pictures) == 3
    assert middle == 1
    assert all(span.start <= picture.index < span.end for picture in pictures)
    shown = read_clip(row, [picture.index - span.start for picture in pictures])
    for picture, expected in zip(pictures, shown, strict=True):
        height, width = picture.rgb.shape[:2]
        assert max(height, width) <= 1024
        assert abs(width / height - expected.shape[1] / expected.shape[0]) < 0.02 * width / height
        reduced = cv2.resize(expected, (width, height), interpolation=cv2.INTER_AREA)
        # Blurred, as sampling of chroma and borders may differ by a pixel; what is left is colour, range and place.
        difference = np.abs(cv2.blur(reduced, (9, 9)).astype(int) - cv2.blur(picture.rgb, (9, 9)))
        assert difference.mean() < 2.0


def test_pictures_are_spread_evenly_and_the_thumbnail_is_the_middle_one(samples: Path):
    file = io.BytesIO()

    class Meters:
        def meters(self, info: object) -> dict[str, StillsMeter]:
            return {STILLS: StillsMeter(file)}

    tracks = run_meters([Meters()], to_frames(read_bgr(samples / "bikes.mp4", count=240), fps=24.0))  # type: ignore[list-item]
    tracks.meters[STILLS][JPEG] = np.frombuffer(file.getvalue(), np.uint8)  # type: ignore[index]
    stills, span = Stills(tracks), Span(24, 216)  # 8 s
    for count in (1, 2, 3, 5, 9):
        pictures, middle = stills.pictures(span, count, {})
        times = [picture.time - 1.0 for picture in pictures]
        assert np.allclose(times, [8 * (part + 0.5) / count for part in range(count)], atol=0.26)
        nearest = min(range(count), key=lambda place: abs(times[place] - 4.0))
        assert middle == nearest
    jpeg = stills.thumbnail(span, {})
    assert jpeg is not None
    thumbnail = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    pictures, middle = stills.pictures(span, 3, {})
    expected = cv2.cvtColor(pictures[middle].rgb, cv2.COLOR_RGB2BGR)
    expected = cv2.resize(expected, thumbnail.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(expected.astype(int) - thumbnail).mean() < 4


def test_a_clip_too_short_for_a_still_has_none(samples: Path, tmp_path: Path):
    tracks = decoded(samples / "bikes.mp4", tmp_path / "tracks")
    assert Stills(tracks).pictures(Span(1, 5), 3, {}) == ([], 0)
    assert Stills(tracks).thumbnail(Span(1, 5), {}) is None
    assert len(Stills(tracks).pictures(Span(0, 5), 3, {})[0]) == 1
