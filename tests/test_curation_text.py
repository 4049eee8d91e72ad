"""Text: found where it was drawn, and told from the scene by what moves; real footage, the real network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers_frames import INFO, read_bgr
from pydantic import ValidationError

from curation.scorers.text import Text
from curation.scorers.text_boxes import TextBox, row_boxes, share
from curation.scorers.text_detection import DETECTION, package_model
from curation.video import ClipView, Look, Picture
from orchestration.errors import ConfigError, RushesError

SIZE = (640, 360)


@pytest.fixture(scope="module")
def look() -> Look:
    return Text().setup()


@pytest.fixture(scope="module")
def photo(samples: Path) -> np.ndarray:
    """[720, 1280, 3] RGB."""
    return cv2.cvtColor(next(read_bgr(samples / "bigbuckbunny.mp4", 20, 1)), cv2.COLOR_BGR2RGB)


def view(pictures: list[np.ndarray], row: dict | None = None) -> ClipView:
    shown = [Picture(number * 24, float(number), np.ascontiguousarray(rgb)) for number, rgb in enumerate(pictures)]
    return ClipView(shown, row or {}, INFO)


def window(world: np.ndarray, left: int, top: int = 150) -> np.ndarray:
    """What a camera sees of [720, 1280, 3]."""
    return world[top : top + SIZE[1], left : left + SIZE[0]].copy()


def panned(world: np.ndarray) -> list[np.ndarray]:
    return [window(world, left) for left in (260, 320, 380)]


def write(rgb: np.ndarray, words: str, at: tuple[int, int], size: int = 26) -> None:
    """White words with a dark rim, their base line's left end at `at`."""
    font = cv2.FontFace("sans")
    for x, y in ((-2, 0), (2, 0), (0, -2), (0, 2)):
        cv2.putText(rgb, words, (at[0] + x, at[1] + y), (0, 0, 0), font, size, 500)
    cv2.putText(rgb, words, at, (255, 255, 255), font, size, 500)


def paint(rgb: np.ndarray, words: str, at: tuple[int, int], size: int) -> None:
    """Words on a wall, as a lens sees them: dark grey on light grey, and soft."""
    sign = np.full_like(rgb, 190)
    cv2.putText(sign, words, at, (60, 60, 60), cv2.FontFace("sans"), size, 500)
    part = np.s_[at[1] - 2 * size : at[1] + size, at[0] - size : at[0] + 7 * size]
    rgb[part] = cv2.GaussianBlur(sign, (0, 0), 1.2)[part]


def scored(look: Look, pictures: list[np.ndarray], row: dict | None = None) -> dict:
    (result,) = look([view(pictures, row)])
    return result


def test_caption_over_a_moving_scene_is_an_overlay(look: Look, photo: np.ndarray) -> None:
    pictures = panned(photo)
    for picture in pictures:
        write(picture, "Harbour master", (60, 290))
    result = scored(look, pictures)
    ink = share((SIZE[1], SIZE[0]), [np.array([[60, 268], [245, 268], [245, 292], [60, 292]], np.float32)])
    assert ink < result["text_area"] < 3 * ink
    assert result["overlay_text"] == pytest.approx(result["text_area"])
    (box,) = result["text_boxes"]
    assert box["kind"] == "overlay"
    assert box["x"] == pytest.approx(60 / SIZE[0], abs=0.03)
    assert box["y"] + box["h"] / 2 == pytest.approx(281 / SIZE[1], abs=0.03)


def test_sign_that_moves_with_the_scene_is_none(look: Look, photo: np.ndarray) -> None:
    world = photo.copy()
    write(world, "BAKERY", (560, 420), 50)
    result = scored(look, panned(world))
    assert result["text_area"] > 0.01
    assert result["overlay_text"] == 0
    assert {box["kind"] for box in result["text_boxes"]} == {"scene"}


