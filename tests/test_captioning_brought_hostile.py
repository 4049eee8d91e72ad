"""Captions that come with the data: texts, lists and files that strangers wrote."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_brought import World, fresh_world, table, write
from hypothesis import given, settings
from hypothesis import strategies as st

from captioning.brought.rows import RowError, literal, make_row, seconds
from curation.ingest import list_input


@pytest.fixture
def world(tmp_path):
    return fresh_world(tmp_path)


prose = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).map(str.strip)
prose = prose.filter(lambda text: text and not text.startswith("["))


@settings(max_examples=60, deadline=None)
@given(st.lists(prose, min_size=1, max_size=5), st.sampled_from(["csv", "jsonl", "parquet"]))
def test_every_text_arrives_as_it_was_written(tmp_path_factory, texts, kind):
    world = World(tmp_path_factory.mktemp("raw"))
    for number in range(len(texts)):
        world.add(f"{number}.mp4")
    rows = [{"path": f"{number}.mp4", "text": text} for number, text in enumerate(texts)]
    if kind == "csv":
        write(world, "t.csv", table(["path", "text"], *(list(row.values()) for row in rows)))
    elif kind == "jsonl":
        write(world, "t.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), Path(world.root) / "t.parquet")
    assert world.texts(world.bring()) == {f"{number}.mp4": [[text]] for number, text in enumerate(texts)}
    shutil.rmtree(world.root)


def test_rows_that_cannot_be_read_cost_only_themselves(world):
    for name in "abcdefgh":
        world.add(f"{name}.mp4")
    big = "x" * (10 * 2**20)
    data = (
        b"\xef\xbb\xbfpath,text\r\n"
        b'a.mp4,=HYPERLINK("http://x")\r\n'
        b"b.mp4,caf\xe9\r\n"
        b"c.mp4,nul\0nul\r\n" + f'd.mp4,"{big}"\r\n'.encode() + b"e.mp4,one,two\r\n"
        b"f.mp4\r\n"
        b"\r\n"
        b'g.mp4,"two\nlines"\r\n'
        b",no path\r\n"
        b"../../../../etc/passwd,root\r\n"
        b"h.mp4,\x1b[31mred\r\n"
    )
    write(world, "t.csv", data)
    brought = world.bring()
    assert world.texts(brought) == {
        "a.mp4": [['=HYPERLINK("http://x")']],
        "g.mp4": [["two\nlines"]],
        "h.mp4": [["\x1b[31mred"]],
    }
    assert [str(problem) for problem in brought.problems] == [
        "t.csv:3: the caption is not UTF-8",
        "t.csv:4: the caption has a NUL character in it",
        "t.csv:5: the caption is larger than 1 MiB",
        "t.csv:6: 3 cells for 2 columns; is text with a comma quoted?",
        "t.csv:7: no caption",
        "t.csv:11: no path",
    ]
    assert [str(p) for p in brought.unmatched_captions] == ["t.csv:12: '../../../../etc/passwd': no such video"]


def test_a_quote_that_is_not_closed_ends_the_file_with_a_word(world):
    for name in "ab":
        world.add(f"{name}.mp4")
    write(world, "t.csv", 'path,text\na.mp4,cat\nb.mp4,"dog\n' + "c.mp4,cow\n" * 2_000_000)
    brought = world.bring()
    assert world.texts(brought) == {"a.mp4": [["cat"]]}
    assert [str(problem) for problem in brought.problems] == [
        "t.csv: a cell that begins in line 3 has no end within 16 MiB (a quote that is not closed?); "
        "what follows it was not read"
    ]
    assert csv.field_size_limit() == 131072  # others' CSV is read as before


def test_lines_of_json_that_mean_harm(world):
    for name in "abc":
        world.add(f"{name}.mp4")
    lines = [
        '{"path": "a.mp4", "text": "cat"}',
        "[" * 100_000,
        "{broken",
        "3",
        '{"path": {"x": 1}, "text": "x"}',
        '{"path": "b.mp4", "text": {"a": 1}}',
        '{"path": "b.mp4", "text": "\\ud800"}',
        '{"path": "b.mp4", "text": ' + "9" * 10_000 + "}",
        '{"path": "b.mp4", "text": "' + "x" * (20 * 2**20) + '"}',
        '{"path": "c.mp4", "text": "cow"}',
    ]
    write(world, "t.jsonl", "\n".join(lines))
    brought = world.bring()
    assert world.texts(brought) == {"a.mp4": [["cat"]], "c.mp4": [["cow"]]}
    assert [problem.where for problem in brought.problems] == [f"t.jsonl:{n}" for n in range(2, 10)]


def test_damaged_files_cost_only_themselves(world):
    world.add("a.mp4")
    pq.write_table(pa.Table.from_pylist([{"path": "a.mp4", "text": "cat"}]), Path(world.root) / "good.parquet")
    write(world, "bad.parquet", (Path(world.root) / "good.parquet").read_bytes()[:200])
    write(world, "empty.parquet", b"")
    brought = world.bring(**{"from": "parquet"})
    assert world.texts(brought) == {"a.mp4": [["cat"]]}
    assert sorted(line.split(":")[1].strip() for line in brought.lines if line.startswith("not read")) == [
        "bad.parquet",
        "empty.parquet",
    ]


EVIL = "__import__('pathlib').Path({path!r}).touch()"


def test_literals_are_never_run(world, tmp_path):
    world.add("a.mp4")
    world.add("v.mp4", (0, 5))
    evil = EVIL.format(path=str(tmp_path / "pwned"))
    spans = "[['0:00:00', '0:00:05']]"
    rows = [
        ["v", f"[{evil}]", "['x']"],
        ["v", spans, f"[{evil}]"],
        ["v", "[" * 50_000, "['x']"],
        ["v", f"[[{'9' * 5000}, 1]]", "['x']"],
        ["v", "[[1e999, 2]]", "['x']"],
        ["v", "[[True, 2]]", "['x']"],
        ["v", "[[5, 0]]", "['x']"],
        ["v", "[[0, 1, 2]]", "['x']"],
        ["v", "{'a': [0, 1]}", "['x']"],
        ["v", spans, "[b'x']"],
        ["v", spans, "['x' * 1000000000]"],
        ["v", spans, "['fine']"],
    ]
    write(world, "p.csv", table(["videoID", "timestamp", "caption"], ["v", spans, f"{evil}"], *rows))
    brought = world.bring()
    assert not (tmp_path / "pwned").exists()
    assert [problem.where for problem in brought.problems] == [f"p.csv:{line}" for line in range(3, 14)]
    assert list(brought.captions.values()) == [(evil, "fine")]


def test_sidecars_that_mean_harm(world):
    for name in ("a", "b", "c", "d", "e", "f", "[1]"):
        world.add(f"{name}.mp4")
    write(world, "[1].txt", "brackets")
    write(world, "1.txt", "not for brackets")
    write(world, "a.txt", b"caf\xe9")
    write(world, "b.txt", b"nul\0")
    write(world, "c.txt", b"x" * (10 * 2**20))
    write(world, "d.txt", b" \n")
    write(world, "e.json", "[" * 100_000)
    (Path(world.root) / "f.txt").symlink_to("/nowhere")
    brought = world.bring()
    assert world.texts(brought) == {"[1].mp4": [["brackets"]]}
    assert sorted(map(str, brought.problems)) == [
        "a.txt: not UTF-8",
        "b.txt: the caption has a NUL character in it",
        "c.txt: larger than 1 MiB",
        "d.txt: the caption is empty",
        "e.json: no JSON: maximum recursion depth exceeded while decoding a JSON array from a unicode string",
        "f.txt: cannot be read: a link to nothing",
    ]


@given(st.text(max_size=60))
def test_literals_and_times_of_any_text_end_in_a_value_or_a_row_error(text):
    for read in (literal, seconds, lambda t: make_row("g", "w", "/", "a", t, t)):
        try:
            read(text)
        except RowError as error:
            message = str(error)
        else:
            message = ""
        assert message == "" or message.isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:00:05.005", 5.005), ("01:02:03.5", 3723.5), ("1:02", 62), ("7,25", 7.25), ("7", 7), (2.5, 2.5), (3, 3)],
)
def test_times(text, expected):
    assert seconds(text) == pytest.approx(expected)


def test_names_that_are_not_utf8_and_names_that_move_the_cursor(world):
    name = os.fsencode(world.root) + b"/caf\xe9 \x1b[31m"
    Path(os.fsdecode(name + b".mp4")).write_bytes(b"video")
    Path(os.fsdecode(name + b".txt")).write_text("a cat")
    (listed,) = list_input(world.root + "/*.mp4")
    world.add("other.mp4")
    world.videos[0]["uri"] = listed.uri
    write(world, "evil\x1b[2J.txt", "nobody's")
    brought = world.bring()
    assert list(brought.captions.values()) == [("a cat",)]
    assert brought.counts["unmatched"] == 1
    assert all(line.isprintable() for line in brought.lines)
