"""`rushes caption` over a curated dataset: whose caption is whose, versions, resume, failures, what trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_vlm
from faulty_server import faulty_server, free_port
from helpers_captions import House, colour_dataset, config, right
from helpers_curate import rushes, table

COUNT = 60


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tiny_vlm.Clip]]:
    return colour_dataset(tmp_path_factory.mktemp("colours"), COUNT)


@pytest.fixture
def dataset(curated: tuple[Path, dict[str, tiny_vlm.Clip]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(curated[0], tmp_path / "dataset"))


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    return {"kind": "local", "model": str(tiny_vlm.folder()), "batch_size": 8}


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


def test_every_caption_belongs_to_its_clip_though_some_cannot_be_read(curated, dataset, model, tmp_path):
    shown = curated[1]
    media = sorted((dataset / "media").rglob("*.mp4"))
    media[3].write_bytes(media[3].read_bytes()[:300])
    media[30].unlink()
    broken = {media[3].stem, media[30].stem}
    text = rushes("caption", config(tmp_path, dataset, captions=model, ray={"workers": 2}))
    rows = table(dataset, "captions")
    assert {row["clip_id"] for row in rows} == shown.keys()
    assert len(rows) == COUNT
    failed = [row for row in rows if row["status"] == "failed"]
    assert {row["clip_id"] for row in failed} == broken
    assert all(row["reason"] and not row["train"] for row in failed)
    fine = [row for row in rows if row["status"] == "ok"]
    assert right(fine, shown) >= 0.95
    assert right(fine, shown, "short") >= 0.95
    assert all(json.loads(row["structured"])["summary"] in row["dense"].lower() for row in fine)
    assert all(row["train"] and row["prompt_tokens"] > 0 and row["output_tokens"] > 0 for row in fine)
    assert f"{COUNT - 2} fit to train + 0 flagged + 2 failed" in text
    counts = json.loads(rushes("status", dataset, "--json"))
    assert (counts["captions"], counts["trainable"]) == (COUNT - 2, COUNT - 2)
    clip = fine[0]
    assert clip["dense"] in rushes("explain", dataset, clip["clip_id"]).replace("\n", " ")


def test_only_what_is_missing_is_asked_and_a_new_prompt_makes_a_new_version(house, curated, dataset, model, tmp_path):
    few = config(tmp_path, dataset, captions=model, name="first", limit=10)
    house.caption(few)
    first = table(dataset, "captions")
    assert len(first) == 10
    assert "0 of 10 clips are to be captioned" in house.caption(few)
    assert f"{COUNT - 10} of {COUNT} clips" in house.caption(few, "limit=null")
    rows = table(dataset, "captions")
    assert len(rows) == COUNT
    assert [row for row in rows if row["clip_id"] in {one["clip_id"] for one in first}] == first

    other = tmp_path / "other-1.jinja"
    other.write_text("Answer in JSON what moves.")
    path = config(tmp_path, dataset, captions=model, recipe={"prompt": str(other)}, name="other", limit=10)
    house.caption(path)
    both = table(dataset, "captions")
    assert [row for row in both if row["version"] == "first"] == [
        {**row, "train": row["train"] and row["version"] == "other"} for row in rows
    ], "the version that is there is as it was, but trains no more"
    assert {row["clip_id"] for row in both if row["train"]} == {row["clip_id"] for row in first}

    # Which version trains is a setting; nothing is asked for it.
    text = house.caption(path, "train.versions=[other, first]")
    assert "0 of 10 clips are to be captioned" in text
    chosen = [row for row in table(dataset, "captions") if row["train"]]
    assert len(chosen) == COUNT
    assert sum(row["version"] == "other" for row in chosen) == 10
    assert "there is no version 'none'" in house.caption(path, "train.versions=[none]", code=2)


def test_thresholds_of_checks_move_without_asking_again(house, dataset, model, tmp_path):
    path = config(tmp_path, dataset, captions=model, limit=12)
    house.caption(path)
    assert not any(row["flags"] for row in table(dataset, "captions"))
    text = house.caption(path, "checks.degenerate.min_words=9")
    assert "0 of 12 clips are to be captioned" in text
    assert "0 fit to train + 12 flagged" in text
    rows = table(dataset, "captions")
    assert all(row["flags"] == ["short"] and row["dense"] and not row["train"] for row in rows)
    house.caption(path, "checks.degenerate.min_words=9", "train.allow=[short]")
    assert all(row["train"] for row in table(dataset, "captions"))


def test_what_cannot_be_read_is_asked_again_and_then_says_why(house, dataset, model, tmp_path):
    prose = tmp_path / "prose-1.jinja"
    prose.write_text(tiny_vlm.PROMPT)  # asked without the word JSON it answers in prose
    path = config(tmp_path, dataset, captions=model, recipe={"prompt": str(prose)}, limit=6, resample=1)
    house.caption(path)
    for row in table(dataset, "captions"):
        # The complaint has the word, so that the second try may be right.
        assert row["tries"] == 2
        assert row["status"] == "ok" or "no answer that can be read in 2 tries: the answer has no JSON" in row["reason"]
    text = config(tmp_path, dataset, captions=model, recipe={"prompt": str(prose), "answer": "text"}, limit=6)
    house.caption(text)
    rows = [row for row in table(dataset, "captions") if row["train"]]
    assert len(rows) == 6
    assert all(row["tries"] == 1 and row["structured"] is None for row in rows)
    assert all(row["short"] == row["dense"] + "." for row in rows)


def test_hierarchical_describes_frames_and_sums_them_up(house, curated, dataset, model, tmp_path):
    words = {"prompt": "Say in one sentence what moves.", "frame_prompt": "What is seen, in short?"}
    words["summary_prompt"] = "Write one paragraph: {{ short }} {% for second, text in frames %}{{ text }} {% endfor %}"
    for name, text in words.items():
        (tmp_path / f"{name}.jinja").write_text(text)
    recipe = {"kind": "hierarchical", "every_s": 0.5, **{name: str(tmp_path / f"{name}.jinja") for name in words}}
    house.caption(config(tmp_path, dataset, captions=model, recipe=recipe, limit=16))
    rows = table(dataset, "captions")
    assert right(rows, curated[1], "short") >= 0.9
    for row in rows:
        assert row["dense"]  # what the tiny model says to words alone is not to be relied on
        assert 1 + 4 + 1 <= row["tries"] <= 1 + 4 + 3  # a summary that is flagged is asked for again, frames are not
        events = json.loads(row["structured"])["events"]
        assert any(curated[1][row["clip_id"]].colour in event for event in events)


def test_ways_of_captioning_side_by_side(house, dataset, model, tmp_path):
    other = tmp_path / "paragraph-1.jinja"
    other.write_text(tiny_vlm.PROMPT)
    ways = [
        {"name": "prose", "recipe": {"prompt": str(other), "answer": "text"}},
        {"name": "measured", "captions": {"kind": "attributes", "categories": False}},
    ]
    path = config(tmp_path, dataset, captions=model, compare=ways)
    text = house.caption(path, "recipe.answer=fields", limit=5, compare=True)
    page = (dataset / "report" / "compare.html").read_text()
    assert str(dataset / "report" / "compare.html") in text
    rows = table(dataset, "captions")
    assert len(rows) == 15
    assert {row["version"] for row in rows} == {"local", "prose", "measured"}
    assert all(row["clip_id"] in page and row["dense"] in page for row in rows)
    assert not any(row["train"] for row in rows), "a comparison decides nothing"
    assert "0 of 5 clips" in house.caption(path, limit=5), "what was compared is kept"
    assert sum(row["train"] for row in table(dataset, "captions")) == 5
    house.caption(path, limit=3, compare=True)
    assert sum(row["train"] for row in table(dataset, "captions")) == 5
    assert "compare what?" in house.caption(path, "compare=[]", compare=True, code=2)
    wrong = house.caption(path, "compare=[{recipe: {promt: a}}]", compare=True, code=2)
    assert "compare[0]" in wrong
    assert "did you mean 'prompt'" in wrong


def test_captions_that_are_there_are_taken_and_trained_with(house, curated, dataset, tmp_path):
    shown = curated[1]
    lines = ["clip_id,caption"]
    lines += [f"{clip_id},The video shows {clip.caption}." for clip_id, clip in list(shown.items())[:50]]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    brought = {"from": "csv", "path": str(tmp_path / "captions.csv")}
    text = house.caption(config(tmp_path, dataset, captions=brought, recipe={}))
    assert "clips 60: 50" in text
    rows = table(dataset, "captions")
    assert len(rows) == 50
    assert right(rows, shown) == 1
    assert all(row["model"] == "brought" and row["train"] for row in rows)
    assert all(row["dense"].startswith("A ") and row["text"].startswith("The video shows") for row in rows)


def test_brought_captions_are_one_version_and_a_changed_text_is_taken_anew(house, curated, dataset, tmp_path):
    names = sorted(curated[1])[:8]
    table_of = tmp_path / "captions.csv"

    def write(texts: list[str]) -> None:
        lines = [f"{name},{text}" for name, text in zip(names, texts, strict=True)]
        table_of.write_text("\n".join(["clip_id,caption", *lines]))

    write([f"A thing number {number} moves." for number in range(8)])
    path = config(tmp_path, dataset, captions={"from": "csv", "path": str(table_of)}, recipe={})
    house.caption(path, limit=30)
    house.caption(path)
    rows = table(dataset, "captions")
    assert len(rows) == 8
    assert len({row["fingerprint"] for row in rows}) == 1
    write(["Another thing moves.", *(f"A thing number {number} moves." for number in range(1, 8))])
    assert "1 of 60 clips are to be captioned" in house.caption(path)
    assert {row["clip_id"]: row["dense"] for row in table(dataset, "captions")}[names[0]] == "Another thing moves."


def test_a_prompt_is_read_once(house, dataset, model, tmp_path, monkeypatch):
    path = config(tmp_path, dataset, captions=model, limit=4)
    from captioning import captioner

    real = captioner.CaptionJob.setup

    def setup(job: captioner.CaptionJob) -> None:
        (tmp_path / "colours-1.jinja").unlink(missing_ok=True)
        real(job)

    monkeypatch.setattr(captioner.CaptionJob, "setup", setup)
    house.caption(path)
    assert all(row["status"] == "ok" for row in table(dataset, "captions"))


def test_a_wrong_key_ends_the_run(house, dataset, tmp_path):
    with faulty_server(lambda prompt, tries: "status:401") as (url, _):
        server = {"kind": "openai", "url": url, "model": "m", "retries": 0}
        assert "none of 10 questions" in house.caption(config(tmp_path, dataset, captions=server, limit=20), code=1)
    assert not list((dataset / "captioned").glob("*.parquet"))


@pytest.mark.parametrize(
    "captions",
    [
        {"kind": "openai", "url": "http://h/v1", "model": "m", "extra_body": {"a": {"api_key": "SECRET"}}},
        {"from": "csv", "path": "https://user:SECRET@host/captions.csv"},
        {"from": "csv", "path": "https://host/captions.csv?X-Amz-Signature=SECRET"},
    ],
)
def test_keys_do_not_get_into_the_data_set(house, dataset, tmp_path, captions):
    text = house.caption(config(tmp_path, dataset, captions=captions, recipe={}), code=2)
    assert "SECRET" not in text
    assert not any(b"SECRET" in file.read_bytes() for file in dataset.rglob("*.*") if file.is_file())


def test_a_rewrite_that_adds_words_is_not_taken(house, curated, dataset, model, tmp_path):
    lines = [f"{clip_id},The video shows {clip.caption} to the left." for clip_id, clip in curated[1].items()]
    (tmp_path / "captions.csv").write_text("\n".join(["clip_id,caption", *lines]))
    house.caption(config(tmp_path, dataset, captions={"from": "csv", "path": str(tmp_path)}, recipe={}, limit=6))
    recipe = {"kind": "rewrite", "of": "brought", "tries": 1}
    house.caption(config(tmp_path, dataset, captions=model, recipe=recipe, name="rewritten", limit=6))
    rows = {row["clip_id"]: row for row in table(dataset, "captions") if row["version"] == "rewritten"}
    assert len(rows) == 6
    for clip_id, row in rows.items():
        assert row["dense"] == f"A {curated[1][clip_id].caption.removeprefix('a ')} to the left."
        assert row["train"]
        assert row["reason"], "why the model's words were not taken"
        assert row["tries"] >= 2


def test_a_server_that_is_down_for_good_ends_the_run(house, dataset, tmp_path):
    server = {"kind": "openai", "url": f"http://127.0.0.1:{free_port()}/v1", "model": "m", "retries": 1}
    server |= {"wait_s": 0.01, "longest_wait_s": 0.02, "max_wait_s": 1}
    path = config(tmp_path, dataset, captions=server, limit=20)
    assert "none of 10 questions was answered" in house.caption(path, code=1)
    assert not list((dataset / "captioned").glob("*.parquet"))
    house.caption(path, "limit=3")  # too few to tell: rows that the next run asks again
    rows = table(dataset, "captions")
    assert [row["status"] for row in rows] == ["failed"] * 3
    assert all(row["retry"] and "connection" in row["reason"] for row in rows)
    assert "3 of 3 clips are to be captioned" in house.caption(path, "limit=3")


def test_attributes_need_no_model_and_say_so(house, dataset, tmp_path):
    path = config(tmp_path, dataset, captions={"kind": "attributes", "categories": False}, recipe={}, limit=8)
    text = house.caption(path)
    assert "attributes-1" in text
    assert all(row["model"].startswith("attributes-1") and row["dense"] for row in table(dataset, "captions"))


def test_a_takedown_takes_captions_along(house, curated, dataset, model, tmp_path):
    path = config(tmp_path, dataset, captions=model, limit=30)
    house.caption(path)
    victim = table(dataset, "captions")[0]["clip_id"][:16]
    rushes("forget", dataset, victim, "--yes")
    left = table(dataset, "captions")
    assert left
    assert not [row for row in left if row["clip_id"].startswith(victim)]
    house.caption(path, "limit=null")
    rows = table(dataset, "captions")
    assert not [row for row in rows if row["clip_id"].startswith(victim)]
    assert len(rows) == len(table(dataset, "clips"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["dataset=nowhere"], "run `rushes curate` first"),
        (["captions.kind=lokal"], "captions"),
        (["recipe.prompt=none-1"], "Give a file, or one of"),
        (["captions={kind: text}"], "sees no pictures"),
        (["captions={kind: attributes}", "recipe={kind: hierarchical}"], "leave recipe out"),
        (["captions={kind: openai, url: 'http://h/v1', model: m, api_key_env: sk-SECRET}"], "environment variable"),
        (["frames.polcy=fps"], "did you mean 'policy'"),
        (["recipe={kind: rewrite, of: other}"], "there is no version 'other'"),
    ],
)
def test_what_is_wrong_is_refused_before_any_work(house, dataset, model, tmp_path, settings, says):
    text = house.caption(config(tmp_path, dataset, captions=model), *settings, code=2)
    assert says in " ".join(text.split())
    assert "SECRET" not in text
    assert not (dataset / "captioned").exists() or not list((dataset / "captioned").glob("*.parquet"))
