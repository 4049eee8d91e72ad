"""Captions out of structured fields: sentences of any fields are well formed, and answers are parsed, never mended."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioning import phrases
from captioning.derive import SHORT_WORDS, dense, parse, short
from captioning.json_answer import OBJECTS
from captioning.structured import Structured, Subject

# What models write, and what they should not.
WORDS = st.sampled_from(
    [
        "a",
        "an",
        "the",
        "man",
        "women",
        "rabbit",
        "bicycles",
        "red",
        "hour",
        "tall",
        "with",
        "in",
        "near",
        "wears",
        "walking",
        "walks",
        "and",
        ",",
        ";",
        ".",
        "while",
        "camera",
        "pans",
        "left",
        "zoom",
        "in",
        "static",
        "none",
        "video",
        "clip",
        "footage",
        "scene",
        "The",
        "Paris",
        "this",
        "shows",
        "no",
        "text",
        "visible",
        "is",
        "outdoors",
        "bright",
        "light",
        "style",
        "documentary",
        "it",
        "3D",
        "two",
        "glass",
        "looks",
        "low",
        "angle",
        "close-up",
        "-",
        "!",
        "...",
        "Mr.",
        "\n",
        "é",
        "北京",
    ]
)
PHRASES = st.lists(WORDS, max_size=12).map(" ".join)
WILD = st.text(max_size=12)


def structures(text: st.SearchStrategy[str]) -> st.SearchStrategy[Structured]:
    some = text.filter(lambda said: any(map(str.isalpha, said)))
    subjects = st.builds(Subject, name=some, appearance=text, action=text)
    fields = dict.fromkeys(("shot_type", "camera_angle", "camera_motion", "environment", "lighting", "style"), text)
    lines = st.lists(text, max_size=4).map(tuple)
    return st.builds(
        Structured,
        summary=some,
        subjects=st.lists(subjects, max_size=3).map(tuple),
        events=lines,
        text=lines,
        **fields,
    )


def well_formed(text: str) -> None:
    assert text == text.strip()
    assert "  " not in text
    assert "\n" not in text
    assert text.endswith(".")
    first = next(letter for letter in text if letter.isalnum())
    assert not first.islower() or first.upper() == first  # some letters have no capital
    assert not re.search(r"[,;:]\s*[,;:.]|\s[,;:]|^\W*[,;:.]", text)


@given(structures(PHRASES))
@settings(deadline=None, max_examples=300)
def test_any_fields_give_well_formed_sentences(structured: Structured) -> None:
    brief, full = short(structured), dense(structured)
    full = re.sub(r'"[^"]*"', '"quoted"', full)  # on-screen text is verbatim
    for text in filter(None, (brief, full)):
        well_formed(text)
        assert not re.search(r"\b(the|this) (video|clip|footage|scene) (shows|is)\b", text, re.I)
    assert len(brief) <= len(full)
    assert len(brief.split()) <= len(full.split())
    said = re.split(r"(?<=\.)(?<!\bmr\.) ", full.lower())
    assert len(said) == len(set(said))
    if re.search(r"\b(man|rabbit|Paris)\b", structured.summary) and not re.search(r"\b(no|none)\b", structured.summary):
        assert brief


def test_punctuation_between_nothing_goes() -> None:
    assert dense(Structured(summary="a", style="a , . , man")) == "The style is a, man."


@given(structures(WILD))
@settings(deadline=None, max_examples=200)
def test_any_text_at_all(structured: Structured) -> None:
    brief, full = short(structured), dense(structured)
    assert "  " not in brief + full
    assert len(brief) <= len(full)
    assert all(text.endswith(".") for text in (brief, full) if text)


@given(structures(WILD))
@settings(deadline=None)
def test_parse_gives_back_what_was_written(structured: Structured) -> None:
    assert parse(structured.model_dump_json()) == structured
    indented = json.dumps(structured.model_dump(mode="json"), indent=2)
    assert parse(f"Here it is:\n```json\n{indented}\n```\nIs {{that}} right?") == structured


RABBIT = Structured(
    summary="a brown rabbit stretches in a meadow",
    subjects=(
        Subject(name="brown rabbit", appearance="with a white belly and long ears", action="stretches and looks up"),
        Subject(name="two birds", appearance="small and grey", action="flying past"),
    ),
    events=("the rabbit stretches and looks up", "a butterfly lands on its nose"),
    environment="green meadow with trees",
    lighting="soft natural light",
    camera_motion="pan left and zoom in",
    shot_type="medium",
    camera_angle="low angle",
    style="3D animation style",
    text=("Big Buck  BUNNY",),
)


def test_dense_in_order_and_without_doubled_facts() -> None:
    assert short(RABBIT) == "A brown rabbit stretches in a meadow."
    assert dense(RABBIT) == (
        "A brown rabbit with a white belly and long ears stretches and looks up. Two birds, small and grey, are flying "
        "past. A butterfly lands on its nose. The setting is a green meadow with trees. The lighting is soft natural "
        "light. The camera pans left and zooms in. It is a medium shot from a low angle. The style is 3D animation. "
        'Text on screen reads "Big Buck BUNNY".'
    )


def test_summary_leads_where_it_says_more() -> None:
    said = Structured(summary="fireworks explode above a harbour", subjects=(Subject(name="a harbour"),), style="none")
    assert dense(said) == "Fireworks explode above a harbour."


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("The video shows a man walking.", ["A man walking."]),
        ("In this clip, we see two dogs", ["Two dogs."]),
        ("the scene takes place in a forest", ["In a forest."]),
        ("rain falls throughout the video. Mr. Smith waits!", ["Rain falls.", "Mr. Smith waits."]),
        ("lamps lighting the scene", ["Lamps lighting it."]),
        ("No text is visible. A dog barks.", ["A dog barks."]),
        ("a wall with no text visible", ["A wall."]),
        ("n/a", []),
        ("a man plays a video game", ["A man plays a video game."]),
    ],
)
def test_openers_and_absence_go(text: str, sentence: list[str]) -> None:
    assert phrases.sentences(text) == sentence


@pytest.mark.parametrize(
    ("motion", "sentence"),
    [
        ("static", []),
        ("the camera remains completely still", []),
        ("static camera", []),
        ("tilt up", ["The camera tilts up."]),
        ("dolly in, then orbit", ["The camera dollies in, then orbits."]),
        ("panning left", ["The camera is panning left."]),
        ("slow pan to the right", ["The camera motion is a slow pan to the right."]),
        ("tracking shot", ["It is a tracking shot."]),
        ("handheld", ["The camera is handheld."]),
        ("Camera follows the dog", ["The camera follows the dog."]),
    ],
)
def test_camera(motion: str, sentence: list[str]) -> None:
    assert phrases.camera(motion) == sentence


@pytest.mark.parametrize(
    ("name", "article"),
    [
        ("elephant", "an elephant"),
        ("a elephant", "an elephant"),
        ("university student", "a university student"),
        ("hour glass", "an hour glass"),
        ("red bicycles", "red bicycles"),
        ("glass of water", "a glass of water"),
        ("snow", "snow"),
        ("Big Ben", "Big Ben"),
        ("The dog", "the dog"),
        ("3 cats", "3 cats"),
    ],
)
def test_articles(name: str, article: str) -> None:
    assert phrases.name(name) == article


def test_number() -> None:
    said = Structured(summary="people wait", subjects=(Subject(name="a man and a woman"), Subject(name="bus")))
    assert dense(said) == "People wait. There are a man and a woman. There is a bus."


def test_short_ends_at_a_clause() -> None:
    long = "a man in a long grey coat walks along a wet street past shops and bars, looking at his telephone, "
    cut = short(Structured(summary=long + "while cars and buses pass behind him in the evening rain of the city"))
    assert len(cut.split()) <= SHORT_WORDS
    assert cut == "A man in a long grey coat walks along a wet street past shops and bars, looking at his telephone."
    whole = " ".join(["word"] * 40)
    assert len(short(Structured(summary=whole)).split()) == 40


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ("I cannot see it.", "no JSON object"),
        ('["a"]', "no JSON object"),
        ('{"summary": "a man wal', "not finished"),
        ('```json\n{"summary": "a man",\n```', "not finished"),
        ('{"summary" "a"}', "line 1, column 12"),
        ('{"summary": "a", "events": ["x",]}', "not valid"),
        ("{'summary': 'a'}", "not valid"),
        ("{}", "summary: Field required"),
        ('{"summary": null}', "summary: Input should be a valid string"),
        ('{"summary": "a", "mood": "x"}', "mood: .*known: summary, subjects"),
        (
            '{"summary": "a", "subjects": [{"name": "b", "age": "3"}]}',
            "subjects.0.age: .*known: name, appearance, action",
        ),
        ('{"summary": "a", "summary": "b"}', "'summary' twice"),
        ('{"summary": "a"} or {"summary": "b"}', "2 JSON objects that differ"),
        ('{"summary": "\\ud800"}', "summary"),
        # The inner object is sound, the outer is not: no part is taken for the whole.
        ('{"summary": "a" "subjects": [{"name": "b"}]}', "line 1, column 17"),
        ('{"a":' * 60_000, "more than 100000 characters|characters, more than"),
        ('{"a":' * 15_000, "not|nested"),
        ("{" * (OBJECTS + 1) + '"summary": "a"}', "not valid"),
    ],
)
def test_what_is_wrong_with_an_answer(answer: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        parse(answer)
