"""Captions that come with the data: whose they are. Never two videos confused."""

from __future__ import annotations

import posixpath
import shutil
from pathlib import Path

import pytest
from helpers_brought import fresh_world, table, write
from helpers_curate import curate
from hypothesis import given, settings
from hypothesis import strategies as st

from captioning.brought.assign import Clip
from captioning.brought.bring import bring
from captioning.brought.config import BroughtConfig
from captioning.brought.files import address, without_suffix
from captioning.brought.match import Index, Match, settle, videos_of
from captioning.brought.rows import Row
from orchestration.storage import Storage
from orchestration.tables import snapshot


@pytest.fixture
def world(tmp_path):
    return fresh_world(tmp_path)


def test_a_name_that_a_failed_video_has_is_taken(world):
    world.add("a/x.mp4", status="failed")
    world.add("b/x.mp4")
    world.add("c/y.mp4")
    write(world, "t.csv", table(["path", "text"], ["a/x.mp4", "of a"], ["c/y.mp4", "of c"]))
    assert world.texts(world.bring()) == {"c/y.mp4": [["of c"]]}
    write(world, "t.csv", table(["path", "text"], ["x.mp4", "of a or b"], ["c/y.mp4", "of c"]))
    brought = world.bring()
    assert world.texts(brought) == {"c/y.mp4": [["of c"]]}
    assert brought.unmatched_captions[0].why == "'x.mp4': several videos have this name"


def test_a_caption_whose_video_is_gone_goes_to_no_namesake(world):
    world.add("a/x.mp4")
    world.add("c/y.mp4")
    write(world, "a/x.txt", "of a")
    write(world, "b/y.txt", "of the deleted b/y.mp4")
    brought = world.bring()
    assert world.texts(brought) == {"a/x.mp4": [["of a"]]}
    assert "other rows match by path" in brought.unmatched_captions[0].why


def test_two_captions_that_could_be_of_one_video_are_of_none(world):
    world.add("x.mp4")
    world.add("y.mp4")
    rows = [["/m/a/x.mp4", "cat"], ["/m/b/x.mp4", "dog"], ["/m/b/y.mp4", "cow"], ["/m/b/y.mp4", "a cow"]]
    write(world, "t.csv", table(["path", "text"], *rows))
    brought = world.bring()
    assert world.texts(brought) == {"y.mp4": [["cow", "a cow"]]}
    assert {p.why.split(": ")[1] for p in brought.unmatched_captions} == {
        "captions of different paths could be of this one video"
    }


def test_a_name_written_with_backslashes_yields_to_one_that_is_spelt_like_the_file(world):
    world.add("a/x.mp4")
    rows = [["a\\x.mp4", "written on Windows"]]
    write(world, "t.csv", table(["path", "text"], *rows))
    assert world.texts(world.bring()) == {"a/x.mp4": [["written on Windows"]]}
    write(world, "t.csv", table(["path", "text"], *rows, ["a/x.mp4", "its own"]))
    assert world.texts(world.bring()) == {"a/x.mp4": [["its own"]]}


