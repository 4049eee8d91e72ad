"""BRISQUE: its features against the package's reference code, its scores on real footage and what was done to it."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers_frames import read_bgr, view

from curation.scorers.brisque import Brisque, _NumbersOnly, features
from curation.video import Look


@pytest.fixture(scope="module")
def look() -> Look:
    return Brisque().setup()


@pytest.fixture(scope="module")
def photo(samples: Path) -> np.ndarray:
    """[272, 640, 3] RGB."""
    return next(read_bgr(samples / "bikes.mp4", 160, 1))[..., ::-1].copy()


def score(look: Look, *pictures: np.ndarray) -> float:
    return look([view(*pictures)])[0]["brisque"]


def in_the_dark(photo: np.ndarray) -> np.ndarray:
    """Luma in a rim that is nearly black: the package pads with zeros where we mirror, and this makes them one."""
    luma = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    dark = np.random.default_rng(0).integers(0, 2, (luma.shape[0] + 32, luma.shape[1] + 32), np.uint8)
    dark[16:-16, 16:-16] = luma
    return dark


def test_features_are_those_of_the_package(photo: np.ndarray) -> None:
    from brisque import BRISQUETrainer

    luma = in_the_dark(photo)
    reference = np.array(BRISQUETrainer()._extract_features(luma), np.float64)
    ours = features(luma)
    assert ours is not None
    np.testing.assert_allclose(ours, reference, atol=0.01)


def test_scores_are_those_of_the_package(look: Look, photo: np.ndarray) -> None:
    from brisque import BRISQUE, BRISQUETrainer

    luma = in_the_dark(photo)
    reference = BRISQUE().calculate_image_quality_score(BRISQUETrainer()._extract_features(luma))
    assert score(look, np.repeat(luma[..., None], 3, 2)) == pytest.approx(reference, abs=0.5)


def test_what_spoils_a_picture_raises_it(look: Look, photo: np.ndarray) -> None:
    noise = np.random.default_rng(0).normal(0, 25, photo.shape)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 12])[1], cv2.IMREAD_COLOR)
    spoiled = {
        "blur": cv2.GaussianBlur(photo, (0, 0), 2),
        "noise": np.clip(photo + noise, 0, 255).astype(np.uint8),
        "blocks": jpeg,
    }
    clean = score(look, photo)
    for name, picture in spoiled.items():
        assert score(look, picture) > clean + 10, name


def test_distorted_recording_scores_worse(look: Look, samples: Path) -> None:
    def recording(name: str) -> float:
        return score(look, *(frame[..., ::-1] for number in (20, 80) for frame in read_bgr(samples / name, number, 1)))

    assert recording("carphone_distorted.mp4") > recording("carphone_pristine.mp4") + 20


def test_a_clip_is_the_median_of_its_pictures_and_batches_change_nothing(look: Look, photo: np.ndarray) -> None:
    blurred = cv2.GaussianBlur(photo, (0, 0), 3)
    assert score(look, photo, blurred) == pytest.approx((score(look, photo) + score(look, blurred)) / 2)
    both = look([view(photo), view(blurred)])
    assert [row["brisque"] for row in both] == [score(look, photo), score(look, blurred)]
    assert list(both[0]) == [column.name for column in Brisque().columns()]


def test_nothing_to_measure_is_null(look: Look, photo: np.ndarray) -> None:
    assert score(look, np.full((90, 160, 3), 128, np.uint8)) is None
    assert score(look, photo[:20, :20]) is None
    assert score(look, photo[:2, :]) is None
    assert score(look, np.zeros((90, 160, 3), np.uint8), photo) == score(look, photo)


def test_numbers_file_cannot_run_code() -> None:
    with pytest.raises(pickle.UnpicklingError):
        _NumbersOnly(io.BytesIO(pickle.dumps(print))).load()
