"""Rules, quantiles, overrides and the funnel: known answers, properties against a plain reference, and errors."""

from __future__ import annotations

import itertools
import math
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.dataset.records import embeddings
from curation.duplicates.pairs import stored
from curation.rules.decide import Damage
from curation.rules.overrides import parse_overrides
from curation.rules.prospects import could_be_kept
from curation.rules.quantiles import Spill
from curation.rules.selection import Selection
from curation.schema import CLIPS
from curation.select import SCHEMA, decide, fingerprint, read_funnel, read_selection, select_dataset
from curation.video import Column
from orchestration.config import Config, parse_config
from orchestration.errors import ConfigError, RushesError
from orchestration.storage import Storage

KNOWN = (
    *CLIPS,
    Column("motion", pa.float64(), "px", ""),
    Column("sharpness", pa.float32(), "", ""),
    Column("camera_motion", pa.string(), "", ""),
    Column("still", pa.bool_(), "", ""),
    Column("embedding", pa.list_(pa.float32()), "", ""),
)
NAN = math.nan


class Run(Config):
    select: Selection = Selection()


def selection(text: str) -> Selection:
    """The value of `select:` as it is written in YAML."""
    return parse_config(Run, {"select": yaml.safe_load(text)}, "run.yaml").select


def clips(**columns) -> pa.Table:
    """Clean clips of 5 s with these columns."""
    count = len(next(iter(columns.values())))
    defaults = {
        "clip_id": [f"c{i:03d}" for i in range(count)],
        "duration_s": [5.0] * count,
        "decode_errors": [0] * count,
    }
    return pa.table(defaults | columns)


def dataset(root: Path | str, *tables: pa.Table) -> Storage:
    storage = Storage(root)
    for number, table in enumerate(tables):
        storage.write_table(f"clips/{number:03d}.parquet", table)
    return storage


def decided(storage: Storage) -> dict[str, tuple[bool, str | None, list[str]]]:
    with storage.open_read("selection.parquet") as file:
        rows = pq.read_table(file).to_pylist()
    return {row["clip_id"]: (row["kept"], row["drop_reason"], row["drop_reasons"]) for row in rows}


def reasons(text: str, table: pa.Table, **options) -> list[list[str]]:
    found = decide(table, selection(text), **options)
    lists = found.column("drop_reasons").to_pylist()
    assert found.column("kept").to_pylist() == [not some for some in lists]
    assert found.column("drop_reason").to_pylist() == [some[0] if some else None for some in lists]
    return lists


# Rules, row by row


def test_every_form_of_a_rule_gives_its_reason():
    table = clips(
        motion=[0.4, 0.5, 20.0, 20.1, None, NAN],
        camera_motion=["pan", "shake", "pan", "pan", "pan", None],
        still=[False, False, True, False, False, None],
    )
    assert reasons("{rules: [{motion: {min: 0.5, max: 20}}]}", table) == [
        *(["motion < 0.5"], [], [], ["motion > 20"], ["motion: not scored"], ["motion: not scored"])
    ]
    assert reasons("{rules: [{camera_motion: {not_in: [shake]}}]}", table) == [
        *([], ["camera_motion in [shake]"], [], [], [], ["camera_motion: not scored"])
    ]
    assert reasons("{rules: [{camera_motion: {in: [shake, zoom]}}]}", table)[:2] == [
        ["camera_motion not in [shake, zoom]"],
        [],
    ]
    assert reasons("{rules: [{still: {in: [false]}}]}", table) == [
        *([], [], ["still not in [false]"], [], [], ["still: not scored"])
    ]


def test_all_failing_reasons_come_in_the_order_of_the_rules():
    table = clips(motion=[0.1], sharpness=[1.0], camera_motion=["shake"])
    text = """
    rules:
      - sharpness: {min: 5}
      - all:
          - camera_motion: {not_in: [shake]}
          - motion: {min: 0.5}
      - sharpness: {min: 3}
    """
    assert reasons(text, table) == [["sharpness < 5", "camera_motion in [shake]", "motion < 0.5", "sharpness < 3"]]


def test_combinations_nest():
    table = clips(motion=[1.0, 4.0, 1.0, 9.0], sharpness=[6.0, 1.0, 1.0, 9.0])
    text = """
    rules:
      - any: [{sharpness: {min: 5}}, {motion: {min: 3}}]
      - not: {all: [{motion: {min: 8}}, {sharpness: {min: 8}}]}
    """
    assert reasons(text, table) == [*([], [], ["sharpness < 5 and motion < 3"], ["motion >= 8 and sharpness >= 8"])]


