"""Scorers against pictures with known answers: real stills moved by known cameras, real footage, real encodes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import get_args

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest
from helpers_frames import read_bgr, run_meters, to_frames
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.scorers import AnyScorer, score_columns
from curation.scorers.blockiness import Blockiness
from curation.scorers.borders import Borders
from curation.scorers.camera_motion import CameraMotion
from curation.scorers.exposure import Exposure
from curation.scorers.freeze import Freeze
from curation.scorers.motion import Motion
from curation.scorers.sampling import Clock
from curation.scorers.sharpness import Sharpness
from curation.video import Frame, Scorer, Span

KINDS = get_args(get_args(AnyScorer)[0])
ALL: tuple[Scorer, ...] = tuple(kind() for kind in KINDS if issubclass(kind, Scorer))
SIZE = (480, 270)
FPS = 24
PHOTO_MOTION = 0.05  # % of diagonal / s that a moved photograph may reach
REAL_MOTION = 0.08  # what real motion must reach: the threshold that docs/scorers.md suggests


def score(scorer: Scorer, frames: list[Frame] | list[np.ndarray], span: Span | None = None) -> dict:
    seen = [f if isinstance(f, Frame) else None for f in frames]
    tracks = run_meters([scorer], seen if all(seen) else to_frames(frames, FPS))
    return scorer.score(tracks, span or Span(0, tracks.frames))


def encoded(pictures: list[np.ndarray], crf: int) -> list[np.ndarray]:
    """BGR pictures after H.264 at a quality, decoded again."""
    buffer = io.BytesIO()
    height, width = pictures[0].shape[:2]
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        out.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def move(still: np.ndarray, camera: str, frames: int = 48, speed: float = 1.0) -> list[np.ndarray]:
    """A view of SIZE moving over a still; at speed 1, pans and tilts of 8 % of the width a second and the like."""
    height, width = still.shape[:2]
    scale = min(width / SIZE[0], height / SIZE[1]) * 0.75  # pixels of the still in one of the view
    random = np.random.default_rng(7)
    views = []
    for number in range(frames):
        t = speed * (number / FPS - frames / FPS / 2)
        x, y, zoom, angle = 0.0, 0.0, 1.0, 0.0
        if camera in ("pan", "ken_burns"):
            x = 0.08 * SIZE[0] * t
        if camera == "tilt":
            y = 0.08 * SIZE[0] * t
        if camera in ("zoom", "ken_burns"):
            zoom = np.exp(-(0.15 if camera == "zoom" else 0.06) * t)
        if camera == "roll":
            angle = 0.15 * t
        if camera == "shake":
            x, y = random.normal(0, 0.004 * speed, 2) * SIZE[0]
        step = scale * zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([width / 2 + scale * x, height / 2 + scale * y])
        matrix = np.column_stack([step, centre - step @ ((np.array(SIZE) - 1) / 2)])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        views.append(cv2.warpAffine(still, matrix, SIZE, flags=flags, borderMode=cv2.BORDER_REFLECT))
    return views


def with_object(views: list[np.ndarray], patch: np.ndarray) -> list[np.ndarray]:
    """The patch crosses the picture at 30 % of its width a second."""
    size = SIZE[1] // 3
    patch = cv2.resize(patch, (size, size))
    pasted = []
    for number, view in enumerate(views):
        x = int(0.1 * SIZE[0] + 0.3 * SIZE[0] * number / FPS)
        view = view.copy()
        view[size : 2 * size, x : x + size] = patch[:, : max(0, SIZE[0] - x)]
        pasted.append(view)
    return pasted


@pytest.fixture(scope="module")
def stills(samples: Path) -> dict[str, np.ndarray]:
    picks = {"bigbuckbunny": 20, "bikes": 130, "carphone_pristine": 5}
    return {name: next(read_bgr(samples / f"{name}.mp4", start, 1)) for name, start in picks.items()}


@pytest.fixture(scope="module")
def face(samples: Path) -> np.ndarray:
    return next(read_bgr(samples / "carphone_pristine.mp4", 0, 1))[20:110, 50:140]


# Motion and camera


@pytest.mark.parametrize("camera", ["static", "pan", "tilt", "zoom", "roll", "shake"])
@pytest.mark.parametrize("moving", [False, True], ids=["photo", "object"])
def test_camera_label(stills: dict[str, np.ndarray], face: np.ndarray, camera: str, moving: bool) -> None:
    for still in stills.values():
        views = move(still, camera)
        result = score(CameraMotion(), with_object(views, face) if moving else views)
        assert result["camera_motion"] == camera
        assert result["camera_confidence"] > 0.4


def test_camera_speeds_are_right_in_size_and_sign(stills: dict[str, np.ndarray]) -> None:
    still = stills["bigbuckbunny"]
    speeds = {camera: score(CameraMotion(), move(still, camera)) for camera in ("pan", "tilt", "zoom", "roll")}
    assert speeds["pan"]["camera_pan"] == pytest.approx(8, rel=0.1)
    assert speeds["tilt"]["camera_tilt"] == pytest.approx(-8 * SIZE[0] / SIZE[1], rel=0.1)
    assert speeds["zoom"]["camera_zoom"] == pytest.approx(15, rel=0.1)
    assert speeds["roll"]["camera_roll"] == pytest.approx(np.degrees(0.15), rel=0.1)


@pytest.mark.parametrize("camera", ["static", "pan", "zoom", "ken_burns", "roll", "shake"])
def test_moved_photograph_is_not_motion(stills: dict[str, np.ndarray], face: np.ndarray, camera: str) -> None:
    for name, still in stills.items():
        views = move(still, camera)
        photo = score(Motion(), encoded(views, 28))["motion"]
        moving = score(Motion(), encoded(with_object(views, face), 28))["motion"]
        assert photo < PHOTO_MOTION, name
        assert moving > 3 * REAL_MOTION, name


@pytest.mark.parametrize(
    ("video", "start"),
    [("bikes", 0), ("bikes", 90), ("bikes", 150), ("bikes", 200), ("bigbuckbunny", 0), ("bigbuckbunny", 80),
     ("carphone_pristine", 0), ("carphone_distorted", 48)],
)  # fmt: skip
def test_real_footage_moves(samples: Path, video: str, start: int) -> None:
    assert score(Motion(), list(read_bgr(samples / f"{video}.mp4", start, 36)))["motion"] > REAL_MOTION


def test_fade_is_not_motion(stills: dict[str, np.ndarray]) -> None:
    views = move(stills["bikes"], "static")
    faded = [cv2.convertScaleAbs(view, alpha=1 - 0.8 * i / len(views)) for i, view in enumerate(views)]
    assert score(Motion(), faded)["motion"] < PHOTO_MOTION


def test_pairs_over_a_cut_do_not_count(stills: dict[str, np.ndarray]) -> None:
    first, second = move(stills["bikes"], "static", 31), move(stills["bigbuckbunny"], "static", 31)
    tracks = run_meters([Motion(), CameraMotion()], to_frames(first + second))
    for span in (Span(0, 31), Span(31, 62)):
        assert Motion().score(tracks, span)["motion"] < 0.01
        assert CameraMotion().score(tracks, span)["camera_motion"] == "static"


def test_blank_video_has_no_motion_to_measure() -> None:
    blank = [np.full((270, 480), 90, np.uint8)] * 30
    assert score(Motion(), blank) == {"motion": None}
    assert set(score(CameraMotion(), blank).values()) == {None}


# Freeze


def test_freeze_sees_through_codec_noise(stills: dict[str, np.ndarray]) -> None:
    for still in stills.values():
        assert score(Freeze(), encoded(move(still, "static"), 35))["freeze"] == 1
        noise = np.random.default_rng(0)
        noisy = [np.clip(v + noise.normal(0, 4, v.shape), 0, 255).astype(np.uint8) for v in move(still, "static")]
        assert score(Freeze(), noisy)["freeze"] == 1


def test_freeze_is_the_share_of_time(samples: Path) -> None:
    moving = list(read_bgr(samples / "carphone_pristine.mp4", 0, 36))
    result = score(Freeze(), moving + [moving[-1]] * 36)
    assert result["freeze"] == pytest.approx(37 / 72, abs=0.02)
    assert score(Freeze(), moving + [moving[-1]] * 6)["freeze"] == 0  # a quarter of a second


@pytest.mark.parametrize("camera", ["pan", "zoom", "roll"])
def test_slow_moves_and_animation_on_twos_are_not_frozen(stills: dict[str, np.ndarray], camera: str) -> None:
    for still in stills.values():
        views = move(still, camera, speed=0.4)
        assert score(Freeze(), views)["freeze"] == 0
        assert score(Freeze(), [view for view in views[::3] for _ in range(3)])["freeze"] == 0


def test_one_frame_shown_for_long_is_frozen(stills: dict[str, np.ndarray]) -> None:
    views = [move(still, "static", 1)[0] for still in stills.values()]
    tracks = run_meters([Freeze()], to_frames(views, times=[0.0, 2.0, 4.0]))
    assert Freeze().score(tracks, Span(0, 3)) == {"freeze": 1.0}


# Borders


@pytest.mark.parametrize("bars", [(40, 40, 0, 0), (0, 0, 64, 60), (24, 24, 32, 32), (0, 0, 0, 0), (0, 52, 0, 0)])
def test_borders_of_real_footage(samples: Path, bars: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = bars
    shot = [cv2.resize(p, SIZE) for p in read_bgr(samples / "bikes.mp4", 120, 48)]
    boxed = [cv2.copyMakeBorder(p[:268], top, bottom, left, right, cv2.BORDER_CONSTANT) for p in shot]
    wanted = {"crop_x": left, "crop_y": top, "crop_w": 480, "crop_h": 268}
    assert score(Borders(), boxed) == wanted
    assert score(Borders(), encoded(boxed, 30)) == wanted


def test_dark_scene_is_not_cropped(samples: Path) -> None:
    shot = [cv2.resize(p, SIZE)[:268] for p in read_bgr(samples / "bikes.mp4", 120, 48)]
    whole = {"crop_x": 0, "crop_y": 0, "crop_w": 480, "crop_h": 268}
    night = [(p * 0.06).astype(np.uint8) for p in shot]
    assert score(Borders(), night) == whole
    lamp = [cv2.circle(p.copy(), (200 + i, 100), 30, (200, 220, 255), -1) for i, p in enumerate(night)]
    assert score(Borders(), lamp) == whole
    title = [cv2.putText(p * 0, "THE END", (120, 150), cv2.FONT_HERSHEY_SIMPLEX, 2, (255,) * 3, 3) for p in shot]
    assert score(Borders(), title) == whole
    fade_in = [cv2.copyMakeBorder((p * (i / 48)).astype(np.uint8), 40, 40, 0, 0, 0) for i, p in enumerate(shot)]
    assert score(Borders(), fade_in) == {"crop_x": 0, "crop_y": 40, "crop_w": 480, "crop_h": 268}


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(0, 12)] * 4), st.integers(32, 99), st.integers(32, 99), st.booleans())
def test_crop_lies_in_the_picture_and_is_even(
    bars: tuple[int, int, int, int], width: int, height: int, full_range: bool
) -> None:
    top, bottom, left, right = bars
    inside = np.random.default_rng(0).integers(60, 200, (height, width)).astype(np.uint8)
    black = 0 if full_range else 16
    luma = cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_CONSTANT, value=black)
    crop = score(Borders(), list(to_frames([luma], full_range=full_range)))
    assert crop["crop_x"] in (left, left + left % 2)
    assert crop["crop_y"] in (top, top + top % 2)
    assert left + width - 1 <= crop["crop_x"] + crop["crop_w"] <= left + width
    assert top + height - 1 <= crop["crop_y"] + crop["crop_h"] <= top + height
    if left or right:
        assert crop["crop_x"] % 2 == crop["crop_w"] % 2 == 0


# Sharpness, exposure, blockiness


def test_sharpness_falls_with_blur_but_not_with_bokeh(stills: dict[str, np.ndarray]) -> None:
    for still in stills.values():
        sharp = cv2.resize(still, (960, 540))
        steps = [
            score(Sharpness(), [cv2.GaussianBlur(sharp, (0, 0), s) if s else sharp])["sharpness"] for s in range(4)
        ]
        assert steps == sorted(steps, reverse=True)
        assert steps[0] > 1.5 * steps[2]
    sharp = cv2.resize(stills["bikes"], (960, 540))
    bokeh = cv2.GaussianBlur(sharp, (0, 0), 6)
    bokeh[150:450, 200:700] = sharp[150:450, 200:700]
    all_sharp, part, none = (
        score(Sharpness(), [p])["sharpness"] for p in (sharp, bokeh, cv2.GaussianBlur(sharp, (0, 0), 6))
    )
    assert part > 0.6 * all_sharp
    assert part > 1.5 * none


def test_sharpness_ignores_combing(stills: dict[str, np.ndarray]) -> None:
    luma = cv2.cvtColor(cv2.resize(stills["bikes"], (720, 576)), cv2.COLOR_BGR2GRAY)
    combed = luma.copy()
    combed[1::2] = np.roll(luma, 12, axis=1)[1::2]
    whole = score(Sharpness(), [luma])["sharpness"]
    assert score(Sharpness(), list(to_frames([combed])))["sharpness"] > 1.5 * whole
    assert score(Sharpness(), list(to_frames([combed], interlaced=True)))["sharpness"] < 1.5 * whole


def test_exposure(stills: dict[str, np.ndarray]) -> None:
    still = stills["bikes"]
    values = [score(Exposure(), [cv2.convertScaleAbs(still, alpha=a)]) for a in (0.2, 0.6, 1.0, 4.0)]
    assert [v["exposure"] for v in values] == sorted(v["exposure"] for v in values)
    assert values[-1]["exposure_clipped"] > 0.1 > values[1]["exposure_clipped"]
    grey = np.full((90, 160), 128, np.uint8)
    assert score(Exposure(), list(to_frames([grey], full_range=True)))["exposure"] == pytest.approx(128 / 255)
    assert score(Exposure(), list(to_frames([grey])))["exposure"] == pytest.approx(112 / 219)
    boxed = cv2.copyMakeBorder(still, 40, 40, 0, 0, cv2.BORDER_CONSTANT)
    assert score(Exposure(), [boxed])["exposure"] == pytest.approx(values[2]["exposure"], abs=0.005)


def test_blockiness_of_crushed_video(samples: Path) -> None:
    pristine, crushed = (
        score(Blockiness(), list(read_bgr(samples / f"carphone_{name}.mp4")))["blockiness"]
        for name in ("pristine", "distorted")
    )
    assert crushed > 2 * pristine


@pytest.mark.parametrize(("video", "start"), [("bikes", 120), ("bigbuckbunny", 0), ("carphone_pristine", 0)])
def test_blockiness_rises_with_compression_wherever_the_grid_lies(samples: Path, video: str, start: int) -> None:
    shot = [cv2.resize(p, SIZE)[:256, :464] for p in read_bgr(samples / f"{video}.mp4", start, 24)]
    source = score(Blockiness(), shot)["blockiness"]
    worse = [encoded(shot, crf) for crf in (36, 44, 50)]
    scores = [score(Blockiness(), pictures)["blockiness"] for pictures in worse]
    shifted = [score(Blockiness(), [p[3:, 5:] for p in pictures])["blockiness"] for pictures in worse]
    assert [source, *scores] == sorted([source, *scores])
    assert scores[-1] > source + 0.2
    assert shifted == pytest.approx(scores, abs=0.08)


# All scorers


def test_registry() -> None:
    names = [column.name for column in score_columns()]
    assert len(names) == len(set(names))
    assert {"motion", "camera_motion", "freeze", "sharpness", "exposure", "blockiness", "crop_x", "crop_w"} <= set(
        names
    )
    assert all(column.doc and column.source for column in score_columns())
    assert len({scorer.kind for scorer in ALL}) == len(ALL)
    assert Motion(rate=8).fingerprint() != Motion().fingerprint()


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (16, 16), (1, 300), (17, 33), (101, 77), (65, 400), (333, 251)])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_odd_sizes_and_short_videos_score(size: tuple[int, int], count: int) -> None:
    random = np.random.default_rng(0)
    still = cv2.resize(random.integers(0, 255, (9, 9, 3)).astype(np.uint8), (size[0] + 40, size[1] + 40))
    pictures = [np.ascontiguousarray(still[i : i + size[1], i : i + size[0]]) for i in range(count)]
    tracks = run_meters(ALL, to_frames(pictures, rotation=90))
    schema = pa.schema([(column.name, column.type) for column in score_columns()])
    for span in {Span(0, count), Span(count - 1, count)}:
        row: dict = {}
        for scorer in ALL:
            values = scorer.score(tracks, span)
            assert list(values) == [column.name for column in scorer.columns()]
            row |= values
        assert row["motion"] is None or (span == Span(0, 30) and np.isfinite(row["motion"]))
        assert row["freeze"] is None or count > 1
        pa.Table.from_pylist([row], schema=schema)


def test_values_of_a_span_do_not_depend_on_what_follows(samples: Path) -> None:
    pictures = list(read_bgr(samples / "bikes.mp4", 0, 60))
    short, long = run_meters(ALL, to_frames(pictures[:48])), run_meters(ALL, to_frames(pictures))
    for scorer in ALL:
        assert scorer.score(short, Span(10, 47)) == scorer.score(long, Span(10, 47)), scorer.kind


@given(st.floats(0.5, 120), st.floats(0, 20), st.floats(1, 5))
def test_every_clip_of_a_second_is_sampled(fps: float, start: float, length: float) -> None:
    clock = Clock(Sharpness().rate)
    times = np.arange(0, 30, 1 / fps)
    picked = np.array([clock.ticks(time) for time in times])
    first = int(np.searchsorted(times, start))
    last = int(np.searchsorted(times, times[first] + length))
    assert picked[first:last].any()
