"""Labels of a language model: asked over real sockets, committed a video each, published, selected by, taken down."""

from __future__ import annotations

import base64
import json
import pickle
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import helpers_captions
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_vlm
import yaml
from helpers_curate import rushes, table
from helpers_inprocess import House
from helpers_openai import backend
from rich.console import Console

from captioning.backend import Answer
from captioning.frames import FramesConfig
from captioning.job import Pictures
from captioning.json_answer import read
from captioning.labels import LabelsConfig, LabelsJob, Verdict, last_run, states, wanted
from captioning.todo import clip_rows
from captioning.work import drive
from curation.commands import select
from curation.config import CurateConfig
from curation.dataset.explain import explain, render
from curation.dataset.forget import forget
from curation.dataset.vlm_labels import LEDGER, are_published, latest, vlm_labels
from curation.read import read_clip
from curation.scorers.labels import LABELS
from orchestration.config import parse_config
from orchestration.errors import ConfigError
from orchestration.storage import Storage

# What the server sees in a picture, by its colour.
SEEN: dict[str, dict[str, Any]] = {
    "red": {"lecture": 0.9},
    "green": {"lecture": "no", "screenshot": "yes"},
    "blue": {"lecture": "unsure", "editing": "unsure", "low_quality": 0.25},
    "yellow": {},
}
VIDEOS = {"one": ("red", "green"), "two": ("blue", "red"), "three": ("yellow", "green")}
SHOTS = {"kind": "stride", "seconds": 2.0}
CLASSIFIED = ({"kind": "exposure"}, {"kind": "labels"})
ALL_LABELS = {name.removeprefix("label_") for name in LABELS}


def said(**labels: Any) -> str:
    return json.dumps({"evidence": "what is seen", **dict.fromkeys(sorted(ALL_LABELS), 0.0), **labels})