def test_a_missing_value_counts_against_the_clip_wherever_it_stands():
    table = clips(motion=[None, NAN], sharpness=[6.0, 1.0])
    missing = ["motion: not scored"]
    assert reasons("{rules: [{not: {motion: {min: 3}}}]}", table) == [missing, missing]
    assert reasons("{rules: [{not: {not: {motion: {min: 3}}}}]}", table) == [missing, missing]
    # Where the other branch answers the question, nothing is missing.
    either = "{rules: [{any: [{sharpness: {min: 5}}, {motion: {min: 3}}]}]}"
    assert reasons(either, table) == [[], ["sharpness or motion: not scored"]]
    neither = "{rules: [{not: {any: [{sharpness: {min: 5}}, {motion: {min: 3}}]}}]}"
    assert reasons(neither, table) == [["sharpness >= 5 or motion >= 3"], ["sharpness or motion: not scored"]]


@pytest.mark.parametrize(
    "rule",
    [
        "{motion: {min: 3, missing: keep}}",
        "{not: {motion: {min: 3, missing: keep}}}",
        "{motion: {best: 1%, missing: keep}}",
    ],
)
def test_missing_keep(rule: str):
    assert reasons(f"{{rules: [{rule}]}}", clips(motion=pa.array([None, NAN], pa.float64()))) == [[], []]


def test_a_column_that_nobody_measured_is_not_scored():
    table = clips(motion=[1.0])
    text = "{rules: [{motion: {min: 5}}, {sharpness: {min: 5}}]}"
    assert reasons(text, table) == [["motion < 5", "sharpness: not scored"]]
    found = decide(clips(motion=[1.0, 9.0]), selection(text))
    assert found.column("unscored").to_pylist() == [False, True]  # scoring the first could not save it


def test_reason_stated_once_where_two_rules_share_it():
    text = "{rules: [{motion: {min: 1}}, {motion: {max: 5}}]}"
    assert reasons(text, clips(motion=pa.array([None], pa.float64()))) == [["motion: not scored"]]


def test_damage_comes_first():
    table = clips(decode_errors=[0, 2, None], video_errors=[0, 2, 2], motion=[9.0, 0.0, 9.0])
    text = "{rules: [{motion: {min: 1}}]}"
    dirty = [[], ["decoder errors", "motion < 1"], ["decode_errors: not scored"]]
    assert reasons(text, table) == dirty
    whole = "decoder errors in its video"
    assert reasons(text, table, damage="reject") == [[], [whole, "motion < 1"], [whole]]
    assert reasons(text, table, damage="keep") == [[], ["motion < 1"], []]


def test_select_all():
    assert selection("all") == Selection()
    assert reasons("all", clips(motion=[NAN, 1.0])) == [[], []]
    assert reasons("all", clips(motion=[1.0]).drop_columns(["decode_errors"]), damage="keep") == [[]]
    assert len(decide(clips(motion=[1.0]).slice(0, 0), selection("all"))) == 0


# Properties

VALUES = st.one_of(st.none(), st.just(NAN), st.integers(0, 6).map(float))
WORDS = st.sampled_from(["pan", "shake", "zoom", None])
ROWS = st.lists(st.tuples(VALUES, VALUES, WORDS), min_size=1, max_size=30)


