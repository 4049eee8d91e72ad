"""The captions page: right numbers, every version beside the others, costs by arithmetic, whatever the texts are."""

from __future__ import annotations

import dataclasses
import datetime
import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_caption_tables import kept_clips, write_captions, write_version
from helpers_dataset import write_dataset

from captioning.checks import words as checked_words
from captioning.cost import CostConfig, Usage, by_time, by_tokens
from captioning.records import Version, schema
from captioning.report import vocabulary as vocabularies
from captioning.report.page import Amounts, caption_page
from captioning.report.survey import Only, survey_captions
from captioning.report.vocabulary import Sample, vocabulary
from captioning.report.write import occupancies, write_comparison, write_report
from curation.report import data as report_data
from curation.report.data import Tables, read_decisions
from orchestration.report import Page, Section, save_page
from orchestration.report.page import LIMIT
from orchestration.storage import Storage

MADE = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)
QUICK = Amounts(preview_seconds=-1)
HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)> {{ 7*7 }} \u202e&amp;\ud800".encode(
    "utf-8", "replace"
).decode()


def dataset(root: Path, **options: Any) -> tuple[list[Version], list[str], list[dict[str, Any]]]:
    write_dataset(root, videos=options.pop("videos", 12))
    storage = Storage(root)
    versions = [
        write_version(storage, "qwen", 1),
        write_version(storage, "tarsier", 2, recipe="hierarchical"),
        write_version(storage, "attributes", 3, captions={"kind": "attributes"}, model="attributes-2", prompts={}),
    ]
    clip_ids = kept_clips(root)
    return versions, clip_ids, write_captions(root, versions, clip_ids, **options)


def made(root: Path, **options: Any) -> Page:
    return caption_page(Storage(root), **{"amounts": QUICK, **options})


def section(page: Page, slug: str) -> str:
    return next(str(part.html) for part in page.sections if part.slug == slug)


def shown(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def cells(text: str) -> list[list[str]]:
    return [
        [shown(cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S)]
        for line in re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.S)
    ]


def test_numbers_agree_with_the_table(tmp_path: Path):
    versions, clip_ids, rows = dataset(tmp_path)
    page = made(tmp_path)
    train = sum(row["train"] for row in rows)
    assert page.sections[0].lead.startswith(f"{train:,} of {len(clip_ids):,} kept clips have a caption to train with")
    accounts = {line[0]: line for line in cells(section(page, "accounts"))}
    for version in versions:
        own = [row for row in rows if row["version"] == version.name]
        ok = [row for row in own if row["status"] == "ok"]
        flagged = [row for row in ok if row["flags"]]
        counts = [len(ok) - len(flagged), len(flagged), len(own) - len(ok), len(clip_ids) - len(own)]
        assert sum(counts) == len(clip_ids)
        assert [int(cell.strip(" =+").replace(",", "")) for cell in accounts[version.name][2:]] == [
            len(clip_ids),
            *counts,
        ]
        words = np.mean([len(checked_words.words(row["dense"])) for row in ok])
        above = sum(row["whole_tokens"] > 226 for row in ok)
        expected = [len(ok), len(flagged), len(own) - len(ok)]
        found = next(line for line in cells(section(page, "versions")) if line[0].startswith(version.name))
        assert [int(cell.replace(",", "")) for cell in found[2:5]] == expected
        assert float(found[7]) == pytest.approx(words, rel=0.01)
        assert int(found[9]) == above > 0
        for name, chart in page.charts.items():
            if name.endswith(version.fingerprint) and "growth" not in name:
                assert sum(sum(series["y"]) for series in chart["series"]) == len(ok)
    assert "measured attributes, no language model" in section(page, "versions")
    assert "{{ fields }}" in section(page, "versions")  # the prompt as it is, not filled in
    assert page.charts[f"captions-tokens-{versions[0].fingerprint}"]["lines"][0]["label"] == "≤ 226"
    assert shown(section(page, "accounts")).count("the frames cannot be read") == 3


def test_flags_are_counted_with_an_example_that_has_them(tmp_path: Path):
    _, _, rows = dataset(tmp_path)
    lines = cells(section(made(tmp_path), "flags"))[1:]
    expected = Counter((flag, row["version"]) for row in rows for flag in row["flags"])
    assert {(line[0], line[1]): int(line[2]) for line in lines} == expected
    by_clip = {(row["clip_id"], row["version"]): row for row in rows}
    for flag, version, _, _, example in lines:
        clip_id = example.split(" ")[-1]
        row = by_clip[clip_id, version]
        assert row["flags"] == [flag]
        assert example == f"{row['flag_reasons'][0]} {clip_id}"


