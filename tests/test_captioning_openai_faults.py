"""The openai backend against faults and a real server: every request gets one answer, its own, within bounds."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import tiny_vlm
from faulty_server import completion, deaf_server, digest, faulty_server, free_port
from helpers_openai import after, ask, backend, config
from helpers_serve import transformers_serve

from captioning.backend import Request, Sampling
from captioning.backends.openai import OpenAIBackend

# Faults that pass, and those that do not.


@pytest.mark.parametrize(
    "fault",
    [
        *("status:500", "status:502", "status:503", "status:408", "status:409", "status:425", "status:429"),
        *("retry:0", "retry:1", "date:1", "reset", "reset-headers", "reset-body", "cut", "truncated", "html", "empty"),
    ],
)
def test_what_passes_is_asked_again(fault: str) -> None:
    with faulty_server(after(fault)) as (url, seen):
        answers = ask(url, ["a", "b"])
    assert [answer.text for answer in answers] == ["answer to: a", "answer to: b"]
    assert dict(seen.tries) == {"a": 2, "b": 2}
    if fault in ("retry:1", "date:1"):  # all wait, not only the one that was told so
        assert seen.times[2] - seen.times[0] >= 0.99


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("status:400", "HTTP 400: made 400"),
        ("status:401", "check the key that api_key_env names"),
        ("status:404", "check url and model"),
        ("status:413", "lower max_pixels"),
        ("status:422", "HTTP 422: made 422"),
        ("huge", "longer than"),
        ("gzip", "packed (gzip)"),
        ("json:" + json.dumps(completion(None)), "no content"),
    ],
)
def test_what_does_not_pass_is_asked_once(fault: str, reason: str) -> None:
    with faulty_server(lambda prompt, tries: fault if prompt == "a" else "ok") as (url, seen):
        bad, good = ask(url, ["a", "b"])
    assert (bad.key, bad.status, bad.text, bad.passing) == ("key a", "failed", "", False)
    assert reason in bad.reason
    assert good.text == "answer to: b"
    assert seen.tries["a"] == 1


@pytest.mark.parametrize("fault", ["status:500", "status:429", "html", "reset-body"])
def test_tries_are_bounded(fault: str) -> None:
    with faulty_server(lambda *_: fault) as (url, seen):
        (answer,) = ask(url, ["a"], retries=2)
    assert (answer.status, answer.passing) == ("failed", True)
    assert answer.reason
    assert seen.tries["a"] == 3


@pytest.mark.parametrize("fault", ["hang", "drip", "slow:5"])
def test_a_slow_reply_is_given_up_and_asked_again(fault: str) -> None:
    with faulty_server(after(fault)) as (url, seen):
        (answer,) = ask(url, ["a"], timeout_s=0.5)
    assert (answer.text, seen.tries["a"]) == ("answer to: a", 2)


def test_a_server_that_never_accepts_is_given_up() -> None:
    with deaf_server() as url:
        (answer,) = ask(url, ["a"], timeout_s=0.3, retries=1)
    assert (answer.status, answer.passing) == ("failed", True)
    assert "no reply within 0.3 s" in answer.reason


def test_a_retry_after_beyond_the_limit_ends_everything_that_waits() -> None:
    with faulty_server(lambda *_: "retry:86400") as (url, seen):
        answers = ask(url, [str(number) for number in range(40)], concurrency=4, max_wait_s=2)
    assert all(answer.passing and "asks to wait 86" in answer.reason for answer in answers)
    assert len(seen.bodies) <= 8  # those under way when it was said


def test_redirects_are_not_followed() -> None:
    with faulty_server(lambda *_: "ok") as (other, theirs):
        with faulty_server(lambda *_: f"redirect:{other}/chat/completions") as (url, seen):
            (answer,) = ask(url, ["a"])
    assert (answer.status, answer.passing, len(seen.bodies), len(theirs.bodies)) == ("failed", False, 1, 0)
    assert f"redirects to {other}/chat/completions" in answer.reason


# A dead server.


def test_a_dead_server_is_not_hammered() -> None:
    with faulty_server(lambda *_: "status:500") as (url, seen):
        answers = ask(url, [str(number) for number in range(300)], max_wait_s=1, retries=50, longest_wait_s=0.2)
    assert all(answer.status == "failed" and answer.passing for answer in answers)
    assert sum("not asked again; last: " in answer.reason for answer in answers) > 280
    assert len(seen.bodies) < 60  # of 300 x 51: the first 16, then one each 0.1 s or slower, for a second


def test_what_a_dead_server_leaves_is_answered_once_it_lives_again() -> None:
    port = free_port()
    asked = backend(f"http://127.0.0.1:{port}/v1", max_wait_s=0.5, retries=50, longest_wait_s=0.2)
    requests = [Request(str(number), "p") for number in range(100)]
    answers = asked.answer(requests)
    assert [answer.key for answer in answers] == [request.key for request in requests]
    assert all(answer.passing and "ConnectError" in answer.reason for answer in answers)
    with faulty_server(lambda *_: "ok", port=port) as (_, seen):
        answers = asked.answer(requests[:20])
    assert [answer.status for answer in answers] == ["ok"] * 20
    assert len(seen.bodies) == 20


def test_an_outage_is_waited_for_with_few_tries() -> None:
    """500s from everything until the 30th try: the requests wait for one another's tries, and none is lost."""
    count = [0]

    def script(prompt: str, tries: int) -> str:
        count[0] += 1
        return "status:500" if count[0] <= 30 else "ok"

    with faulty_server(script) as (url, seen):
        answers = ask(url, [str(number) for number in range(100)], retries=30)
    assert [answer.text for answer in answers] == [f"answer to: {number}" for number in range(100)]
    assert len(seen.bodies) == 130
    gaps = [after - before for before, after in pairwise(seen.times[20:30])]
    assert min(gaps) > 0.004  # one at a time, not the 16 at once