@pytest.mark.slow
def test_a_curated_dataset(samples, tmp_path):
    """The tables as curation leaves them; two of the four videos have a caption beside them."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("bikes", "bigbuckbunny", "carphone_pristine"):
        shutil.copy(samples / f"{name}.mp4", raw)
    shutil.copy(raw / "bikes.mp4", raw / "bikes again.mp4")
    (raw / "bikes again.txt").write_text("men on bikes")
    (raw / "carphone_pristine.txt").write_text("a man in a car")
    curate(raw, tmp_path / "out")
    storage = Storage(tmp_path / "out")
    videos, clips = (
        [row for part in snapshot(storage, name) for row in part.to_pylist()] for name in ("videos", "clips")
    )
    brought = bring(BroughtConfig(spread=True), videos, clips, source=str(raw), exclude=storage.uri)
    names = {row["video_id"]: Path(row["uri"]).stem for row in videos if row["status"] == "ok"}
    texts = {"bikes": ("men on bikes",), "bikes again": ("men on bikes",), "carphone_pristine": ("a man in a car",)}
    expected = {row["clip_id"]: texts.get(names[row["video_id"]]) for row in clips}
    assert brought.captions == {clip_id: text for clip_id, text in expected.items() if text}
    assert set(brought.unmatched_clips) == {clip_id for clip_id, text in expected.items() if not text}
    assert brought.counts["videos"] == 2


NAMES = [
    "x",
    "X",
    "x.v1",
    "x ",
    " x",
    "é",
    "e\u0301",
    "東京",
    "a b",
    "[1]",
    "100%",
    "#",
    "x.mp4",
    "..x",
    "=1+1",
    "a\\b",
    "~",
]
ENDINGS = [".mp4", ".MP4", ".mov", ".webm"]
FOLDERS = ["a", "b", "a/b", "a/a", "A", "é", "e\u0301", "x.mp4", "a b"]
paths = st.builds(
    lambda f, n, e: f"{f}/{n}{e}", st.sampled_from(FOLDERS), st.sampled_from(NAMES), st.sampled_from(ENDINGS)
)


def matched(there: list[str], named: dict[str, Row]) -> dict[str, set[str]]:
    """Path of a video in the dataset → the paths whose rows it was given."""
    videos = videos_of({"uri": f"/raw/{path}", "video_id": f"id {path}", "status": "ok"} for path in there)
    index = Index(videos.values(), "/raw")
    claims = [(row, found) for row in named.values() if isinstance(found := index.find(row), Match)]
    given: dict[str, set[str]] = {}
    for row, match in settle(claims)[0]:
        given.setdefault(match.video.removeprefix("id "), set()).add(row.where)
    return given


CONVENTIONS = {
    "relative": lambda path: Row("t", path, "/raw", path, ("text",)),
    "absolute": lambda path: Row("t", path, "/elsewhere", f"/raw/{path}", ("text",)),
    "from a folder beside": lambda path: Row("t", path, "/raw/meta", f"../{path}", ("text",)),
    "of another machine": lambda path: Row("t", path, "/raw", f"/mnt/data/{path}", ("text",)),
    "address": lambda path: Row("t", path, "/elsewhere", f"s3://bucket/{path}", ("text",)),
}


@settings(max_examples=200, deadline=None)
@given(st.lists(paths, min_size=1, max_size=12, unique=True), st.data(), st.sampled_from(list(CONVENTIONS)))
def test_no_video_gets_the_caption_of_another(world_paths, data, convention):
    there = data.draw(st.lists(st.sampled_from(world_paths), min_size=1, unique=True))
    rows = {path: CONVENTIONS[convention](path) for path in world_paths}
    given_to = matched(there, rows)
    assert all(whose == {path} for path, whose in given_to.items())
    if convention in ("relative", "absolute", "from a folder beside"):
        assert set(given_to) == set(there)


@settings(max_examples=200, deadline=None)
@given(st.lists(paths, min_size=2, max_size=12, unique=True), st.data())
def test_rows_and_videos_that_are_missing_confuse_nothing(world_paths, data):
    there = data.draw(st.lists(st.sampled_from(world_paths), min_size=1, unique=True))
    named = data.draw(st.lists(st.sampled_from(world_paths), min_size=1, unique=True))
    named = list(dict.fromkeys([*named, there[0]]))  # one at least is found by its path
    given_to = matched(there, {path: CONVENTIONS["relative"](path) for path in named})
    for path, whose in given_to.items():
        if path in named:
            assert whose == {path}
        else:  # its own row is missing: another suffix or spelling in the same place may stand for it, nothing else
            folder = address(f"/{posixpath.dirname(path.replace(chr(92), '/'))}")
            assert all(address(f"/{posixpath.dirname(other.replace(chr(92), '/'))}") == folder for other in whose)


@settings(max_examples=200, deadline=None)
@given(st.lists(paths, min_size=1, max_size=12, unique=True), st.data())
def test_sidecars_go_to_the_video_beside_them(world_paths, data):
    there = data.draw(st.lists(st.sampled_from(world_paths), min_size=1, unique=True))
    stems = list(dict.fromkeys(without_suffix(path) for path in world_paths))
    rows = {s: Row("s", s, posixpath.dirname(f"/raw/{s}"), f"/raw/{s}", ("text",), sidecar=True) for s in stems}
    given_to = matched(there, rows)
    names = [name for path in there for name in {path, without_suffix(path)}]
    beside = {path for path in there if names.count(without_suffix(path)) == 1}
    for path, whose in given_to.items():
        assert without_suffix(path) in whose or path in whose or path not in beside
        assert all(posixpath.dirname(stem) == posixpath.dirname(path) for stem in whose)
    assert beside <= set(given_to)


def test_a_name_with_two_suffixes_is_not_the_name_with_one():
    rows = {name: CONVENTIONS["relative"](name) for name in ("a/x.mp4", "a/x.mp4.mp4")}
    assert matched(["a/x.mp4.mp4"], rows) == {"a/x.mp4.mp4": {"a/x.mp4.mp4"}}


def test_a_sidecar_beside_a_name_and_its_stem_is_of_neither():
    row = Row("s", "w", "/raw/a", "/raw/a/x.mp4", ("text",), sidecar=True)
    assert matched(["a/x.mp4", "a/x.mp4.mp4"], {"": row}) == {}
    assert matched(["a/x.mp4"], {"": row}) == {"a/x.mp4": {"w"}}
    assert matched(["a/x.mp4.mp4"], {"": row}) == {"a/x.mp4.mp4": {"w"}}


def test_composed_and_decomposed_names_are_one_name_where_there_is_one():
    row = Row("t", "w", "/raw", "a/e\u0301.mp4", ("text",))
    assert matched(["a/é.mp4"], {"": row}) == {"a/é.mp4": {"w"}}
    assert matched(["a/é.mp4", "a/e\u0301.mp4"], {"": row}) == {"a/e\u0301.mp4": {"w"}}
    bare = Row("t", "w", "/", "e\u0301.mp4", ("text",))
    assert matched(["a/é.mp4", "b/e\u0301.mp4"], {"": bare}) == {}


@given(st.floats(0, 100), st.floats(0.1, 50), st.floats(0, 100), st.floats(0.1, 50))
def test_overlap_is_intersection_over_union(start, length, other, size):
    clip = Clip("c", start, start + length, 0, 1)
    shared = max(0.0, min(start + length, other + size) - max(start, other))
    assert clip.overlap((other, other + size)) == pytest.approx(shared / (length + size - shared), abs=1e-9)