def _condition(draw) -> dict:
    if draw(st.integers(0, 3)) == 0:
        body = {draw(st.sampled_from(["in", "not_in"])): draw(st.lists(st.sampled_from(["pan", "shake"]), min_size=1))}
        column = "camera_motion"
    else:
        low, high = sorted(draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
        body = draw(st.sampled_from([{"min": low}, {"max": high}, {"min": low, "max": high}]))
        column = draw(st.sampled_from(["motion", "sharpness"]))
    return {column: {**body, "missing": draw(st.sampled_from(["drop", "keep"]))}}


@st.composite
def conditions(draw) -> dict:
    return _condition(draw)


TREES = st.recursive(
    conditions(),
    lambda rules: st.one_of(
        st.lists(rules, min_size=1, max_size=3).map(lambda some: {"any": some}),
        st.lists(rules, min_size=1, max_size=3).map(lambda some: {"all": some}),
        rules.map(lambda rule: {"not": rule}),
    ),
    max_leaves=5,
)


def _table(rows) -> pa.Table:
    motion, sharpness, words = zip(*rows, strict=True)
    return clips(
        motion=pa.array(motion, pa.float64()),
        sharpness=pa.array(sharpness, pa.float32()),
        camera_motion=pa.array(words, pa.string()),
    )


def _plain(rule: dict, row: dict, against: bool) -> bool:
    """Does the rule hold? `against`: the truth value that speaks against the clip (False, below `not` True)."""
    ((key, body),) = rule.items()
    if key == "any":
        return any(_plain(part, row, against) for part in body)
    if key == "all":
        return all(_plain(part, row, against) for part in body)
    if key == "not":
        return not _plain(body, row, not against)
    value = row[key]
    if value is None or value != value:
        return not against if body["missing"] == "keep" else against
    if "in" in body:
        return value in body["in"]
    if "not_in" in body:
        return value not in body["not_in"]
    return body.get("min", -math.inf) <= value <= body.get("max", math.inf)


@settings(max_examples=100, deadline=None)
@given(st.lists(TREES, max_size=4), ROWS)
def test_decisions_agree_with_a_plain_reference(rules, rows):
    table = _table(rows)
    chosen = Selection.model_validate({"rules": rules})
    assert Selection.model_validate(chosen.model_dump(mode="json")) == chosen
    found = decide(table, chosen)
    expected = [all(_plain(rule, row, False) for rule in rules) for row in table.to_pylist()]
    assert found.column("kept").to_pylist() == expected


@settings(max_examples=50, deadline=None)
@given(ROWS, st.integers(0, 6), st.integers(0, 6), st.booleans())
def test_a_loosened_threshold_never_drops_more(rows, one, other, above):
    low, high = sorted((one, other))
    tight, loose = ({"min": high}, {"min": low}) if above else ({"max": low}, {"max": high})
    kept = [
        decide(_table(rows), Selection.model_validate({"rules": [{"motion": bounds}]})).column("kept").to_numpy(False)
        for bounds in (tight, loose)
    ]
    assert not (kept[0] & ~kept[1]).any()


@settings(max_examples=25, deadline=None)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 30), max_size=3), size=st.integers(1, 9), share=st.integers(1, 100))
def test_files_and_batches_do_not_change_the_result(rows, cuts, size, share):
    table = _table(rows).set_column(1, "duration_s", pa.array([0.1 + i / 7 for i in range(len(rows))]))
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    parts = [table.slice(low, high - low) for low, high in itertools.pairwise(bounds)]
    chosen = Selection.model_validate(
        {
            "rules": [
                {"motion": {"best": f"{share}%", "lowest": True}},
                {"camera_motion": {"not_in": ["shake"], "missing": "keep"}},
                {"sharpness": {"best": f"{share}%", "missing": "keep"}},
            ]
        }
    )
    whole, split = dataset(f"memory://{uuid.uuid4()}", table), dataset(f"memory://{uuid.uuid4()}", *parts)
    one, many = select_dataset(whole, chosen, KNOWN), select_dataset(split, chosen, KNOWN, batch_rows=size)
    assert one == many
    assert decided(whole) == decided(split)
    assert one.clips == len(rows) == one.kept + sum(stage.dropped for stage in one.stages)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=50), st.data())
def test_nth_value_of_a_spill(tmp_path_factory, values, data):
    rank = data.draw(st.integers(0, len(values) - 1))
    with (tmp_path_factory.getbasetemp() / "spill").open("w+b") as file:
        spill = Spill(file)
        spill.add(np.array(values))
        assert spill.nth(rank) == sorted(values)[rank]


# Quantiles


def test_best_is_a_share_of_the_clips_that_pass_everything_else(tmp_path: Path):
    table = clips(motion=[0.0] * 10 + [1.0] * 10, sharpness=[100.0] * 10 + [float(i) for i in range(10)])
    storage = dataset(tmp_path, table)
    chosen = selection("{rules: [{sharpness: {best: 20%}}, {motion: {min: 1}}]}")
    funnel = select_dataset(storage, chosen, KNOWN)
    kept = [clip for clip, (keep, *_) in decided(storage).items() if keep]
    assert kept == ["c018", "c019"]
    assert decided(storage)["c010"][1] == "sharpness: not in best 20%"
    assert not chosen.row_wise
    assert (funnel.quantiles[0].population, funnel.thresholds) == (10, {"sharpness: not in best 20%": 8.0})
    assert chosen.thresholds(funnel.thresholds) == {"sharpness": [(8.0, None)], "motion": [(1.0, None)]}
    # The limit of a run decides further clips in the same way.
    found = decide(clips(motion=[1.0, 1.0], sharpness=[7.9, 8.0]), chosen, thresholds=funnel.thresholds)
    assert found.column("kept").to_pylist() == [False, True]
    assert decide(clips(motion=[0.0, 1.0], sharpness=[9.0, 0.0]), chosen).column("kept").to_pylist() == [False, True]