# Everything at once.

FAULTS = [
    *("ok",) * 10,
    *("status:500", "status:503", "status:429", "retry:0", "reset", "reset-headers", "reset-body", "cut"),
    *("truncated", "html", "hang", "slow:0.02"),
]


@pytest.mark.parametrize("seed", range(3))
def test_random_faults_lose_double_and_mix_up_nothing(seed: int) -> None:
    def script(prompt: str, tries: int) -> str:
        draw = random.Random(f"{seed} {prompt} {tries}")
        if prompt.startswith("bad") or draw.random() < 0.02:
            return "status:400"
        return draw.choice(FAULTS)

    prompts = [f"{'bad' if number % 20 == 7 else 'good'} {number}" for number in range(200)]
    with faulty_server(script, pause=0.005) as (url, seen):
        answers = ask(url, prompts, retries=8, timeout_s=2)
    assert [answer.key for answer in answers] == [f"key {prompt}" for prompt in prompts]
    for prompt, answer in zip(prompts, answers, strict=True):
        faults = [script(prompt, tries) for tries in range(seen.tries[prompt])]
        last = faults[-1]
        if answer.status == "ok":
            assert (answer.text, last.partition(":")[0] in ("ok", "slow")) == (f"answer to: {prompt}", True)
        else:
            assert answer.text == ""
            assert answer.passing == (last != "status:400")
            assert len(faults) == 9 or last == "status:400"
        assert not {"ok", "status:400"} & set(faults[:-1])  # nothing is asked after its answer
    assert 2 <= seen.most <= 16
    assert max(seen.tries.values()) <= 9
    assert sum(answer.status == "ok" for answer in answers) > 150


# A real server of a real model.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Base URL of `transformers serve`, and the trained model that it serves."""
    folder = tiny_vlm.folder()
    with transformers_serve(folder, tmp_path_factory.mktemp("serve") / "log", free_port()) as url:
        yield url, folder


def about(clips: list[tiny_vlm.Clip], max_tokens: int = 32) -> list[Request]:
    sampling = Sampling(max_tokens=max_tokens)
    return [Request(clip.name, tiny_vlm.PROMPT, clip.frames, clip.seconds, sampling=sampling) for clip in clips]


def test_a_models_captions_reach_their_clips_through_faults(served: tuple[str, Path]) -> None:
    """200 clips, shuffled, through a proxy that fails four tries in ten; ten clips' tries all fail."""
    url, folder = served
    clips = tiny_vlm.synthetic_clips(200, seed=41)
    random.Random(1).shuffle(clips)
    requests = about(clips)
    asked = OpenAIBackend(config(url=url, model=str(folder)))
    doomed = {digest(json.loads(asked._body(request))) for request in requests[:10]}
    faults = ["status:500", "status:429", "retry:0", "reset", "reset-headers", "reset-body", "cut", "truncated", "html"]

    def script(name: str, tries: int) -> str:
        draw = random.Random(f"{name} {tries}")
        return draw.choice(faults) if name in doomed or draw.random() < 0.4 else "ok"

    with faulty_server(script, upstream=url) as (proxy, seen):
        answers = backend(proxy, model=str(folder), retries=9, timeout_s=60, max_wait_s=200).answer(requests)
    assert [answer.key for answer in answers] == [clip.name for clip in clips]
    good = [(answer, clip) for answer, clip in zip(answers, clips, strict=True) if answer.status == "ok"]
    assert [answer.key for answer in answers if answer.status == "failed"] == [clip.name for clip in clips[:10]]
    assert all(answer.passing for answer in answers[:10])
    assert tiny_vlm.hits([answer.text for answer, _ in good], [clip for _, clip in good]) >= 0.95
    assert all(answer.finish == "stop" and answer.prompt_tokens and answer.output_tokens for answer, _ in good)
    assert seen.most <= 16
    assert max(seen.tries.values()) == 10


def test_a_models_answer_may_be_cut_off(served: tuple[str, Path]) -> None:
    url, folder = served
    (answer,) = backend(url, model=str(folder)).answer(about(tiny_vlm.synthetic_clips(1, 1), max_tokens=3))
    assert (answer.status, answer.finish, answer.output_tokens) == ("ok", "length", 3)
    assert len(answer.text.split()) == 3


def test_a_field_that_the_server_refuses_is_named(served: tuple[str, Path]) -> None:
    url, folder = served
    (request,) = about(tiny_vlm.synthetic_clips(1, 1))
    (answer,) = backend(url, model=str(folder), extra_body={"top_q": 3}).answer([request])
    assert (answer.status, answer.passing) == ("failed", False)
    assert "HTTP 422" in answer.reason
    assert "top_q" in answer.reason


def test_what_the_server_cannot_do_is_a_reason(served: tuple[str, Path]) -> None:
    """This server wants sound in every video, and has one model."""
    url, folder = served
    requests = about(tiny_vlm.synthetic_clips(1, 1))
    (video,) = backend(url, model=str(folder), send="video_url", retries=1).answer(requests)
    assert (video.status, video.passing) == ("failed", True)
    assert "HTTP 500" in video.reason
    (other,) = backend(url, model="another").answer(requests)
    assert (other.status, other.passing) == ("failed", False)
    assert "requested 'another'" in other.reason


def test_text_alone_is_answered(served: tuple[str, Path]) -> None:
    url, folder = served
    (answer,) = backend(url, model=str(folder)).answer([Request("t", "Hello")])
    assert (answer.key, answer.text, answer.finish) == ("t", tiny_vlm.NOTHING, "stop")
