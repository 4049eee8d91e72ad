"""Rewriting only removes, and the language models that do it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faulty_server import completion, faulty_server
from helpers_openai import backend as server_backend
from hypothesis import given
from hypothesis import strategies as st

from captioning.backend import Answer, Request, Sampling
from captioning.backends import smollm2
from captioning.backends.text import TextBackend, TextConfig
from captioning.checks.clean import clean
from captioning.prompt import Prompt, load
from captioning.rewriting import RewriteConfig, Rewritten, judge, rewrite_steps
from orchestration.errors import RushesError

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "rewriting.jsonl").read_text().splitlines()]
PROMPT = Prompt("p", "shorten: {{ caption }}")
WORD = st.text("abcdefg", min_size=1, max_size=4)


@pytest.mark.parametrize("pair", PAIRS, ids=range(len(PAIRS)))
def test_the_table(pair: dict) -> None:
    reason = judge(pair["original"], clean(pair["rewritten"]), RewriteConfig())
    assert (reason == "") == pair["accepted"], reason


@given(st.lists(st.tuples(WORD, st.booleans()), min_size=1, max_size=12))
def test_removing_adds_nothing(marked: list[tuple[str, bool]]) -> None:
    original = " ".join(word for word, _ in marked)
    reason = judge(original, " ".join(word for word, stays in marked if stays), RewriteConfig())
    assert not reason.startswith("adds")


@given(st.lists(WORD, min_size=1, max_size=12), WORD, st.integers(0, 12))
def test_a_further_word_is_refused(text: list[str], word: str, place: int) -> None:
    longer = [*text[:place], word, *text[place:]]
    assert judge(" ".join(text), " ".join(longer), RewriteConfig(content=0)).startswith("adds")


def run(caption: str, said: list[Answer], tries: int = 2) -> tuple[Rewritten, list[Request]]:
    asked = []
    steps = rewrite_steps("clip", caption, PROMPT, Sampling(seed=4), tries, RewriteConfig())
    try:
        round_ = next(steps)
        while True:
            assert round_.by == "text"
            asked += round_.requests
            round_ = steps.send([said[len(asked) - 1]])
    except StopIteration as done:
        return done.value, asked


def ok(text: str, finish: str = "stop") -> Answer:
    return Answer("clip", "ok", text, finish, 3, 4)  # type: ignore[arg-type]


CAPTION = "In this video, a dog runs. The camera pans left."


def test_a_refused_one_is_asked_again_with_other_sampling() -> None:
    done, asked = run(CAPTION, [ok("A dog runs."), ok("A dog runs. The camera pans left.")])
    assert (done.text, done.note, len(done.answers)) == ("A dog runs. The camera pans left.", "", 2)
    assert [request.sampling.seed for request in asked] == [4, 5]
    assert asked[0].sampling.temperature == 0 < asked[1].sampling.temperature
    assert asked[0].prompt == f"shorten: {CAPTION}"


def test_after_the_last_refusal_the_original_stays() -> None:
    done, asked = run(CAPTION, [ok("A cat."), ok("A dog", "length"), ok("A dog runs.")])
    assert len(asked) == 3
    assert done.text == "A dog runs. The camera pans left."
    assert "camera's motion" in done.note
    assert done.failed is None


def test_a_failure_keeps_the_original_and_is_told() -> None:
    failed = Answer("clip", "failed", reason="overloaded", passing=True)
    done, asked = run(CAPTION, [failed])
    assert (len(asked), done.failed, done.text) == (1, failed, "A dog runs. The camera pans left.")
    assert "overloaded" in done.note


def test_nothing_to_rewrite_asks_nothing() -> None:
    assert run("", [])[1] == []


def test_a_server_rewrites_too() -> None:
    said = json.dumps(completion("A dog runs. The camera pans left."))
    with faulty_server(lambda prompt, tries: f"json:{said}") as (url, _):
        backend = server_backend(url)
        steps = rewrite_steps("clip", CAPTION, PROMPT, Sampling(), 0, RewriteConfig())
        answers = backend.answer(next(steps).requests)
    with pytest.raises(StopIteration) as done:
        steps.send(answers)
    assert (done.value.value.text, done.value.value.note) == ("A dog runs. The camera pans left.", "")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model with random weights."""
    from curation.scorers.runtime import allow_torchvision

    allow_torchvision()
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.content }}{% endfor %}<s>"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(letters), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loaded(folder: Path, size: int = 16) -> TextBackend:
    backend = TextBackend(TextConfig(model=str(folder), device="cpu", batch_size=size))
    backend.setup()
    return backend


def test_batches_seeds_and_failures(tiny: Path) -> None:
    hot = [
        Request(f"{n}", "word " * (n + 1), sampling=Sampling(temperature=1.0, max_tokens=6, seed=n)) for n in range(5)
    ]
    wrong = Request("pictures", "a", [np.zeros((8, 8, 3), np.uint8)], [0.0])
    backend = loaded(tiny)
    answers = backend.answer([*hot[:2], wrong, *hot[2:]])
    assert answers.pop(2).reason == "this backend takes text only"
    assert {answer.status for answer in answers} == {"ok"}
    alone = [backend.answer([request])[0] for request in hot]
    assert [replace(each, seconds=0) for each in answers] == [replace(each, seconds=0) for each in alone]
    other = replace(hot[0], sampling=replace(hot[0].sampling, seed=99))
    assert backend.answer([other])[0].text != answers[0].text
    marked = backend._inputs([Request("a", "x</s>y")])["input_ids"][0].tolist()
    assert 1 not in marked  # special tokens in a prompt are text
    assert backend.model.startswith(f"{tiny.name}#")


def test_a_model_without_a_chat_template_is_refused(tiny: Path, tmp_path: Path) -> None:
    import shutil

    plain = shutil.copytree(tiny, tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(RushesError, match="no chat template"):
        loaded(plain)


def test_a_second_process_that_converts_too_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSHES_CACHE", str(tmp_path))
    target = tmp_path / "smollm2-0.1.2"

    def convert(gguf: Path, made: Path) -> None:
        for folder, text in ((made, "mine"), (target, "theirs")):
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(text)

    monkeypatch.setattr(smollm2, "_gguf", lambda scratch: scratch)
    monkeypatch.setattr(smollm2, "_convert", convert)
    assert smollm2.folder() == target
    assert (target / "config.json").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert smollm2.folder() == target  # nothing is converted again
    assert TextBackend(TextConfig()).model == smollm2.NAME


@pytest.mark.slow
def test_smollm2_shortens() -> None:
    """Downloads and converts where neither package nor cache is there."""
    backend = TextBackend(TextConfig(device="cpu"))
    backend.setup()
    prompt = load("rewrite-1", frozenset({"caption"}))
    caption = "Three pedestrians cross a square seen from above. Three pedestrians cross a square seen from above."
    steps = rewrite_steps("clip", caption, prompt, Sampling(max_tokens=96), 0, RewriteConfig())
    with pytest.raises(StopIteration) as done:
        steps.send(backend.answer(next(steps).requests))
    assert (done.value.value.text, done.value.value.note) == ("Three pedestrians cross a square seen from above.", "")