@pytest.mark.parametrize(
    ("rule", "values", "kept"),
    [
        ("{best: 40%, lowest: true}", [5, 4, 3, 2, 1], [3, 4]),
        ("{best: 1%}", [1, 2, 3, 4, 5], [4]),  # rounded up: a share of something is something
        ("{best: 20%}", [5, 5, 5, 1, 1], [0, 1, 2]),  # ties with the last of the best are all kept
        ("{best: 100%}", [3, 1, 2], [0, 1, 2]),
        ("{best: 50%}", [None, NAN, 1, 2], [3]),  # without a value: neither kept nor counted
        ("{best: 50%, missing: keep}", [None, NAN, 1, 2], [0, 1, 3]),
        ("{best: 33.4%}", [1, 2, 3], [1, 2]),
    ],
)
def test_quantiles(tmp_path: Path, rule: str, values: list, kept: list[int]):
    storage = dataset(tmp_path, clips(motion=pa.array([None if v is None else float(v) for v in values], pa.float64())))
    select_dataset(storage, selection(f"{{rules: [{{motion: {rule}}}]}}"), KNOWN)
    assert [i for i, (keep, *_) in enumerate(decided(storage).values()) if keep] == kept


def test_a_value_missing_for_one_quantile_leaves_the_clip_in_the_population_of_another(tmp_path: Path):
    storage = dataset(tmp_path, clips(motion=[None, 2.0, 3.0, 4.0], sharpness=[4.0, 3.0, 2.0, 1.0]))
    text = "{rules: [{motion: {best: 50%}}, {sharpness: {best: 50%}}]}"
    funnel = select_dataset(storage, selection(text), KNOWN)
    assert [item.population for item in funnel.quantiles] == [3, 4]
    # As a rule of its own the missing value takes it out.
    text = "{rules: [{motion: {min: 0}}, {sharpness: {best: 50%}}]}"
    assert select_dataset(storage, selection(text), KNOWN).quantiles[0].population == 3


# The dataset, its funnel, overrides


def test_funnel_adds_up_and_comes_back_with_the_table(tmp_path: Path):
    table = clips(duration_s=[1.0, 3.0, 10.0, 20.0], motion=[0.0, 0.0, 1.0, None])
    storage = dataset(tmp_path, table.slice(0, 1), table.slice(1))
    chosen = selection("{rules: [{duration_s: {min: 2}}, {motion: {min: 0.5}}]}")
    funnel = select_dataset(storage, chosen, KNOWN)
    stages = {stage.reason: (stage.dropped, stage.failing, stage.dropped_s) for stage in funnel.stages}
    assert stages == {
        "dropped by hand": (0, 0, 0.0),
        "decode_errors: not scored": (0, 0, 0.0),
        "decoder errors": (0, 0, 0.0),
        "duration_s: not scored": (0, 0, 0.0),
        "duration_s < 2": (1, 1, 1.0),
        "motion: not scored": (1, 1, 20.0),
        "motion < 0.5": (1, 2, 3.0),
    }
    assert (funnel.clips, funnel.kept, funnel.unscored, funnel.seconds, funnel.kept_seconds) == (4, 1, 1, 34.0, 10.0)
    assert read_funnel(storage) == funnel
    assert read_selection(storage) == chosen
    text = str(funnel)
    assert "motion < 0.5" in text
    assert "kept (25.0%)" in text
    assert "dropped by hand" not in text
    written = pq.read_table(tmp_path / "selection.parquet")
    assert written.schema.equals(SCHEMA)
    assert set(written["fingerprint"].to_pylist()) == {funnel.fingerprint}
    assert not list(tmp_path.glob(".tmp/*"))


def test_without_a_selection_there_is_no_funnel(tmp_path: Path):
    assert read_funnel(Storage(tmp_path)) is None
    with pytest.raises(RushesError, match="rushes curate"):
        select_dataset(Storage(tmp_path), Selection(), KNOWN)