def test_every_version_of_a_clip_stands_beside_the_others_and_flagged_ones_come_first(tmp_path: Path):
    _, _, rows = dataset(tmp_path, videos=30)
    page = made(tmp_path, amounts=dataclasses.replace(QUICK, clips=30))
    parts = re.split(r"<h3>", section(page, "clips"))[1:]
    assert [part.split("<")[0] for part in parts] == ["Flagged", "Failed", "Of many videos"]
    by_clip: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_clip.setdefault(row["clip_id"], []).append(row)
    keys = [re.findall(r'data-key="([^"]+)"', part) for part in parts]
    assert sum(map(len, keys)) == len(set().union(*keys)) == 30
    assert len(keys[0]) == 10
    assert {flag for key in keys[0] for row in by_clip[key] for flag in row["flags"]} == {
        "repetition",
        "camera_contradiction",
        "screen_text",
    }
    assert all(any(row["status"] == "failed" for row in by_clip[key]) for key in keys[1])
    assert len({key[:16] for key in keys[2]}) > 10
    for card in section(page, "clips").split("<article")[1:]:
        key = re.search(r'data-key="([^"]+)"', card).group(1)  # type: ignore[union-attr]
        titles = re.findall(r"<h4><bdi>([^<]+)", card)
        assert titles == ["qwen", "tarsier", "attributes"]
        for row in by_clip[key]:
            column = card.split(f"<h4><bdi>{row['version']}<")[1].split("<h4>")[0]
            if row["status"] == "failed":
                assert row["reason"] in column
            else:
                assert row["dense"] in column
                assert row["short"] in column
                assert ("trains" in column) == row["train"]
                assert ("Fields" in column) == (row["structured"] is not None)
        assert card.count("no caption") == 3 - len(by_clip[key])
    record = page.records[keys[0][0]]
    assert [name for name, _ in record["texts"]] == [row["version"] for row in by_clip[keys[0][0]]]
    assert "rushes explain" in record["command"]


def test_the_page_depends_on_neither_files_nor_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    versions, clip_ids, _ = dataset(tmp_path)
    whole = dataclasses.replace(made(tmp_path), made=MADE)
    assert dataclasses.replace(made(tmp_path), made=MADE) == whole
    Storage(tmp_path).remove_folder("captions")
    write_captions(tmp_path, versions, clip_ids, rows_per_file=37)
    monkeypatch.setattr(report_data, "BATCH", 11)
    monkeypatch.setattr(vocabularies, "SAMPLE", 50)
    parts = made(tmp_path)
    assert section(parts, "clips") == section(whole, "clips")
    assert section(parts, "flags") == section(whole, "flags")
    assert section(parts, "accounts") == section(whole, "accounts")
    assert "of 50 dense captions drawn at random" in section(parts, "vocabulary")
    lengths = {name: chart for name, chart in whole.charts.items() if "growth" not in name}
    assert {name: parts.charts[name] for name in lengths} == lengths


def test_captions_of_clips_that_are_not_kept_are_told_apart(tmp_path: Path):
    _, clip_ids, _ = dataset(tmp_path)
    rows = pq.read_table(tmp_path / "selection.parquet").to_pylist()
    for row in rows:
        row["kept"] = row["kept"] and row["clip_id"] != clip_ids[0]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "selection.parquet")
    page = made(tmp_path)
    assert f"of {len(clip_ids) - 1:,} kept clips" in page.sections[0].lead
    assert "qwen : 1 more row of clips that are not kept now" in shown(section(page, "accounts"))
    assert clip_ids[0] not in page.records


def test_hostile_text_stays_text(tmp_path: Path):
    versions, clip_ids, _ = dataset(tmp_path, hostile=HOSTILE)
    write_version(Storage(tmp_path), HOSTILE, 9, prompts={HOSTILE: HOSTILE}, model=HOSTILE, recipe=HOSTILE)
    storage = Storage(tmp_path)
    write_report(storage, CostConfig(gpu_hour=1.0, currency="<b>"))
    write_comparison(storage, [version.fingerprint for version in versions], clip_ids[:3], CostConfig())
    for name in ("report/index.html", "report/compare.html"):
        text = storage.read_bytes(name).decode()
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;alert(1)" in text
        assert "{{ 7*7 }}" in text
        json.loads(re.search(r'id="data">(.*?)</script>', text).group(1))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "case", ["nothing", "no versions", "no table", "all failed", "one clip", "no selection", "no thumbnails", "nulls"]
)
def test_odd_datasets_still_make_a_page(tmp_path: Path, case: str):
    storage, versions = Storage(tmp_path), []
    if case != "nothing":
        write_dataset(tmp_path, videos=3, select=case != "no selection", thumbnails=case != "no thumbnails")
    if case not in ("nothing", "no versions"):
        versions = [write_version(storage, "qwen", 1), write_version(storage, "qwen", 2)]
        rows = pq.read_table(tmp_path / "clips" / "part-0.parquet").to_pylist()
        clip_ids = [row["clip_id"] for row in rows][: 1 if case == "one clip" else None]
        nulls: dict[str, Any] = dict.fromkeys(
            ("flags", "flag_reasons", "others", "tokens", "whole_tokens", "seconds", "version")
        )
        if case != "no table":
            write_captions(
                tmp_path,
                versions,
                clip_ids,
                fail=lambda *_: case == "all failed",
                flag=lambda *_: case == "one clip",
                changed=nulls if case == "nulls" else None,
            )
    page = made(tmp_path, cost=CostConfig(gpu_hour=2.0))
    save_page(storage, page)
    text = shown(" ".join(str(part.html) + part.lead for part in page.sections))
    assert "nan" not in re.findall(r"\b[a-z]+\b", text)
    json.dumps(page.charts, allow_nan=False)
    if case in ("nothing", "no versions", "no table"):
        assert "There are no captions yet" in text
    if case == "all failed":
        assert "has a caption to train with" in text
        assert not page.charts
    if case == "no selection":
        assert "Nothing was selected yet" in text
    if case == "no thumbnails":
        assert "no thumbnail" in text
    if versions:
        assert "qwen " + versions[0].fingerprint[:8] in text  # two of the same name