def test_both_at_once(look: Look, photo: np.ndarray) -> None:
    world = photo.copy()
    write(world, "BAKERY", (560, 340), 40)
    pictures = panned(world)
    for picture, words in zip(pictures, ("Where were you?", "At the sea", "All day long"), strict=True):
        (width, *_), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_DUPLEX, 0.85, 1)
        write(picture, words, (320 - width // 2, 335))
    result = scored(look, pictures)
    assert {box["kind"] for box in result["text_boxes"]} == {"scene", "subtitle"}
    assert 0 < result["subtitle_text"] < result["text_area"]
    assert result["overlay_text"] == result["subtitle_text"]


def test_corner_mark_is_a_watermark(look: Look, photo: np.ndarray) -> None:
    pictures = panned(photo)
    for picture in pictures:
        plain = picture.copy()
        write(picture, "Channel 9", (500, 40), 24)
        picture[:] = cv2.addWeighted(plain, 0.3, picture, 0.7, 0)
    result = scored(look, pictures)
    assert result["watermark_text"] > 0.005
    assert {box["kind"] for box in result["text_boxes"]} == {"watermark"}


def test_fixed_camera_leaves_position_to_judge_by(look: Look, photo: np.ndarray) -> None:
    sign, subtitle = window(photo, 300), window(photo, 300)
    paint(sign, "Garden", (400, 190), 30)
    write(subtitle, "I never said that", (210, 335))
    still = {"camera_motion": "static"}
    assert scored(look, [sign] * 3, still)["overlay_text"] == 0
    assert scored(look, [subtitle] * 3, still)["subtitle_text"] > 0.01


def test_subtitle_that_comes_and_goes_in_a_fixed_shot(look: Look, photo: np.ndarray) -> None:
    empty, first, second = (window(photo, 300) for _ in range(3))
    write(first, "Who is there?", (235, 335))
    write(second, "Only the wind, go to sleep", (155, 335))
    result = scored(look, [empty, first, second])
    assert result["subtitle_text"] == pytest.approx(result["text_area"]) != 0


def test_a_mark_overlooked_in_one_picture_counts_there_too(look: Look, photo: np.ndarray) -> None:
    """Edges that stand still are the same text, even where the detector does not see it."""
    blank = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    pictures = [blank, *panned(photo)[1:]]
    for picture in pictures:
        write(picture, "Channel 9", (500, 40), 24)
    every = scored(look, pictures)["watermark_text"]
    assert every > 0
    alone = scored(look, pictures[1:])["watermark_text"]
    assert every == pytest.approx(alone, rel=0.2)


@pytest.mark.parametrize(("video", "start"), [("bikes", 30), ("bigbuckbunny", 40), ("carphone_pristine", 5)])
def test_footage_without_text_has_none(look: Look, samples: Path, video: str, start: int) -> None:
    frames = list(read_bgr(samples / f"{video}.mp4", start, 25))[::12]
    result = scored(look, [cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in frames])
    assert result["text_area"] < 0.005
    assert result["overlay_text"] == 0


def test_one_picture_and_several_clips(look: Look, photo: np.ndarray) -> None:
    one = window(photo, 300)
    write(one, "I never said that", (210, 335))
    results = look([view([one]), view([window(photo, 300)] * 3), view([one] * 3)])
    columns = {column.name for column in Text().columns()}
    assert all(set(result) == columns for result in results)
    assert results[0]["subtitle_text"] > 0
    assert results[1]["text_area"] == 0
    assert results[1]["text_boxes"] == []


def test_odd_pictures(look: Look) -> None:
    random = np.random.default_rng(3)
    noise = random.integers(0, 256, (360, 640, 3), np.uint8)
    letters = np.zeros((360, 640, 3), np.uint8)
    for row in range(12, 360, 14):
        for column in range(0, 640, 40):
            cv2.putText(letters, "ab1", (column, row), cv2.FONT_HERSHEY_PLAIN, 0.8, (255, 255, 255))
    odd = [np.zeros((h, w, 3), np.uint8) for h, w in ((1, 1), (1, 1024), (1024, 1), (7, 300), (360, 640))]
    results = look([view([picture] * 2) for picture in (*odd, noise, letters)])
    assert [result["text_area"] for result in results[:5]] == [0] * 5
    assert 0 <= results[5]["text_area"] <= 1
    assert results[6]["text_area"] > 0.1
    mixed = look([view([odd[4], letters, noise[:100, :200]])])  # pictures of other sizes are not compared
    assert mixed[0]["text_area"] > 0.05


def test_reads_when_asked(photo: np.ndarray) -> None:
    pictures = panned(photo)
    write(pictures[1], "Harbour 1982", (60, 100), 30)
    write(pictures[1], "Tuesday", (80, 290), 30)
    read = scored(Text(read=True).setup(), pictures)["text"]
    assert [line.replace(" ", "") for line in read.split("\n")] == ["Harbour1982", "Tuesday"]
    assert scored(Text().setup(), pictures)["text"] is None


def test_side_sets_what_is_found(photo: np.ndarray) -> None:
    pictures = panned(photo)
    for picture in pictures:
        write(picture, "made in small print", (60, 100), 12)
    found = {side: scored(Text(side=side).setup(), pictures)["text_area"] for side in (128, 640)}
    assert found[128] == 0
    assert found[640] > 0.003


def test_another_network_by_path(tmp_path: Path, photo: np.ndarray) -> None:
    copy = tmp_path / "detection.onnx"
    copy.write_bytes(package_model(DETECTION).read_bytes())
    named = Text(model=str(copy))
    assert named.notice() is None
    pictures = panned(photo)
    write(pictures[1], "Harbour master", (60, 100), 30)
    assert scored(named.setup(), pictures) == scored(Text().setup(), pictures)
    with pytest.raises(ConfigError, match="nowhere"):
        Text(model=str(tmp_path / "nowhere.onnx")).notice()
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(RushesError, match=r"bad\.onnx"):
        Text(model=str(tmp_path / "bad.onnx")).setup()
    with pytest.raises(ValidationError):
        Text(side=10)


def test_rapidocr_says_nothing_and_loads_late() -> None:
    script = (
        "import sys, numpy as np\n"
        "from curation.scorers.text import Text\n"
        "assert not {'rapidocr', 'onnxruntime'} & set(sys.modules)\n"
        "from curation.video import ClipView, Picture\n"
        "from helpers_frames import INFO\n"
        "look = Text(read=True).setup()\n"
        "look([ClipView([Picture(0, 0.0, np.zeros((90, 160, 3), np.uint8))], {}, INFO)])\n"
    )
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_share_counts_what_overlaps_once() -> None:
    square = np.array([[0, 0], [50, 0], [50, 50], [0, 50]], np.float32)
    assert share((100, 100), [square, square]) == pytest.approx(0.25, abs=0.02)
    assert share((100, 100), []) == 0
    (box,) = row_boxes((100, 100), [TextBox(square - 10, "scene")])
    assert (box["x"], box["y"], box["w"], box["h"]) == pytest.approx((0, 0, 0.4, 0.4))
