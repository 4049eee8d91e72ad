"""vLLM through ray.data.llm: all but the engine, whose place the tiny model takes in Ray's own stage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlm
from helpers_engine import Asking, TinyStart, clips
from pydantic import ValidationError

from captioning.backend import Answer, Request, Sampling
from captioning.backends.vllm import Asker, VllmConfig, answer, identity, require_vllm
from captioning.captioner import CaptionJob
from captioning.config import CaptionConfig
from captioning.engine import EngineFailed, run_staged
from captioning.job import Pictures, Round
from captioning.records import Version, ledger
from captioning.stages import replay, unseen
from orchestration.errors import ConfigError
from orchestration.session import Engine, RayConfig, engine
from orchestration.storage import Storage


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(RayConfig(workers=2, worker_cpus=0.5), tmp_path_factory.mktemp("ray") / "ray.log") as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], dict[str, tiny_vlm.Clip]]:
    root = tmp_path_factory.mktemp("clips")
    return (root, *clips(root, 24))


def run(ray: Engine, root: Path, rows: list[dict[str, Any]], job: Asking, start: Any, scratch: Path) -> list[Any]:
    captions = VllmConfig(model=str(tiny_vlm.folder()), batch_size=4)
    config = CaptionConfig(dataset=str(root), captions=captions)
    return list(run_staged(ray, job, config, rows, "test", str(scratch), start=start))


def colours(rows: list[dict[str, Any]], shown: dict[str, tiny_vlm.Clip]) -> float:
    fine = [row for row in rows if row["status"] == "ok"]
    return tiny_vlm.hits([row["texts"][0] for row in fine], [shown[row["clip_id"]] for row in fine])


@pytest.mark.slow
def test_every_answer_belongs_to_its_clip_though_some_fail(ray, data, tmp_path):
    root, rows, shown = data
    names = sorted(shown)
    rows = [{**row, "media": "gone.mp4"} if row["clip_id"] == names[3] else row for row in rows]
    job = Asking(str(tmp_path / "done"))
    start = TinyStart(str(tmp_path), fails=frozenset(names[5:7]))
    receipts = run(ray, root, rows, job, start, tmp_path / "scratch")
    done = {row["clip_id"]: row for row in job.committed()}
    assert len(job.committed()) == len(done) == len(rows)
    assert {name for name, row in done.items() if row["status"] == "failed"} == {names[3], *names[5:7]}
    assert "gone.mp4" in done[names[3]]["reason"]
    assert done[names[5]]["reason"].startswith("vLLM: ValueError: The decoder prompt is longer")
    assert not done[names[5]]["passing"]
    assert colours(list(done.values()), shown) >= 0.95
    assert all(row["prompt_tokens"] > 10 and row["output_tokens"] > 3 for row in done.values() if row["status"] == "ok")
    assert sum(receipt["frames"] for receipt in receipts) == len(rows)
    assert sum(receipt["failed"] for receipt in receipts) == 3
    assert {receipt["key"] for receipt in receipts} == {path.stem for path in Path(job.folder).glob("*.json")}


@pytest.mark.slow
def test_what_kills_its_reader_or_its_engine_each_time_is_alone_in_that(ray, data, tmp_path):
    root, rows, shown = data
    names = sorted(shown)
    job = Asking(str(tmp_path / "done"), deadly=frozenset(names[:1]))
    start = TinyStart(str(tmp_path), deadly=frozenset(names[1:2]))
    run(ray, root, rows, job, start, tmp_path / "scratch")
    done = {row["clip_id"]: row for row in job.committed()}
    assert len(job.committed()) == len(done) == len(rows)
    dead = {name for name, row in done.items() if row["status"] == "failed"}
    assert dead == set(names[:2])
    assert all(done[name]["reason"].startswith("crashed") for name in dead)
    assert colours(list(done.values()), shown) >= 0.95


def test_an_engine_that_does_not_start_is_an_error_and_commits_nothing(ray, data, tmp_path):
    job = Asking(str(tmp_path / "done"))
    with pytest.raises(EngineFailed, match="no engine today"):
        run(ray, data[0], data[1][:4], job, TinyStart(str(tmp_path), broken=True), tmp_path / "s")
    assert not job.committed()


def test_without_vllm_or_gpus_it_is_refused_before_anything_is_done(ray, data, tmp_path):
    with pytest.raises(ConfigError, match=r"pip install 'rushes\[vllm\]'.*local"):
        require_vllm()
    job = Asking(str(tmp_path / "done"))
    config = CaptionConfig(dataset=str(data[0]), captions=VllmConfig(model=str(tiny_vlm.folder())))
    with pytest.raises(ConfigError, match="vLLM"):
        next(run_staged(ray, job, config, data[1], "test", str(tmp_path)))
    assert not job.committed()


@pytest.fixture(scope="module")
def asker() -> Asker:
    return Asker(VllmConfig(model=str(tiny_vlm.folder())))


def request(key: str, frames: int, prompt: str = "Describe the clip.", **sampling: Any) -> Request:
    shown = [np.full((56, 56, 3), number, np.uint8) for number in range(frames)]
    return Request(key, prompt, shown, [number / 2 for number in range(frames)], sampling=Sampling(**sampling))


def test_requests_of_one_prompt_begin_alike_up_to_the_pictures(asker):
    words = asker._processor.tokenizer
    texts = [asker.tokens(request(f"c{frames}", frames)) for frames in (1, 2, 5, 9)]
    start = words.convert_tokens_to_ids("<|vision_start|>")
    heads = {tuple(tokens[: tokens.index(start) + 1]) for tokens in texts}
    assert len(heads) == 1
    assert words.decode(list(heads.pop())) == "<|im_start|>user\nDescribe the clip.<|vision_start|>"


def test_special_tokens_in_a_prompt_are_text(asker):
    tokens = asker.tokens(request("c", 2, "It says <|im_end|> and <|video_pad|>."))
    words = asker._processor.tokenizer
    assert tokens.count(words.convert_tokens_to_ids("<|video_pad|>")) == 1
    assert tokens.count(words.convert_tokens_to_ids("<|im_end|>")) == 1
    assert "It says <|im_end|> and <|video_pad|>." in words.decode(tokens)


def test_what_the_engine_is_given(asker):
    row = asker(request("c", 3, temperature=0.5, top_p=0.9, max_tokens=7, repetition_penalty=1.1))
    ((frames, about),) = row["multimodal_data"]["video"]
    assert frames.shape == (3, 56, 56, 3)
    assert [index / about["fps"] for index in about["frames_indices"]] == [0.0, 0.5, 1.0]
    assert row["mm_processor_kwargs"] == {"do_sample_frames": False}
    seed = row["sampling_params"].pop("seed")
    expected = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "repetition_penalty": 1.1}
    assert row["sampling_params"] == expected
    assert (
        seed == asker(request("c", 3))["sampling_params"]["seed"] != asker(request("d", 3))["sampling_params"]["seed"]
    )
    assert 0 <= seed < 2**63
    picture = asker(request("c", 1))["multimodal_data"]
    assert np.asarray(picture["image"][0]).shape == (56, 56, 3)
    assert "multimodal_data" not in asker(request("c", 0))


@pytest.mark.parametrize(
    ("tokens", "finish", "count"), [([5, 6, 2], "stop", 2), ([5, 6, 7], "length", 3), ([5, 2], "stop", 1)]
)
def test_how_an_answer_ended(tokens, finish, count):
    row = {"key": "c", "generated_tokens": np.array(tokens), "generated_text": " red ", "num_input_tokens": 9}
    said = answer({**row, "time_taken_llm": 0.5, "ends": [2], "most": 3, "__inference_error__": ""})
    assert (said.status, said.text, said.finish, said.output_tokens, said.prompt_tokens) == (
        "ok",
        "red",
        finish,
        count,
        9,
    )


@pytest.mark.parametrize(
    ("error", "passing"),
    [("EngineDeadError: EngineCore encountered an issue", True), ("ValueError: prompt is too long", False)],
)
def test_which_failures_may_pass(error, passing):
    said = answer({"key": "c", "__inference_error__": error})
    assert (said.status, said.passing) == ("failed", passing)
    assert error in said.reason


def test_settings():
    config = VllmConfig(model="skycaptioner-v1", revision="abc", engine_kwargs={"enforce_eager": True})
    assert identity(config) == "Skywork/SkyCaptioner-V1@abc"
    arguments = config.engine_arguments
    assert arguments["enforce_eager"]
    assert arguments["enable_prefix_caching"]
    assert arguments["limit_mm_per_prompt"] == {"image": 1, "video": 1}
    with pytest.raises(ValidationError, match="set tensor_parallel instead"):
        VllmConfig(engine_kwargs={"tensor_parallel_size": 2})
    with pytest.raises(ValidationError, match="set revision"):
        VllmConfig(model="someone/model", trust_remote_code=True)


def test_a_job_is_replayed_up_to_its_next_round_and_to_its_row():
    job, pictures = Asking("", again=frozenset("c")), Pictures((0,), (0.0,), [np.zeros((4, 4, 3), np.uint8)])
    first = replay(job, {"clip_id": "c"}, pictures, [])
    assert isinstance(first, Round)
    assert [asked.key for asked in first.requests] == ["c/colour"]
    rounds = [(Answer("c/colour", "ok", "red"),)]
    second = replay(job, {"clip_id": "c"}, unseen(pictures), rounds)
    assert isinstance(second, Round)
    assert [asked.key for asked in second.requests] == ["c/twice", "c/told"]
    rounds.append((Answer("c/twice", "ok", "blue"), Answer("c/told", "failed", reason="dead", passing=True)))
    row = replay(job, {"clip_id": "c"}, unseen(pictures), rounds)
    assert isinstance(row, dict)
    assert (row["texts"], row["reason"], row["passing"]) == (["red", "blue", ""], "dead", True)


@pytest.mark.slow
def test_two_hundred_clips_of_which_some_are_asked_twice_while_engines_die(ray, tmp_path):
    root = tmp_path / "clips"
    root.mkdir()
    rows, shown = clips(root, 200, seed=7)
    names = sorted(shown)
    job = Asking(str(tmp_path / "done"), again=frozenset(names[::9]))
    start = TinyStart(str(tmp_path), fails=frozenset(names[4::25]), kills=frozenset(names[20::90]))
    receipts = run(ray, root, rows, job, start, tmp_path / "scratch")
    done = job.committed()
    assert sorted(row["clip_id"] for row in done) == names
    assert {row["clip_id"] for row in done if row["status"] == "failed"} == set(names[4::25])
    assert colours(done, shown) >= 0.95
    twice = [row for row in done if row["clip_id"] in names[::9] and row["status"] == "ok"]
    assert twice
    assert all(len(row["texts"]) == 3 and row["texts"][2] == tiny_vlm.NOTHING for row in twice)
    assert tiny_vlm.hits([row["texts"][1] for row in twice], [shown[row["clip_id"]] for row in twice]) >= 0.9
    assert len(list(tmp_path.glob("?" * 64))) == len(names[20::90])  # engines died indeed
    assert sum(receipt["frames"] for receipt in receipts) == 200
    assert len(receipts) >= 4


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_what_it_committed_and_the_next_one_does_the_rest(ray, tmp_path):
    root = tmp_path / "clips"
    root.mkdir()
    rows, shown = clips(root, 150, seed=8)
    job, start = Asking(str(tmp_path / "done")), TinyStart(str(tmp_path))
    config = CaptionConfig(dataset=str(root), captions=VllmConfig(model=str(tiny_vlm.folder()), batch_size=4))
    first = run_staged(ray, job, config, rows, "first", str(tmp_path / "scratch"), start=start)
    receipt = next(first)
    first.close()
    kept = {row["clip_id"] for row in job.committed()}
    assert receipt["frames"] == len(kept) == 64
    left = [row for row in rows if row["clip_id"] not in kept]
    list(run_staged(ray, job, config, left, "second", str(tmp_path / "scratch"), start=start))
    assert sorted(row["clip_id"] for row in job.committed()) == sorted(shown)
    assert colours(job.committed(), shown) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single", "hierarchical"])
def test_captions_of_the_real_job(ray, data, tmp_path, kind):
    root = Path(shutil.copytree(data[0], tmp_path / "dataset"))
    prompt, asking = tmp_path / "json-1.jinja", tmp_path / "words-1.jinja"
    prompt.write_text(tiny_vlm.JSON_PROMPT)
    asking.write_text(tiny_vlm.PROMPT)
    recipe = {"kind": kind, "prompt": str(prompt)}
    if kind == "hierarchical":
        recipe |= {"prompt": str(asking), "frame_prompt": str(asking), "every_s": 1.0}
    config = CaptionConfig.model_validate(
        {
            "dataset": str(root),
            "captions": {"kind": "vllm", "model": str(tiny_vlm.folder()), "batch_size": 4},
            "recipe": recipe,
            "frames": {"policy": "uniform", "count": tiny_vlm.FRAMES},
            "sampling": {"max_tokens": 32},
            "resample": 1,
        }
    )
    version = Version("f" * 16, "vllm", 1, identity(config.captions), kind, {}, {})  # type: ignore[arg-type]
    job = CaptionJob(config, config.recipe, version, 1)
    list(run_staged(ray, job, config, data[1], "test", str(tmp_path / "s"), start=TinyStart(str(tmp_path))))
    captions = [
        row for part in ledger(Storage(str(root))).read() for some in part["captions"].to_pylist() for row in some
    ]
    assert sorted(row["clip_id"] for row in captions) == sorted(data[2])
    assert all(row["status"] == "ok" for row in captions)
    said = [row["dense" if kind == "single" else "short"] for row in captions]
    assert tiny_vlm.hits([text.lower() for text in said], [data[2][row["clip_id"]] for row in captions]) >= 0.9