def test_files_of_several_ages_and_types(tmp_path: Path):
    older = clips(motion=pa.array([3, 0], pa.int32()))
    newer = clips(clip_id=["d0", "d1"], motion=[3.0, None], sharpness=pa.array([9.0, 9.0], pa.float32()))
    empty = clips(clip_id=["e0"], motion=pa.nulls(1), camera_motion=pa.array(["pan"]).dictionary_encode())
    storage = dataset(tmp_path, older, newer, empty, older.slice(0, 0))
    text = """
    rules:
      - motion: {min: 1, missing: keep}
      - sharpness: {min: 1}
      - camera_motion: {in: [pan], missing: keep}
      - still: {in: [true], missing: keep}
    """
    funnel = select_dataset(storage, selection(text), KNOWN)
    assert {clip: why for clip, (_, _, why) in decided(storage).items()} == {
        "c000": ["sharpness: not scored"],
        "c001": ["motion < 1", "sharpness: not scored"],
        "d0": [],
        "d1": [],
        "e0": ["sharpness: not scored"],
    }
    assert funnel.warnings == ("no clip has still: it was never scored",)


def test_damaged_clips_table_is_named_and_the_old_selection_stays(tmp_path: Path):
    storage = dataset(tmp_path, clips(motion=[1.0]))
    select_dataset(storage, Selection(), KNOWN)
    before = storage.read_bytes("selection.parquet")
    storage.write_bytes("clips/009.parquet", b"PAR1 not a table PAR1")
    with pytest.raises(RushesError, match=r"009\.parquet"):
        select_dataset(storage, Selection(), KNOWN)
    storage.write_table("clips/009.parquet", pa.table({"motion": [1.0]}))
    with pytest.raises(RushesError, match=r"009\.parquet.*no clip_id"):
        select_dataset(storage, Selection(), KNOWN)
    storage.write_table("clips/009.parquet", clips(motion=["fast"]))
    with pytest.raises(RushesError, match=r"009\.parquet"):
        select_dataset(storage, selection("{rules: [{motion: {min: 1}}]}"), KNOWN)
    assert storage.read_bytes("selection.parquet") == before


def test_a_person_has_the_last_word(tmp_path: Path):
    storage = dataset(tmp_path, clips(motion=[0.0, 9.0, 0.0, 9.0, 9.0], decode_errors=[1, 0, 0, 0, 0]))
    storage.write_bytes(
        "hand/overrides.csv",
        (
            "\ufeff Clip_ID ; decision; note;\r\nc000;Keep;\r\n c001 ; DROP ; a logo; \r\n;;\r\n"
            "c002;drop;;\r\nnone;keep\r\n"
        ).encode(),
    )
    chosen = selection("{rules: [{motion: {min: 1}}], overrides: hand/overrides.csv}")
    funnel = select_dataset(storage, chosen, KNOWN, batch_rows=2)
    found = decided(storage)
    assert found["c000"] == (True, None, [])
    assert found["c001"] == (False, "dropped by hand: a logo", ["dropped by hand: a logo"])
    assert found["c002"] == (False, "dropped by hand", ["dropped by hand", "motion < 1"])
    assert found["c003"] == (True, None, [])
    assert (funnel.kept, funnel.kept_by_hand, funnel.stages[0].dropped) == (3, 1, 2)
    assert funnel.warnings == ("hand/overrides.csv:6: there is no clip 'none'",)
    assert "kept by hand against a rule: 1" in str(funnel)


def test_overrides_do_not_move_a_quantile(tmp_path: Path):
    storage = dataset(tmp_path, clips(motion=[1.0, 2.0, 3.0, 4.0]))
    storage.write_bytes("overrides.csv", b"clip_id,decision\nc003,drop\nc000,keep\n")
    select_dataset(storage, selection("{rules: [{motion: {best: 50%}}], overrides: overrides.csv}"), KNOWN)
    assert [keep for keep, *_ in decided(storage).values()] == [True, False, True, False]