def test_a_command_makes_its_page_and_leaves_the_others(tmp_path: Path):
    dataset(tmp_path)
    storage = Storage(tmp_path)
    save_page(storage, Page("Curation", "curation", (Section("Funnel", "funnel", made(tmp_path).sections[0].html),)))
    size = write_report(storage, CostConfig(), clips=5)
    assert size == len(storage.read_bytes("report/index.html")) < LIMIT
    text = storage.read_bytes("report/index.html").decode()
    assert re.findall(r'<article id="(\w+)"', text) == ["curation", "captions"]
    assert text.count('<article class="tile captioned"') == 5
    path = write_comparison(storage, [], [], CostConfig())
    assert path.endswith("report/compare.html")
    assert storage.read_bytes("report/index.html").decode() == text


def test_a_comparison_shows_the_clips_and_versions_asked_for_and_marks_what_differs(tmp_path: Path):
    versions, clip_ids, rows = dataset(tmp_path)
    for row, dense in ((rows[0], "A red kite over the sea."), (rows[len(clip_ids)], "A blue kite over the sea.")):
        row |= {"status": "ok", "dense": dense, "short": "A kite."}
    asked = [versions[1].fingerprint, versions[0].fingerprint]
    wanted = clip_ids[:4][::-1]
    with Storage(tmp_path).open_write("captions/00000.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema()), file)
    page = made(tmp_path, only=Only(tuple(asked), tuple(wanted)))
    clips = section(page, "clips")
    assert re.findall(r'data-key="([^"]+)"', clips) == wanted
    assert "attributes" not in clips
    last = clips.split("<article")[-1]
    assert re.findall(r"<mark>([^<]+)</mark>", last) == ["red", "blue"]
    assert page.sections[0].lead == "2 versions of the captions of 4 clips."
    own = [row for row in rows if row["version"] == "qwen" and row["clip_id"] in wanted]
    line = next(line for line in cells(section(page, "versions")) if line[0].startswith("qwen"))
    assert int(line[2]) + int(line[4]) == len(own) == 4


def test_vocabulary_finds_a_template():
    rng = np.random.default_rng(3)

    def of(texts: list[str]) -> vocabularies.Vocabulary:
        sample = Sample()
        sample.offer(rng.integers(0, 2**63, len(texts)).astype(np.uint64), pa.array(texts), np.ones(len(texts), bool))
        found = vocabulary(sample)
        assert found is not None
        return found

    varied = of([f"word{n} runs over hill{n} towards tree{n} at dawn{n}." for n in range(100)])
    collapsed = of(["The video shows a man walking in a park." for _ in range(100)])
    assert collapsed.template == ("the video shows a", 100)
    assert varied.template is None
    assert (collapsed.distinct, collapsed.words) == (8, 900)
    assert collapsed.trigrams == pytest.approx(7 / 700)
    assert varied.trigrams == pytest.approx(1.0)
    assert [words for _, words in collapsed.growth] == [8] * 10
    assert varied.growth[-1] == (100, varied.distinct)
    assert ("park", 100) in collapsed.top
    assert "the" not in dict(collapsed.top)
    assert vocabulary(Sample()) is None
    odd = Sample()
    odd.offer(np.arange(3, dtype=np.uint64), pa.array([None, "", "!?"]), np.ones(3, bool))
    assert vocabulary(odd) is None


def test_a_sample_is_of_the_smallest_hashes_however_it_is_offered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vocabularies, "SAMPLE", 40)
    keys = np.random.default_rng(1).integers(0, 2**64, 1000, dtype=np.uint64)
    texts = pa.array([str(key) for key in keys])
    fit = keys % np.uint64(3) > 0
    sample = Sample()
    for start in range(0, 1000, 77):
        part = slice(start, start + 77)
        sample.offer(keys[part], texts[part], fit[part])
    assert [key for key, _ in sorted(sample.texts)[:40]] == sorted(keys[fit].tolist())[:40]
    assert len(sample.texts) <= 40


