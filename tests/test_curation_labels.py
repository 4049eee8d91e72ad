"""The six negative labels on real footage and on what is made of it; the real meters and networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers_frames import INFO, read_bgr, run_meters, to_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from curation.scorers.exposure import Exposure
from curation.scorers.faces import Faces
from curation.scorers.freeze import Freeze
from curation.scorers.graphics import Graphics, graphics
from curation.scorers.labels import CLASSIFIERS, LABELS, Labels, label_columns, signals
from curation.scorers.sharpness import Sharpness
from curation.scorers.text import Text
from curation.video import ClipView, Look, Picture, Span

SIZE = (480, 270)
FRAMES = 36
Video = list[np.ndarray]  # [270, 480, 3] uint8 BGR


@pytest.fixture(scope="module")
def bunny(samples: Path) -> Video:
    return [fill(frame) for frame in read_bgr(samples / "bigbuckbunny.mp4", 20, FRAMES)]


@pytest.fixture(scope="module")
def bikes(samples: Path) -> Video:
    """The third shot."""
    return [fill(frame) for frame in read_bgr(samples / "bikes.mp4", 140, FRAMES)]


@pytest.fixture(scope="module")
def man(samples: Path) -> Video:
    return [fill(frame) for frame in read_bgr(samples / "carphone_pristine.mp4", 0, FRAMES)]


@pytest.fixture(scope="module")
def photos() -> Video:
    return [fill(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)) for rgb in (data.coffee(), data.chelsea(), data.rocket())]


@pytest.fixture(scope="module")
def measure() -> Callable[..., dict[str, Any]]:
    """Labels of a video, by meters and the picture scorers that are asked for."""
    known: dict[str, Look] = {}

    def labels(video: Sequence[np.ndarray], *scorers: Text | Faces) -> dict[str, Any]:
        meters = [scorer.model_validate({}) for scorer in (Freeze, Sharpness, Exposure)]
        tracks = run_meters(meters, to_frames(video))
        row: dict[str, Any] = {}
        for meter in meters:
            row |= meter.score(tracks, Span(0, tracks.frames))
        pictures = [cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in video[5::12]]
        for scorer in (*scorers, Labels()):
            look = known.get(scorer.kind) or known.setdefault(scorer.kind, scorer.setup())
            row |= look([view(pictures, row)])[0]
        return {name: row[name] for name in LABELS}

    return labels


def view(pictures: Sequence[np.ndarray], row: dict[str, Any]) -> ClipView:
    return ClipView([Picture(12 * n, n / 2, rgb) for n, rgb in enumerate(pictures)], row, INFO)


def fill(picture: np.ndarray, width: int = SIZE[0], height: int = SIZE[1]) -> np.ndarray:
    """The middle of a picture at a size."""
    scale = min(picture.shape[1] / width, picture.shape[0] / height)
    w, h = round(width * scale), round(height * scale)
    x, y = (picture.shape[1] - w) // 2, (picture.shape[0] - h) // 2
    return cv2.resize(picture[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_AREA)


def seen(video: Sequence[np.ndarray]) -> Graphics:
    return graphics([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in video])


def slide() -> np.ndarray:
    picture = np.full((SIZE[1], SIZE[0], 3), 250, np.uint8)
    for line, words in enumerate(("What we have learned", "Costs fell by a tenth", "Nobody was hurt", "Questions?")):
        cv2.putText(picture, words, (30, 50 + 55 * line), (30, 30, 30), cv2.FontFace("sans"), 30, 600)
    return picture


def test_ordinary_film_has_no_label(measure: Callable, bunny: Video, bikes: Video) -> None:
    for video in (bunny, bikes):
        found = measure(video, Text(), Faces())
        assert max(found.values()) < 0.5, found


def test_two_films_beside_each_other_are_edited(measure: Callable, bunny: Video, bikes: Video) -> None:
    half = SIZE[0] // 2
    split = [np.hstack([fill(a, half), fill(b, half)]) for a, b in zip(bunny, bikes, strict=True)]
    found = seen(split)
    assert found.seam > 0.5
    assert seen(bunny).seam < 0.3
    assert measure(split)["label_editing"] > 0.5


def test_blurred_side_bars_are_found_and_edited(measure: Callable, bikes: Video) -> None:
    barred = []
    for frame in bikes:
        inner = fill(frame, 200)
        outer = cv2.GaussianBlur(fill(inner), (0, 0), 10)
        outer[:, 140:340] = inner
        barred.append(outer)
    assert seen(barred).soft_pair > 0.3
    assert measure(barred)["label_editing"] > 0.5


def test_dissolving_photographs_are_disconnected(measure: Callable, photos: Video) -> None:
    video = []
    for place in range(2):
        video += [photos[place]] * 14
        video += [cv2.addWeighted(photos[place + 1], n / 4, photos[place], 1 - n / 4, 0) for n in range(4)]
    found = measure(video)
    assert found["label_disconnected_motion"] > 0.5
    assert found["label_editing"] < 0.5


def test_a_frozen_frame_is_disconnected_and_a_shown_one_is_not(measure: Callable, bunny: Video) -> None:
    assert measure([bunny[0]] * FRAMES)["label_disconnected_motion"] > 0.5
    assert measure(bunny)["label_disconnected_motion"] < 0.5


@pytest.mark.parametrize("damage", ["blurred", "noisy", "bright"])
def test_damage_is_low_quality(measure: Callable, bunny: Video, damage: str) -> None:
    random = np.random.default_rng(3)
    harm: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "blurred": lambda frame: cv2.GaussianBlur(frame, (0, 0), 4),
        "noisy": lambda frame: cv2.add(frame, random.normal(0, 30, frame.shape), dtype=cv2.CV_8U),
        "bright": lambda frame: cv2.convertScaleAbs(frame, alpha=4, beta=60),
    }
    assert measure([harm[damage](frame) for frame in bunny])["label_low_quality"] > 0.5
    assert measure(bunny)["label_low_quality"] < 0.5


def test_a_talking_man_is_a_lecture(measure: Callable, man: Video, bunny: Video) -> None:
    assert measure(man, Faces())["label_lecture"] > 0.5
    beside = []
    for frame in man:
        page = slide()
        page[140:262, 330:472] = cv2.resize(frame, (142, 122), interpolation=cv2.INTER_AREA)
        beside.append(page)
    assert measure(beside, Faces())["label_lecture"] > 0.5
    assert measure(bunny, Faces())["label_lecture"] < 0.5


def test_a_slide_is_dominated_by_text(measure: Callable) -> None:
    assert measure([slide()] * FRAMES, Text())["label_text_dominated"] > 0.5


def test_a_window_with_a_table_is_a_screenshot(measure: Callable, bunny: Video) -> None:
    page = np.full((SIZE[1], SIZE[0], 3), 255, np.uint8)
    page[:24] = (120, 70, 30)
    for line in range(8):
        cv2.line(page, (20, 40 + 26 * line), (460, 40 + 26 * line), (150, 150, 150), 1)
        cv2.line(page, (20 + 62 * line, 40), (20 + 62 * line, 222), (150, 150, 150), 1)
    for row in range(7):
        for column in range(7):
            cv2.putText(
                page,
                f"{row * column}.5",
                (26 + 62 * column, 58 + 26 * row),
                (30, 30, 30),
                cv2.FontFace("sans"),
                14,
                400,
            )
    assert measure([page] * FRAMES, Text())["label_screenshot"] > 0.5
    assert measure(bunny, Text())["label_screenshot"] < 0.5


def test_what_cannot_be_told_is_null(bunny: Video) -> None:
    look = Labels().setup()
    pictures = [cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in bunny[::12]]
    bare, single = look([view(pictures, {}), view(pictures[:1], {"text_area": 0.0, "sharpness": 20.0, "faces": 1.0})])
    told = {"label_editing", "label_screenshot", "label_disconnected_motion"}
    assert {name for name, value in bare.items() if value is not None} == told
    assert {name for name, value in single.items() if value is None} == {"label_disconnected_motion", "label_lecture"}


def test_columns_are_shared_with_whoever_labels(bunny: Video) -> None:
    columns = label_columns("a language model")
    assert [column.name for column in columns] == list(LABELS) == [column.name for column in Labels().columns()]
    assert {column.source for column in columns} == {"a language model"}
    assert set(CLASSIFIERS) == set(LABELS)
    known = signals({}, seen(bunny[:2]))
    for classifier in CLASSIFIERS.values():
        assert set(classifier.weights) <= set(known)
        assert min(classifier.weights.values()) > 0


def test_jumps_are_told_from_moves(bunny: Video, bikes: Video, photos: Video) -> None:
    large = cv2.resize(photos[0], (640, 360))
    pan = [large[40:310, 80 + 12 * n : 560 + 12 * n] for n in range(6)]
    assert (seen(pan).jump or 0) < 0.2
    assert (seen([bunny[0], bikes[0]]).jump or 0) > 0.8
    assert seen([bunny[0]]).jump is None


def test_noise_is_measured_in_codes(photos: Video) -> None:
    soft = cv2.GaussianBlur(photos[0], (0, 0), 3)
    for strength in (5, 12):
        noise = np.random.default_rng(1).normal(0, strength, (*soft.shape[:2], 1))
        found = seen([cv2.add(soft, np.repeat(noise, 3, 2), dtype=cv2.CV_8U)]).noise
        assert found == pytest.approx(strength, rel=0.25)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 3), st.sampled_from([0, 255, None]))
def test_odd_pictures_never_raise(height: int, width: int, count: int, shade: int | None) -> None:
    random = np.random.default_rng(height)
    shape = (height, width, 3)
    pictures = [
        random.integers(0, 256, shape, np.uint8) if shade is None else np.full(shape, shade, np.uint8)
        for _ in range(count)
    ]
    (found,) = Labels().setup()([view(pictures, {"sharpness": 0.0, "exposure": float("nan"), "text_area": 0.0})])
    assert all(value is None or 0 <= value <= 1 for value in found.values())