def test_notes_may_be_quoted_and_long():
    found = parse_overrides(b'clip_id,decision,note\na,drop,"one, two\nlines"\nb,keep,\n', "o.csv")
    assert found.reasons.to_pylist() == ["dropped by hand: one, two\nlines", "dropped by hand"]
    assert parse_overrides(b"decision,clip_id\nkeep,b\n", "o.csv").keep.tolist() == [True]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"clip_id,decision\na,kepe\n", "o.csv:2: a: decision 'kepe' is neither keep nor drop"),
        (b"clip_id,decision\na,keep\n\na,keep\n", "o.csv:4: a was already decided in line 2"),
        (b"clip_id,decision\n,keep\n", "o.csv:2: no clip_id"),
        (b"clip_id,decision\na\n", "o.csv:2: a: decision '' is"),
        (b"clip_id,decision,note\na,drop,dark, blurred\n", "o.csv:2: 4 cells for 3 columns"),
        (b"clip,decision\na,drop\n", "o.csv:1: expected the columns clip_id,decision,note, found clip,decision"),
        (b"", "found nothing"),
        (b"clip_id,decision,note\na,drop,caf\xe9\n", "o.csv:2: not UTF-8"),
        (b"clip_id,decision\nx,maybe\ny,maybe\n", "o.csv:2: x.*o.csv:3: y"),
    ],
)
def test_malformed_overrides(data: bytes, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_overrides(data, "o.csv")


@pytest.mark.parametrize("name", ["absent.csv", "../o.csv", "/etc/passwd"])
def test_overrides_are_files_of_the_dataset(tmp_path: Path, name: str):
    storage = dataset(tmp_path, clips(motion=[1.0]))
    with pytest.raises(ConfigError, match="overrides"):
        select_dataset(storage, Selection(overrides=name), KNOWN)


def test_fingerprint_follows_what_decides():
    def of(
        text: str, damage: Damage = "keep_clean", hand: bytes = b"clip_id,decision,note\na,drop,x\nb,keep,\n"
    ) -> str:
        return fingerprint(selection(text), damage, parse_overrides(hand, "o.csv"))

    base = of("{rules: [{motion: {min: 1}}], overrides: a.csv}")
    assert base == of("{rules: [{motion: {min: 1.0}}], overrides: b.csv}")
    assert base == of("{rules: [{motion: {min: 1}}]}", hand=b"clip_id;decision;note\n\nb; keep\na;drop;x\n")
    others = [
        of("{rules: [{motion: {min: 2}}]}"),
        of("{rules: [{motion: {max: 1}}]}"),
        of("{rules: [{motion: {min: 1}}]}", damage="keep"),
        of("{rules: [{motion: {min: 1}}]}", hand=b"clip_id,decision\na,drop\nb,keep\n"),
    ]
    assert len({base, *others}) == 5


# Errors before any work


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("everything", "select: all"),
        ("{rule: []}", "did you mean 'rules'"),
        ("{rules: [{motion: {mn: 3}}]}", "motion: unknown condition 'mn', did you mean 'min'"),
        ("{rules: [{motion: 3}]}", "write its conditions as"),
        ("{rules: [motion]}", "a rule is"),
        ("{rules: [{motion: {min: 1}, sharpness: {min: 1}}]}", "a rule is"),
        ("{rules: [{motion: {}}]}", "give one of min/max, in, not_in and best"),
        ("{rules: [{motion: {min: 1, best: 20%}}]}", "give one of"),
        ("{rules: [{motion: {min: 3, max: 1}}]}", "no value can pass, min 3 is above max 1"),
        ("{rules: [{motion: {min: .nan}}]}", "finite"),
        ("{rules: [{motion: {min: yes}}]}", "a number is wanted"),
        ("{rules: [{motion: {min: 1, lowest: true}}]}", "lowest goes with best"),
        ("{rules: [{motion: {best: 0%}}]}", "above 0%"),
        ("{rules: [{motion: {best: 120%}}]}", "up to 100%"),
        ("{rules: [{motion: {best: 0.2}}]}", "such as 20%"),
        ("{rules: [{camera_motion: {in: []}}]}", "at least 1"),
        ("{rules: [{camera_motion: {in: [no, pan]}}]}", "mixes text and true/false"),
        ("{rules: [{motion: {min: 1, missing: maybe}}]}", "'drop' or 'keep'"),
        ("{rules: [{any: []}]}", "at least 1"),
        ("{rules: [{any: [{motion: {best: 20%}}, {motion: {min: 1}}]}]}", "cannot stand below any or not"),
        ("{rules: [{not: {motion: {best: 20%}}}]}", "cannot stand below any or not"),
    ],
)
def test_configuration_errors(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        selection(text)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("[{motoin: {min: 1}}]", "unknown column 'motoin', did you mean 'motion'"),
        ("[{not: {any: [{shrpness: {min: 1}}]}}]", "did you mean 'sharpness'"),
        ("[{camera_motion: {min: 1}}]", "camera_motion holds text, the condition is on numbers: use in"),
        ("[{motion: {in: [pan]}}]", "motion holds numbers, the condition is on text: use min, max or best"),
        ("[{still: {in: [pan]}}]", r"still holds true/false, the condition is on text: use in: \[true\]"),
        ("[{camera_motion: {best: 10%}}]", "holds text"),
        ("[{embedding: {min: 1}}]", "use no rule"),
        ("[{aesthetic: {min: 1}}]", "no scorer of this configuration measures aesthetic"),
    ],
)
def test_wrong_columns(tmp_path: Path, rules: str, message: str):
    chosen = selection(f"{{rules: {rules}}}")
    with pytest.raises(ConfigError, match=message):
        chosen.check_columns(KNOWN, (*KNOWN, Column("aesthetic", pa.float64(), "", "")))
    with pytest.raises(ConfigError):
        select_dataset(dataset(tmp_path, clips(motion=[1.0])), chosen, KNOWN)
    assert not (tmp_path / "selection.parquet").exists()