@contextmanager
def labeller(broken: Callable[[str, int], str | None] = lambda *_: None) -> Iterator[tuple[str, list[Any]]]:
    """A server with chat completions that knows colours. `broken`: (colour, its tries before) → another answer."""
    bodies: list[Any] = []
    tries: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            urls = [part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
            colours = {colour_of(url) for url in urls}
            colour = colours.pop()
            assert not colours, "frames of several clips in one question"
            text = broken(colour, tries[colour]) or f"```json\n{said(**SEEN[colour])}\n```"
            tries[colour] += 1
            usage = {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140}
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            reply = json.dumps({"choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    finally:
        server.shutdown()
        server.server_close()


def colour_of(url: str) -> str:
    data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert picture is not None
    mean = picture[..., ::-1].mean(axis=(0, 1))
    return min(SEEN, key=lambda name: float(np.abs(mean - tiny_vlm.COLOURS[name]).sum()))


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    raw = tmp_path_factory.mktemp("raw")
    for name, colours in VIDEOS.items():
        frames = [np.full((64, 96, 3), tiny_vlm.COLOURS[colour], np.uint8) for colour in colours for _ in range(20)]
        for step, frame in enumerate(frames):
            frame[8:16, 4 * (step % 20) : 4 * (step % 20) + 8] //= 2
        tiny_vlm.write_mp4(tiny_vlm.Clip(name, "", "", frames, [step / 10 for step in range(40)]), raw / f"{name}.mp4")
    with pytest.MonkeyPatch.context() as patch:
        yield House(raw, tmp_path_factory.mktemp("cache"), patch)


@pytest.fixture(scope="module")
def curated(house, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "dataset"
    house.curate(output, scorers=CLASSIFIED, shots=SHOTS, select="all")
    return output


@pytest.fixture
def dataset(curated, tmp_path) -> Path:
    shutil.copytree(curated, tmp_path / "dataset")
    return tmp_path / "dataset"


def job_of(dataset: Path, run: int | None = None, model: str = "m", **settings: Any) -> LabelsJob:
    number = last_run(Storage(dataset)) + 1 if run is None else run
    config = LabelsConfig(**settings)
    job = LabelsJob(str(dataset), config, FramesConfig(policy="uniform", count=3), model, number)
    job = pickle.loads(pickle.dumps(job))  # as it travels to a worker
    job.setup()
    return job


def shown(dataset: Path) -> dict[str, str]:
    """clip_id → colour."""
    uris = {row["video_id"]: Path(row["uri"]).stem for row in table(dataset, "videos")}
    return {row["clip_id"]: VIDEOS[uris[row["video_id"]]][row["start_frame"] >= 20] for row in table(dataset, "clips")}


def pairs_of(job: LabelsJob, names: Sequence[str]) -> list[tuple[dict[str, Any], Pictures]]:
    pairs = []
    for row in clip_rows(Storage(job.dataset), set(names)):
        plan = job.plan(row)
        assert plan is not None
        frames = read_clip(row, plan.indices, plan.size, root=job.dataset)
        pairs.append((row, Pictures(plan.indices, plan.seconds, list(frames))))
    return pairs


def ask(job: LabelsJob, names: Sequence[str], url: str) -> list[dict[str, Any]]:
    asked = backend(url, max_pixels=64 * 96)
    return drive(job, pairs_of(job, names), lambda by, requests: asked.answer(requests))


def label(dataset: Path, key: str = "chunk", **settings: Any) -> list[dict[str, Any]]:
    """All kept clips are asked about, in one chunk."""
    job = job_of(dataset, **settings)
    with labeller() as (url, _):
        rows = ask(job, sorted(wanted(Storage(dataset), job.config)), url)
    job.commit(f"{key}{job.run}", rows)
    return rows


def answered(job: LabelsJob, row: dict[str, Any], *texts: str | Answer, frames: int = 2) -> dict[str, Any]:
    """The row that comes of these answers; all of them must be asked for."""
    pictures = Pictures(tuple(range(frames)), (0.0,) * frames, [np.zeros((8, 8, 3), np.uint8)] * frames)
    steps = job.steps(row, pictures)
    asked = [next(steps)]
    for number, text in enumerate(texts):
        key = asked[-1].requests[0].key
        answer = text if isinstance(text, Answer) else Answer(key, "ok", text, "stop", 10, 5, seconds=0.5)
        try:
            asked.append(steps.send([answer]))
        except StopIteration as ended:
            assert number == len(texts) - 1
            return {**ended.value, "prompts": [one.requests[0].prompt for one in asked]}
    raise AssertionError("it asks again")


def write(dataset: Path, path: Path, rules: Any, scorers: Sequence[Any] = CLASSIFIED) -> Path:
    settings = {"input": "raw", "output": str(dataset), "shots": SHOTS, "report": {"enabled": False}}
    path.write_text(yaml.safe_dump({**settings, "select": rules, "scorers": list(scorers)}))
    return path


def kept(dataset: Path) -> set[str]:
    return {row["clip_id"] for row in pq.read_table(dataset / "selection.parquet").to_pylist() if row["kept"]}


# What is asked and read.


def test_the_six_labels_are_asked_for_and_the_prompt_names_them():
    assert set(Verdict.model_fields) == {"evidence", *ALL_LABELS}
    job = LabelsJob("x", LabelsConfig(), FramesConfig(), "m", 1)
    text = job.prompt.render()
    assert all(f'"{name}": 0.0' in text and f"\n{name}: " in text for name in ALL_LABELS)
    assert text.index('"evidence"') < min(text.index(f'"{name}"') for name in ALL_LABELS)


def test_numbers_and_words_are_read():
    read_as = read(said(editing=1, lecture="Yes", screenshot="no", low_quality="unsure", text_dominated=0.25), Verdict)
    columns = read_as.columns(several=True)
    assert columns["label_editing"] == columns["label_lecture"] == 1.0
    assert (columns["label_screenshot"], columns["label_low_quality"]) == (0.0, None)
    assert columns["label_text_dominated"] == 0.25
    still = read_as.columns(several=False)
    assert {name for name in LABELS if still[name] is None and columns[name] is not None} == {
        "label_lecture",
        "label_disconnected_motion",
    }


BAD = [
    *(said(lecture=value) for value in (1.01, -0.01, 85, True, None, "0.5", "maybe", "", [0.5], {"p": 0.5})),
    *(said().replace("0.0", word, 1) for word in ("NaN", "Infinity", "-Infinity", "1e999")),
    json.dumps({"evidence": "x", "lecture": 0.1}),  # five are missing
    json.dumps(dict.fromkeys(ALL_LABELS, 0.0)),  # no evidence
    said(evidence=""),
    said(nudity=0.1),
    said().replace('"editing"', '"lecture"'),  # twice
    f"{said(lecture=0.1)} or {said(lecture=0.9)}",
    said()[:-5],
    "It is a lecture.",
    "",
    "{" * 3000,
]


@pytest.mark.parametrize("bad", BAD)
def test_an_answer_that_cannot_be_read_is_asked_for_again_and_told_why(bad):
    job = LabelsJob("x", LabelsConfig(), FramesConfig(), "m", 1)
    row = {"clip_id": "c", "video_id": "v"}
    with pytest.raises(ValueError, match=r"\w") as wrong:
        read(bad, Verdict)
    mended = answered(job, row, bad, said(lecture=0.75))
    assert (mended["status"], mended["label_lecture"], mended["tries"]) == ("ok", 0.75, 2)
    assert (mended["prompt_tokens"], mended["output_tokens"], mended["seconds"]) == (20, 10, 1.0)
    first, second = mended["prompts"]
    assert second.startswith(first)
    assert str(wrong.value) in second
    failed = answered(job, row, bad, bad)
    assert (failed["status"], failed["retry"], failed["tries"]) == ("failed", False, 2)
    assert str(wrong.value) in failed["reason"]
    assert failed["text"] == (bad or None)
    assert not any(name in failed for name in LABELS)


def test_what_is_wrong_is_said_of_the_field():
    with pytest.raises(ValueError, match=r'lecture: give a number from 0 to 1, or "yes", "no" or "unsure"'):
        read(said(lecture="maybe"), Verdict)
    with pytest.raises(ValueError, match=r"nudity: .*known: evidence, editing"):
        read(said(nudity=0.1), Verdict)


def test_failures_of_the_backend_and_of_reading_are_rows():
    job = LabelsJob("x", LabelsConfig(), FramesConfig(), "m", 1)
    row = {"clip_id": "c", "video_id": "v"}
    down = answered(job, row, Answer("c", "failed", reason="connection refused", passing=True))
    assert (down["status"], down["reason"], down["retry"], down["tries"]) == ("failed", "connection refused", True, 1)
    later = answered(job, row, "no JSON", Answer("c", "failed", reason="refused", passing=False))
    assert (later["status"], later["reason"], later["retry"], later["tries"]) == ("failed", "refused", False, 2)
    steps = job.steps(row, Pictures(reason="its file is gone"))
    with pytest.raises(StopIteration) as ended:
        next(steps)
    assert (ended.value.value["status"], ended.value.value["reason"]) == ("failed", "its file is gone")
    assert job.crashed(row, "killed its worker")["reason"] == "killed its worker"


def test_an_answer_that_was_cut_off_may_be_longer():
    job = LabelsJob("x", LabelsConfig(max_tokens=50), FramesConfig(), "m", 1)
    steps = job.steps({"clip_id": "c", "video_id": "v"}, Pictures((0,), (0.0,), [np.zeros((8, 8, 3), np.uint8)]))
    assert next(steps).requests[0].sampling.max_tokens == 50
    assert steps.send([Answer("c", "ok", '{"evidence": "x', "length")]).requests[0].sampling.max_tokens == 100


def test_who_is_asked_what_has_a_name(tmp_path):
    first = LabelsJob("x", LabelsConfig(), FramesConfig(), "m", 1)
    own = tmp_path / "own.jinja"
    own.write_text("Say it in JSON.")
    others = [
        LabelsJob("x", LabelsConfig(), FramesConfig(), "n", 1),
        LabelsJob("x", LabelsConfig(prompt=str(own)), FramesConfig(), "m", 1),
        LabelsJob("x", LabelsConfig(), FramesConfig(fps=1), "m", 1),
        LabelsJob("x", LabelsConfig(seed=2), FramesConfig(), "m", 1),
    ]
    assert len({first.measured, *(job.measured for job in others)}) == 5
    assert LabelsJob("y", LabelsConfig(clips="all"), FramesConfig(), "m", 7).measured == first.measured
    with pytest.raises(ConfigError, match="nowhere"):
        LabelsJob("x", LabelsConfig(prompt="nowhere"), FramesConfig(), "m", 1)


# From the server to the selection.


def test_select_drops_what_the_model_saw(dataset, tmp_path, capsys):
    colours = shown(dataset)
    before = {row["clip_id"]: row for row in table(dataset, "clips")}
    rows = label(dataset)
    assert {row["status"] for row in rows} == {"ok"}
    assert are_published(Storage(dataset)) is False
    config = write(dataset, tmp_path / "c.yaml", {"rules": [{"label_lecture": {"max": 0.5, "missing": "keep"}}]})
    select(config, [])
    assert "4 clips kept (-2)" in capsys.readouterr().out
    assert kept(dataset) == {name for name, colour in colours.items() if colour != "red"}
    for row in table(dataset, "clips"):
        was, colour = before[row["clip_id"]], colours[row["clip_id"]]
        for name in LABELS:
            value = SEEN[colour].get(name.removeprefix("label_"), 0.0)
            value = {"yes": 1.0, "no": 0.0}.get(value, value)
            expected = was[name] if value == "unsure" else value
            assert row[name] == (pytest.approx(expected) if expected is not None else None), (colour, name)
        assert row["measured"] == [*was["measured"], job_of(dataset).measured]
        assert {**row, **{name: was[name] for name in (*LABELS, "measured")}} == was
    assert any(before[name]["label_editing"] for name in before)  # what the model is unsure of was known


def test_the_command_asks_what_is_missing_and_refuses_who_cannot_see(dataset, tmp_path, monkeypatch):
    captions = helpers_captions.House(monkeypatch)
    with labeller() as (url, bodies):
        server = {"kind": "openai", "url": url, "model": "m", "wait_s": 0.01}
        frames = {"policy": "uniform", "count": 3}
        path = helpers_captions.config(tmp_path, dataset, captions=server, recipe={}, frames=frames)
        label(dataset)  # of another model: no answer of its stands for this one
        text = rushes("caption", "labels", path)
        assert "6 of 6 clips are to be looked at" in text
        assert "6 ok + 0 failed" in text
        assert len(bodies) == 6
        assert "0 of 6 clips" in captions.caption("labels", path)
    config = write(dataset, tmp_path / "c.yaml", {"rules": [{"label_lecture": {"max": 0.5, "missing": "keep"}}]})
    select(config, [])
    assert kept(dataset) == {name for name, colour in shown(dataset).items() if colour != "red"}
    blind = captions.caption("labels", path, "captions={kind: attributes}", code=2)
    assert "sees no pictures" in blind
    assert "not with labels" in captions.caption("labels", path, compare=True, code=2)


def test_select_publishes_only_where_there_are_new_labels(dataset, tmp_path):
    config = write(dataset, tmp_path / "c.yaml", "all")
    clips = dataset / "clips" / "00000.parquet"

    def published() -> int:
        select(config, [])
        return clips.stat().st_mtime_ns

    first = published()
    assert published() == first
    label(dataset)
    second = published()
    assert second != first
    assert published() == second
    label(dataset)
    third = published()
    assert third != second
    shutil.rmtree(dataset / LEDGER)
    assert published() != third
    assert are_published(Storage(dataset))


def test_the_classifiers_come_back_with_the_labels_gone(house, dataset, tmp_path):
    before = table(dataset, "clips")
    label(dataset)
    house.curate(dataset, scorers=CLASSIFIED, shots=SHOTS, select="all")
    labelled = table(dataset, "clips")
    assert [row["label_lecture"] for row in labelled] != [row["label_lecture"] for row in before]
    house.curate(dataset, scorers=CLASSIFIED, shots=SHOTS, select="all")
    assert table(dataset, "clips") == labelled  # nothing is looked at again for the further token
    shutil.rmtree(dataset / LEDGER)
    select(write(dataset, tmp_path / "c.yaml", "all"), [])
    assert table(dataset, "clips") == before


def test_scores_that_come_later_do_not_take_the_labels_over(house, curated, tmp_path):
    output = tmp_path / "dataset"
    house.curate(output, scorers=CLASSIFIED[:1], shots=SHOTS, select="all")
    label(output)
    house.curate(output, scorers=CLASSIFIED, shots=SHOTS, select="all")
    assert [row["label_lecture"] for row in table(output, "clips")] != [
        row["label_lecture"] for row in table(curated, "clips")
    ]
    shutil.rmtree(output / LEDGER)
    select(write(output, tmp_path / "c.yaml", "all"), [])
    for row, expected in zip(table(output, "clips"), table(curated, "clips"), strict=True):
        assert {name: row[name] for name in LABELS} == {name: expected[name] for name in LABELS}


def test_labels_without_the_scorer(house, tmp_path):
    output = tmp_path / "dataset"
    rule = {"label_lecture": {"max": 0.5, "missing": "keep"}}
    house.curate(output, scorers=[{"kind": "exposure"}], shots=SHOTS, select={"rules": [rule]})
    assert len(kept(output)) == 6
    label(output)
    assert "4 clips kept (-2)" in rushes(
        "select", write(output, tmp_path / "c.yaml", {"rules": [rule]}, CLASSIFIED[:1])
    )
    colours = shown(output)
    assert kept(output) == {name for name, colour in colours.items() if colour != "red"}
    blue = next(row for row in table(output, "clips") if colours[row["clip_id"]] == "blue")
    assert (blue["label_editing"], blue["label_low_quality"]) == (None, 0.25)


def test_a_strict_rule_on_labels_needs_the_scorer():
    data = {"input": "a", "output": "b", "scorers": [{"kind": "exposure"}]}
    with pytest.raises(ConfigError, match="no scorer of this configuration measures label_lecture"):
        parse_config(CurateConfig, {**data, "select": {"rules": [{"label_lecture": {"max": 0.5}}]}}, "c.yaml")


def test_an_answer_that_stays_broken_is_a_failed_row(dataset, tmp_path):
    colours = shown(dataset)
    before = {row["clip_id"]: row for row in table(dataset, "clips")}
    broken = {"blue": lambda tries: "a blue screen", "yellow": lambda tries: None if tries else said(lecture=2)}
    job = job_of(dataset)
    with labeller(lambda colour, tries: broken.get(colour, lambda _: None)(tries)) as (url, bodies):
        job.commit("chunk", ask(job, list(colours), url))
    assert len(bodies) == 6 + 2  # one more for the blue one and for the yellow one
    found = states(Storage(dataset), job.measured)
    assert {colours[name] for name, state in found.items() if state == "failed"} == {"blue"}
    assert found.keys() == colours.keys()
    select(write(dataset, tmp_path / "c.yaml", "all"), [])
    for row in table(dataset, "clips"):
        labelled = row["measured"] != before[row["clip_id"]]["measured"]
        assert labelled == (colours[row["clip_id"]] != "blue")
    blue = next(row for row in table(dataset, "clips") if colours[row["clip_id"]] == "blue")
    assert blue == before[blue["clip_id"]]


def test_the_latest_run_counts_and_no_failure_hides_an_answer(dataset):
    name = min(shown(dataset))
    storage = Storage(dataset)
    (row,) = clip_rows(storage, {name})
    for model, text in (("b", said(lecture=0.25)), ("a", said(lecture=0.75))):
        job = job_of(dataset, model=model)
        job.commit("fade" if model == "a" else "feed", [answered(job, row, text)])
    assert last_run(storage) == 2
    lecture = list(LABELS).index("label_lecture")
    assert latest(storage)[name][1][lecture] == 0.75
    again = job_of(dataset, model="a")
    again.commit("face", [again.crashed(row, "killed")])
    assert latest(storage)[name][1][lecture] == 0.75
    assert states(storage, again.measured) == {name: "ok"}
    vlm_labels(storage).pack(1)
    measured, values = latest(storage)[name]
    assert (measured, values[lecture]) == (again.measured, 0.75)


# Kills and takedown.


def test_a_chunk_is_committed_only_with_all_its_videos(house, dataset):
    names = sorted(shown(dataset))
    storage = Storage(dataset)
    job = job_of(dataset)
    rows = [answered(job, row, said()) for row in clip_rows(storage, set(names))]
    kills = 0
    while True:
        shutil.rmtree(dataset / LEDGER, ignore_errors=True)
        with house.killed_before(kills) as hit:
            job.commit("abc", rows)
        assert job.is_committed("abc") == (not hit)
        assert len(states(storage, job.measured)) == 2 * kills
        if not hit:
            break
        job.commit("abc", rows)
        assert job.is_committed("abc")
        assert sorted(states(storage, job.measured)) == names
        kills += 1
    assert kills == 3  # one row a video
    records = [record for found in vlm_labels(storage).read() for record in found.to_pylist()]
    assert all(clip["clip_id"].startswith(record["video_id"][:16]) for record in records for clip in record["clips"])


def test_takedown_removes_a_videos_labels_and_no_others(dataset, tmp_path):
    label(dataset)
    select(write(dataset, tmp_path / "c.yaml", "all"), [])
    colours = shown(dataset)
    victim = next(row["video_id"] for row in table(dataset, "videos") if "two" in row["uri"])
    forget(Storage(dataset), victim)
    left = {name for name in colours if not name.startswith(victim[:16])}
    assert latest(Storage(dataset)).keys() == left
    data = b"".join(path.read_bytes() for path in (dataset / LEDGER).glob("*"))
    assert victim.encode() not in data
    rows = table(dataset, "clips")
    assert {row["clip_id"] for row in rows} == left
    select(write(dataset, tmp_path / "c.yaml", "all"), [])
    assert table(dataset, "clips") == rows


# What people see.


def test_explain_says_whose_label_it_is(dataset, tmp_path):
    colours = shown(dataset)
    blue = next(name for name, colour in colours.items() if colour == "blue")
    assert explain(Storage(dataset), blue)["labels"] is None
    label(dataset, model="a model")
    select(write(dataset, tmp_path / "c.yaml", "all"), [])
    facts = explain(Storage(dataset), blue)
    assert (facts["labels"]["model"], facts["labels"]["label_lecture"]) == ("a model", None)
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(render(facts, {}))
    text = console.export_text()
    assert "a model gave label_disconnected_motion, label_low_quality, label_text_dominated, label_screenshot" in text
    assert "what is seen" in text


def test_kept_clips_are_asked_about_unless_all_are_wanted(dataset, tmp_path):
    storage = Storage(dataset)
    names = set(shown(dataset))
    select(write(dataset, tmp_path / "c.yaml", {"rules": [{"exposure": {"max": 0.5}}]}), [])
    assert wanted(storage, LabelsConfig()) == kept(dataset) != names
    assert wanted(storage, LabelsConfig(clips="all")) == names
    assert wanted(storage, LabelsConfig(clips="all"), 2) < names
    assert len(wanted(storage, LabelsConfig(clips="all"), 2)) == 2
