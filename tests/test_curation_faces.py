"""Faces: the package's own boxes, one real talking head, and a photographed face where a test puts it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers_frames import INFO, read_bgr
from skimage import data

from curation.scorers.faces import Faces, bodies, talking_head
from curation.scorers.nudenet import Detector, Part, package_model
from curation.video import ClipView, Look, Picture
from orchestration.errors import ConfigError, RushesError

SIZE = (640, 360)


@pytest.fixture(scope="module")
def look() -> Look:
    return Faces().setup()


@pytest.fixture(scope="module")
def street(samples: Path) -> np.ndarray:
    """[360, 640, 3] RGB without people."""
    return cv2.resize(next(read_bgr(samples / "bikes.mp4", 240, 1))[..., ::-1], SIZE)


def view(pictures: list[np.ndarray], row: dict | None = None, thumbnail: int | None = None) -> ClipView:
    shown = [Picture(i * 12, i / 2, np.ascontiguousarray(rgb)) for i, rgb in enumerate(pictures)]
    return ClipView(shown, row or {}, INFO, thumbnail)


def with_astronaut(street: np.ndarray, x: int, height: int = 240) -> np.ndarray:
    """The upper body of skimage's astronaut, `height` px high, its middle at `x`, at the lower edge."""
    person = cv2.resize(data.astronaut()[:360, 50:400], (round(height * 350 / 360), height))
    picture = np.pad(street, ((0, 0), (400, 400), (0, 0)))
    left = 400 + x - person.shape[1] // 2
    picture[SIZE[1] - height :, left : left + person.shape[1]] = person
    return picture[:, 400:-400]


def test_boxes_are_those_of_the_package() -> None:
    from nudenet import NudeDetector

    picture = cv2.resize(data.astronaut(), (320, 320), interpolation=cv2.INTER_AREA)
    (reference,) = NudeDetector().detect(picture)  # it takes BGR and swaps once too often, so this shows RGB
    (part,) = Detector(package_model(), 320, "cpu")(picture)
    assert part.name == reference["class"]
    assert part.score == pytest.approx(reference["score"], abs=1e-3)
    assert [320 * side for side in part[2:]] == pytest.approx(reference["box"], abs=1.01)


def test_driver_who_talks_is_a_talking_head(look: Look, samples: Path) -> None:
    frames = [next(read_bgr(samples / "carphone_pristine.mp4", number, 1))[..., ::-1] for number in (20, 60, 100)]
    (row,) = look([view(frames, {"camera_shake": 4.5})])
    assert row["faces"] == row["persons"] == 1
    assert 0.08 < row["face_area"] < 0.15
    assert row["talking_head"] > 0.7
    (box,) = row["face_boxes"]
    assert box["kind"] == "face"
    assert (box["x"] + box["w"] / 2, box["y"] + box["h"] / 2) == pytest.approx((0.45, 0.48), abs=0.05)
    assert look([view(frames, {"camera_shake": 18.0})])[0]["talking_head"] < 0.1


def test_street_has_nobody(look: Look, street: np.ndarray) -> None:
    (row,) = look([view([street] * 3)])
    assert row == {"faces": 0, "face_area": 0, "persons": 0, "talking_head": 0, "face_boxes": []}


def test_talking_head_is_one_large_central_face_in_one_place(look: Look, street: np.ndarray) -> None:
    def talks(*pictures: np.ndarray) -> float:
        return look([view(list(pictures))])[0]["talking_head"]

    assert talks(*(with_astronaut(street, x) for x in (300, 310, 320))) > 0.7
    assert talks(*[with_astronaut(street, 560)] * 3) < 0.3, "at the side"
    assert talks(*(with_astronaut(street, x) for x in (180, 320, 460))) < 0.3, "walks past"
    assert talks(*[with_astronaut(street, 320, 110)] * 3) < 0.3, "small"
    pair = with_astronaut(with_astronaut(street, 190), 450)
    assert look([view([pair] * 3)])[0]["faces"] == 2
    assert talks(pair, pair, pair) == 0, "two"


def test_single_picture_is_no_talking_head_and_no_other(look: Look, street: np.ndarray) -> None:
    (row,) = look([view([with_astronaut(street, 320)])])
    assert row["faces"] == 1
    assert row["talking_head"] is None


def test_boxes_are_of_the_thumbnail_and_batches_change_nothing(look: Look, street: np.ndarray) -> None:
    there = with_astronaut(street, 320)
    views = [view([street, there, street]), view([street, there, street], thumbnail=2), view([street, there])]
    rows = look(views)
    assert [len(row["face_boxes"]) for row in rows] == [1, 0, 1]
    assert rows == [look([one])[0] for one in views]
    assert all(set(row) == {column.name for column in Faces().columns()} for row in rows)
    assert rows[0]["faces"] == pytest.approx(1 / 3)


def test_bodies_without_a_face_are_told_apart() -> None:
    face = Part("FACE_MALE", 0.9, 0.2, 0.1, 0.1, 0.15)
    chest = Part("MALE_BREAST_EXPOSED", 0.8, 0.15, 0.3, 0.2, 0.2)
    belly, feet = (Part(name, 0.8, 0.7, y, 0.15, 0.2) for name, y in (("BELLY_EXPOSED", 0.5), ("FEET_EXPOSED", 0.8)))
    back = Part("ARMPITS_EXPOSED", 0.7, 0.75, 0.3, 0.15, 0.15)
    assert bodies([face, chest]) == []
    assert bodies([feet]) == []
    (body,) = bodies([face, chest, belly, back, feet])
    assert (body.x, body.y, body.w, body.h) == pytest.approx((0.7, 0.3, 0.2, 0.4))
    assert len(bodies([chest, belly])) == 2


def test_talking_head_takes_unmeasured_cameras_for_still() -> None:
    faces = [[Part("FACE_MALE", 0.9, 0.4, 0.2, 0.2, 0.3)]] * 3
    nothing = talking_head(faces, {})
    assert nothing > 0.9
    assert talking_head(faces, {"camera_pan": None, "camera_shake": 0.1}) == pytest.approx(nothing, abs=0.01)
    assert talking_head(faces, {"camera_pan": -30.0}) < 0.01


def test_odd_pictures_have_nobody(look: Look) -> None:
    for shape in ((1, 1), (1, 640), (1024, 2)):
        assert look([view([np.zeros((*shape, 3), np.uint8)] * 2)])[0]["faces"] == 0


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file nowhere\.onnx"):
        Faces(model="nowhere.onnx").notice()
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(RushesError, match="no YOLO network"):
        Faces(model=str(tmp_path / "broken.onnx")).setup()