def test_a_quantile_is_allowed_below_a_top_level_all():
    chosen = selection("{rules: [{all: [{motion: {best: 20%}}, {motion: {min: 1}}]}]}")
    assert [condition.best for condition in chosen.quantiles] == ["20%"]


# Near-duplicates

ALIKE = (*KNOWN[:-1], Column("embedding", pa.string(), "", ""), Column("crop_h", pa.int32(), "px", ""))
ONE_EACH = "{rules: [], near_duplicates: {threshold: 0.9}}"


def alike(root: Path, directions: list[float | None], **columns) -> Storage:
    """Clips whose embeddings have these directions, in degrees; None: no embedding."""
    table = clips(embedding=[None if angle is None else "plane" for angle in directions], **columns)
    storage = dataset(root, table)
    vectors = [
        {
            "clip_id": clip_id,
            "vector": np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))], np.float16),
        }
        for clip_id, angle in zip(table["clip_id"].to_pylist(), directions, strict=True)
        if angle is not None
    ]
    embeddings(storage).commit("k", {"key": "k", "video_id": "v", "measured": "embedding:1:x", "clips": vectors})
    return storage


def favoured(storage: Storage) -> list[str | None]:
    with storage.open_read("selection.parquet") as file:
        return pq.read_table(file)["duplicate_of"].to_pylist()


def test_of_near_duplicates_the_best_stays(tmp_path: Path):
    storage = alike(tmp_path, [0, 5, 90, 85, None], crop_h=[360, 720, 480, 480, 720])
    chosen = selection(ONE_EACH)
    funnel = select_dataset(storage, chosen, ALIKE)
    reason = "near-duplicate (>= 0.9)"
    assert decided(storage) == {
        "c000": (False, reason, [reason]),
        "c001": (True, None, []),
        "c002": (True, None, []),
        "c003": (False, reason, [reason]),
        "c004": (False, "embedding: not scored", ["embedding: not scored"]),
    }
    assert favoured(storage) == ["c001", None, None, "c002", None]
    assert chosen.row_wise
    assert [(stage.kind, stage.dropped) for stage in funnel.stages if stage.dropped] == [
        ("unscored", 1),
        ("duplicate", 2),
    ]
    assert funnel.clips == funnel.kept + sum(stage.dropped for stage in funnel.stages)
    assert (funnel.unscored, funnel.warnings) == (1, ())
    assert reason in str(funnel)
    assert read_selection(storage) == chosen


def test_near_duplicates_are_decided_among_what_everything_else_keeps(tmp_path: Path):
    columns = {"crop_h": [1080, 720, 480, 360], "motion": [0.0, 2.0, 3.0, 1.0]}
    storage = alike(tmp_path, [0, 1, 2, 3], **columns)
    chosen = selection("{rules: [{motion: {best: 75%}}], near_duplicates: {threshold: 0.9}}")
    funnel = select_dataset(storage, chosen, ALIKE)
    assert funnel.quantiles[0].population == 4
    assert favoured(storage) == [None, None, "c001", "c001"]
    assert decided(storage)["c000"] == (False, "motion: not in best 75%", ["motion: not in best 75%"])
    storage.write_bytes("hand.csv", b"clip_id,decision\nc001,drop\nc003,keep\n")
    chosen = selection("{rules: [{motion: {best: 75%}}], near_duplicates: {threshold: 0.9}, overrides: hand.csv}")
    select_dataset(storage, chosen, ALIKE)
    assert favoured(storage) == [None, None, "c003", None]
    assert [keep for keep, *_ in decided(storage).values()] == [False, False, False, True]