def test_costs_are_seconds_and_tokens_times_prices():
    usage = Usage(clips=10, seconds=20.0, timed=8, prompt_tokens=9_000, output_tokens=900, counted=9)
    cost = CostConfig(gpu_hour=3.6, prompt_million=0.5, output_million=2.0)
    assert by_time(usage, cost, 1_000_000).value == pytest.approx(2.5 * 1_000_000 / 3600 * 3.6)
    assert by_tokens(usage, cost, 1_000_000).value == pytest.approx(1000 * 0.5 + 100 * 2.0)
    assert usage.clips_a_second == pytest.approx(0.4)
    assert by_time(usage, CostConfig(), 10).why == "no price: cost.gpu_hour"
    assert by_tokens(usage, CostConfig(prompt_million=1), 10).why == "no price: cost.output_million"
    assert by_time(Usage(clips=3), cost, 10).why == "no seconds measured"
    assert by_tokens(Usage(clips=3), cost, 10).why == "no tokens counted"
    assert by_time(usage, CostConfig(gpu_hour=0), 10).value == 0.0
    assert Usage().clips_a_second is None


def test_the_page_prices_what_was_measured(tmp_path: Path):
    _, clip_ids, rows = dataset(tmp_path)
    lines = cells(section(made(tmp_path, cost=CostConfig(gpu_hour=3600, currency="EUR")), "cost"))[1:]
    own = [row for row in rows if row["version"] == "qwen"]
    mean = sum(row["seconds"] for row in own) / len(own)
    assert lines[0][0] == "qwen"
    assert [line.split(" ")[1] for line in lines[0][3:]] == ["EUR"] * 3
    found = [float(cell.split(" ")[0].replace(",", "")) for cell in lines[0][3:]]
    assert found == pytest.approx([mean * len(own), mean * len(clip_ids), mean * 1e6], rel=1e-3)
    assert lines[1][3] == "– no price: cost.prompt_million, cost.output_million"
    assert lines[-1][3] == "– no model was asked"


def test_occupancy_is_of_the_last_run_of_a_version(tmp_path: Path):
    storage = Storage(tmp_path)

    def run(name: str, *receipts: dict[str, Any]) -> None:
        text = "\n".join(json.dumps({"t": 1.0, **receipt}) for receipt in receipts) + '\n{"t": 2, "as'
        storage.write_bytes(f"runs/{name}/metrics.jsonl", text.encode())

    times = {"stage": "captions", "asked_s": 1.0, "waited_s": 1.0}
    run("20261123-010101-caption-7", times, {"stage": "published", "version": "abc"})
    run("20261124-010101-caption-8", times, {**times, "asked_s": 5.0}, {"stage": "published", "version": "abc"})
    run("20261124-020101-caption-9", times)
    run("20261124-030101-curate-9", times, {"stage": "published", "version": "x"})
    assert occupancies(storage) == {"abc": pytest.approx(0.75)}


def test_texts_are_read_once_and_pictures_of_shown_clips_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So a million captions cost one pass."""
    dataset(tmp_path)
    read: Counter[str] = Counter()
    scan = Tables.scan
    monkeypatch.setattr(Tables, "scan", lambda self, columns: scan(self, read.update(c := list(columns)) or c))
    made(tmp_path)
    assert read["dense"] == 1
    assert "thumbnail" not in read
    assert "text" not in read


def test_lengths_are_counted_as_the_checks_count_them(tmp_path: Path):
    texts = ["It's a man’s dog—running, 3 times.", "çà et là", "", "...", "snake_case and-hyphen", "日本 語"]
    write_dataset(tmp_path, videos=2, select=False)
    version = write_version(Storage(tmp_path), "qwen", 1)
    rows = write_captions(tmp_path, [version], [f"{n:016d}-0" for n in range(6)], fail=lambda *_: False)
    for row, text in zip(rows, texts, strict=True):
        row["dense"] = text
    with Storage(tmp_path).open_write("captions/00000.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema()), file)
    storage = Storage(tmp_path)
    survey = survey_captions(Tables(storage, "captions"), read_decisions(storage), [], pool=5)
    counted = survey.versions[version.fingerprint].dense_words.counts.sum(0)
    assert counted.tolist()[:9] == np.bincount([len(checked_words.words(text)) for text in texts], minlength=9).tolist()