def test_a_quantile_does_not_depend_on_who_has_an_embedding(tmp_path: Path):
    storage = alike(tmp_path, [0, None, 90, 180], motion=[1.0, 2.0, 3.0, 4.0])
    text = "{rules: [{motion: {best: 50%}}], near_duplicates: {threshold: 0.9}}"
    assert select_dataset(storage, selection(text), ALIKE).quantiles[0].population == 4


def test_missing_embeddings_may_be_kept_and_missing_vectors_are_told(tmp_path: Path):
    storage = alike(tmp_path, [0, None, 90])
    funnel = select_dataset(storage, selection("{rules: [], near_duplicates: {missing: keep}}"), ALIKE)
    assert (funnel.kept, funnel.unscored) == (3, 0)
    storage.write_table("clips/009.parquet", clips(clip_id=["d000"], embedding=["plane"]))
    funnel = select_dataset(storage, selection(ONE_EACH), ALIKE)
    assert funnel.warnings == ("1 clips have an embedding whose vector is not there",)


def test_a_moved_threshold_reads_the_stored_pairs(tmp_path: Path):
    storage = alike(tmp_path, [0, 10, 30, 60])  # 0.98, 0.94 and 0.87 from one to the next
    kept = {}
    for threshold in (0.85, 0.9, 0.95, 0.99):
        text = f"{{rules: [], near_duplicates: {{threshold: {threshold}, best: [duration_s]}}}}"
        kept[threshold] = select_dataset(storage, selection(text), ALIKE).kept
    assert kept == {0.85: 2, 0.9: 3, 0.95: 3, 0.99: 4}
    there = stored(storage)
    assert there
    assert there.floor == 0.8


def test_order_of_near_duplicates(tmp_path: Path):
    storage = alike(tmp_path, [0, 1, 2], motion=[3.0, 1.0, None], duration_s=[1.0, 2.0, 3.0])
    for best, kept in {"[motion]": "c000", "[-motion]": "c001", "[duration_s, motion]": "c002"}.items():
        select_dataset(storage, selection(f"{{rules: [], near_duplicates: {{best: {best}}}}}"), ALIKE)
        assert [clip for clip, (keep, *_) in decided(storage).items() if keep] == [kept]


def test_columns_of_near_duplicates():
    chosen = selection("{rules: [], near_duplicates: {best: [-motion]}}")
    assert chosen.columns == chosen.required == {"motion": pa.float64(), "embedding": pa.string()}
    default = selection(ONE_EACH)
    assert default.required == {"embedding": pa.string()}
    assert {"crop_h", "duration_s", "embedding"} <= set(default.columns)
    chosen.check_columns(ALIKE)
    default.check_columns([column for column in ALIKE if column.name != "crop_h"])
    for text, message in {
        "{rules: [], near_duplicates: {best: [crop_hh]}}": "'crop_hh', did you mean 'crop_h'",
        "{rules: [], near_duplicates: {best: [camera_motion]}}": "camera_motion holds text, best of near_duplicates",
    }.items():
        with pytest.raises(ConfigError, match=message):
            selection(text).check_columns(ALIKE)
    with pytest.raises(ConfigError, match="no scorer of this configuration measures embedding"):
        default.check_columns(CLIPS, ALIKE)
    with pytest.raises(ConfigError, match="did you mean 'near_duplicates'"):
        selection("{rules: [], near_duplicate: {}}")
    assert (
        len({fingerprint(each, "keep", parse_overrides(b"clip_id,decision", "x")) for each in (chosen, default)}) == 2
    )


def test_a_clip_whose_embedding_is_still_to_come_can_be_kept():
    table = clips(embedding=pa.nulls(2, pa.string()))
    chosen = selection(ONE_EACH)
    assert decide(table, chosen).column("kept").to_pylist() == [False, False]
    assert could_be_kept(table, chosen, ["embedding"], damage="keep_clean").tolist() == [True, True]
