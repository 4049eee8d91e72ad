"""The openai backend on real sockets: what is sent, what comes back, the key, settings."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import pickle
import traceback
from typing import Any

import av
import cv2
import numpy as np
import pytest
from faulty_server import completion, faulty_server
from helpers_openai import QUICK, ask, backend, config
from hypothesis import given
from hypothesis import strategies as st

from captioning.backend import Request, Sampling
from captioning.backends.frames import jpeg_urls, mp4_url
from captioning.backends.openai import OpenAIBackend, OpenAIConfig
from captioning.backends.reply import NotJson, error_text, read_answer, retry_after
from orchestration.config import parse_config
from orchestration.errors import ConfigError

KEY = "sk-Secret/0123456789+abcdefgh"

# What is sent.


def test_a_request_is_sent_as_it_is_and_its_answer_read() -> None:
    frames = [np.full((48, 64, 3), shade, np.uint8) for shade in (0, 200)]
    request = Request("a", "What moves?", frames, (0.0, 0.5), sampling=Sampling(0.7, 0.9, 99, 1.1, 5))
    with faulty_server(lambda *_: "ok") as (url, seen):
        extra = {"top_k": 3, "top_p": None}
        (answer,) = backend(url + "/", extra_body=extra, quality=95).answer([request])
    assert answer.seconds > 0
    assert (answer.key, answer.status, answer.text, answer.finish) == ("a", "ok", "answer to: What moves?", "stop")
    assert (answer.prompt_tokens, answer.output_tokens, answer.reason) == (7, 3, "")
    (body,) = seen.bodies
    text, *pictures = body.pop("messages")[0]["content"]
    expected = {"model": "m", "temperature": 0.7, "max_tokens": 99, "seed": 5, "repetition_penalty": 1.1, "top_k": 3}
    assert body == expected
    assert text == {"type": "text", "text": "What moves?"}
    shades = [decoded(part["image_url"]["url"]).mean() for part in pictures]
    assert shades == pytest.approx([0, 200], abs=1)
    assert "authorization" not in seen.headers[0]


def test_the_limits_field_has_another_name_where_a_server_wants_it() -> None:
    with faulty_server(lambda *_: "ok") as (url, seen):
        ask(url, ["a"], limit_field="max_completion_tokens", usage=False)
    assert seen.bodies[0]["max_completion_tokens"] == 512
    assert "max_tokens" not in seen.bodies[0]


def decoded(url: str) -> np.ndarray:
    """RGB of a JPEG's data URL."""
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1024, 40_000))
def test_frames_are_capped_and_keep_their_shape_and_colours(height: int, width: int, cap: int) -> None:
    frame = np.empty((height, width, 3), np.uint8)
    frame[:] = (250, 120, 10)
    picture = decoded(jpeg_urls([frame], cap, 90)[0])
    assert picture.shape[0] * picture.shape[1] <= max(cap, max(height, width))
    if height * width <= cap:
        assert picture.shape == frame.shape
    elif min(picture.shape[:2]) > 20:
        assert picture.shape[1] / picture.shape[0] == pytest.approx(width / height, rel=0.1)
    assert picture.mean(axis=(0, 1)) == pytest.approx([250, 120, 10], abs=4)


def test_a_video_shows_each_frame_at_its_time() -> None:
    seconds = [2.0, 2.5, 2.75, 4.0]
    frames = [np.full((47, 63, 3), shade, np.uint8) for shade in (10, 80, 160, 240)]
    head, _, data = mp4_url(frames, seconds, 100_000).partition(",")
    assert head == "data:video/mp4;base64"
    with av.open(io.BytesIO(base64.b64decode(data)), "r") as container:
        read = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert [moment for moment, _ in read] == pytest.approx([0, 0.5, 0.75, 2.0], abs=1e-3)
    assert [picture.mean() for _, picture in read] == pytest.approx([10, 80, 160, 240], abs=3)
    assert read[0][1].shape == (46, 62, 3)


def test_a_video_is_sent_as_one_part() -> None:
    frames = [np.zeros((32, 32, 3), np.uint8)] * 3
    bad = Request("b", "q", frames, (0, 1, 1))
    with faulty_server(lambda *_: "ok") as (url, seen):
        answers = backend(url, send="video_url").answer([Request("a", "p", frames, (0, 1, 2)), bad])
    assert [part["type"] for part in seen.bodies[0]["messages"][0]["content"]] == ["text", "video_url"]
    assert [answer.status for answer in answers] == ["ok", "failed"]
    assert "rising times" in answers[1].reason


def test_requests_that_cannot_be_sent_fail_alone() -> None:
    whole = np.zeros((32, 32, 3), np.uint8)
    requests = [
        Request("shape", "a", [np.zeros((4, 4), np.uint8)], [0]),
        Request("type", "b", [whole.astype(float)], [0]),
        Request("number", "c", sampling=Sampling(temperature=float("nan"))),
        Request("good", "d", [whole], [0]),
    ]
    with faulty_server(lambda *_: "ok") as (url, seen):
        answers = backend(url).answer(requests)
    assert [(answer.key, answer.status) for answer in answers] == [
        *((key, "failed") for key in ("shape", "type", "number")),
        ("good", "ok"),
    ]
    assert all(answer.reason and not answer.passing for answer in answers[:3])
    assert len(seen.bodies) == 1


# What comes back.


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"choices": []}, "no choices"),
        ({"error": {"message": "overfull"}}, "no choices: overfull"),
        (completion(None), "no content (finish_reason stop)"),
        (completion(None, "length"), "before max_tokens ran out"),
        (completion(None, "tool_calls"), "no content (finish_reason tool_calls)"),
        (completion([{"type": "text", "text": "x"}]), "is a list, no text"),
        (completion({"a": 1}), "is a dict, no text"),
        (completion("half", "content_filter"), "content filter"),
        ({"choices": [{"message": {"content": None, "refusal": "I will not"}}]}, "refused: I will not"),
        ({"choices": ["x"]}, "no choices"),
        ({"choices": [{"message": "x"}]}, "no content"),
    ],
)
def test_replies_without_text_say_why(reply: Any, reason: str) -> None:
    answer = read_answer("a", json.dumps(reply).encode())
    assert (answer.key, answer.status, answer.text, answer.passing) == ("a", "failed", "", False)
    assert reason in answer.reason


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (None, None)),
        ({"prompt_tokens": 5}, (5, None)),
        ({"prompt_tokens": "5", "completion_tokens": True}, (None, None)),
        ({"prompt_tokens": -1, "completion_tokens": 2.5}, (None, None)),
        ([1], (None, None)),
    ],
)
def test_token_counts_are_the_servers_or_null(usage: Any, tokens: Any) -> None:
    answer = read_answer("a", json.dumps(completion("x", "length", usage)).encode())
    assert (answer.prompt_tokens, answer.output_tokens) == tokens
    assert (answer.status, answer.finish) == ("ok", "length")


REPLY_NAMES = ["choices", "message", "content", "usage", "finish_reason", "refusal", "error", "detail", "param", "loc"]
REPLY_NAMES += ["msg", "prompt_tokens"]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=9) | st.sampled_from(["stop", "length"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(REPLY_NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON | st.fixed_dictionaries({"choices": st.lists(JSON, min_size=1), "usage": JSON, "error": JSON}))
def test_any_json_is_an_answer_or_a_reason(reply: Any) -> None:
    body = json.dumps(reply).encode()
    assert isinstance(error_text(body), str)
    with contextlib.suppress(NotJson):
        answer = read_answer("a", body)
        assert (answer.status == "failed") == bool(answer.reason)
        answer.text.encode()


@given(st.binary(max_size=60))
def test_any_bytes_are_an_answer_or_a_reason(body: bytes) -> None:
    assert isinstance(error_text(body), str)
    with contextlib.suppress(NotJson):
        read_answer("a", body)


def test_lone_surrogates_become_question_marks() -> None:
    assert read_answer("a", b'{"choices": [{"message": {"content": "a \\ud800 b \\ud83d\\ude00"}}]}').text == "a ? b 😀"


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        (None, None, None),
        ("17", None, 17),
        ("1.5", None, 1.5),
        ("-4", None, 0),
        ("nan", None, None),
        ("inf", None, None),
        ("soon", None, None),
        ("Tue, 24 Nov 2026 15:00:30 GMT", "Tue, 24 Nov 2026 15:00:00 GMT", 30),
        ("Tue, 24 Nov 2026 15:00:30 GMT", "Tue, 24 Nov 2026 15:01:00 GMT", 0),
        ("Tue, 24 Nov 1998 15:00:30 GMT", "nonsense", 0),
    ],
)
def test_retry_after(value: str | None, date: str | None, seconds: float | None) -> None:
    assert retry_after(value, date) == seconds


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"detail": "Unexpected fields in the request: {\'top_q\'}"}', "Unexpected fields in the request: {'top_q'}"),
        (b'{"detail": [{"loc": ["body", "top_q"], "msg": "Extra inputs"}]}', "body.top_q: Extra inputs"),
        (b'{"error": {"message": "not known", "param": "top_q"}}', "top_q: not known"),
        (b'{"error": {"message": "top_q is not known", "param": "top_q"}}', "top_q is not known"),
        (b'{"error": "no"}', "no"),
        (b"Bad Gateway\n", "Bad Gateway"),
        (b'{"code": 3}', '{"code": 3}'),
    ],
)
def test_what_an_error_says(body: bytes, said: str) -> None:
    assert error_text(body) == said


# The key.


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TEST_API_KEY", KEY)
    return KEY


def test_the_key_reaches_the_server_and_nothing_else(key: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    replies = {
        "a": "echo",
        "b": "json:" + json.dumps(completion(f"your key is {KEY}")),
        "c": "json:" + json.dumps({"choices": [{"message": {"refusal": f"not for {KEY}"}}]}),
        "d": f"redirect:http://127.0.0.1/{KEY}?key={KEY}",
        "e": "reset",
        "f": "status:500",
    }
    with faulty_server(lambda prompt, _: replies[prompt]) as (url, seen):
        asked = backend(url, api_key_env="TEST_API_KEY", retries=1)
        answers = asked.answer([Request(prompt, prompt) for prompt in replies])
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in seen.headers)
    assert answers[0].reason
    assert answers[1].text == "your key is [key]"
    logged = [str(vars(record)) for record in caplog.records]
    for text in (repr(answers), *logged, repr(asked), repr(vars(asked)), asked.model):
        assert KEY not in text


def test_a_key_that_is_none_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    made = OpenAIBackend(config(api_key_env="TEST_API_KEY"))
    monkeypatch.delenv("TEST_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="TEST_API_KEY is not set"):
        made.setup()
    monkeypatch.setenv("TEST_API_KEY", "sk-one two\nthree")
    with pytest.raises(ConfigError, match="TEST_API_KEY holds spaces") as caught:
        made.setup()
    assert "sk-one" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["sk-0123456789abcdef", "AIzaSyD0123456789", "Bearer X", ""])
def test_a_key_in_place_of_its_name_is_refused_without_being_shown(name: str) -> None:
    with pytest.raises(ConfigError, match="not the key itself") as caught:
        parse_config(OpenAIConfig, {"url": "https://example.com/v1", "model": "m", "api_key_env": name}, "caption.yaml")
    assert not name or name not in "".join(traceback.format_exception(caught.value))


def test_a_backend_goes_to_workers_without_its_key(key: str) -> None:
    made = OpenAIBackend(config(api_key_env="TEST_API_KEY"))
    assert KEY.encode() not in pickle.dumps(made)


# Settings.


@pytest.mark.parametrize(
    "url",
    [
        *("https://api.example.com/v1", "http://localhost:8000/v1", "http://127.0.0.1/v1", "http://[::1]:80/v1"),
        *("http://10.1.2.3/v1", "http://192.168.0.9:8000", "http://172.20.0.1/v1", "http://[fd00::1]/v1"),
        *("http://vllm:8000/v1", "http://gpu7.internal/v1", "http://gpu.local/v1", "http://[::ffff:10.0.0.1]/v1"),
    ],
)
def test_addresses_that_are_allowed(url: str) -> None:
    assert config(url=url).url == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        *((f"http://{host}/v1", "in the open") for host in ("example.com", "8.8.8.8", "[2001:4860::8888]")),
        *(
            (f"http://{host}/v1", "in the open")
            for host in ("134744072", "0x08080808", "[::ffff:8.8.8.8]", "172.32.0.1")
        ),
        ("http://localhost.example.com/v1", "in the open"),
        *(
            (url, "expected https")
            for url in ("ftp://example.com", "example.com/v1", "https:///v1", "file:///etc/passwd")
        ),
        *((f"https://{rest}", "no user") for rest in ("user:pw@example.com", "example.com/v1?key=x", "example.com/#x")),
        ("https://example.com:99999/v1", "not an address"),
    ],
)
def test_addresses_that_are_refused(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_config(OpenAIConfig, {"url": url, "model": "m"}, "caption.yaml")
    if reason == "in the open":
        config(url=url, insecure=True)


def test_fields_of_ours_cannot_be_set_by_extra_body() -> None:
    with pytest.raises(ConfigError, match="cannot set messages, stream"):
        parse_config(OpenAIConfig, {**QUICK, "url": "https://a.b", "extra_body": {"stream": 1, "messages": []}}, "x")


def test_the_model_names_what_changes_answers_and_only_that() -> None:
    base: dict[str, Any] = {"revision": "r"}
    name = OpenAIBackend(config(**base)).model
    assert name.startswith("m@r#")
    for same in ({"url": "http://localhost/v1"}, {"concurrency": 2}, {"retries": 1}, {"api_key_env": "A"}):
        assert OpenAIBackend(config(**{**base, **same})).model == name
    for other in ({"max_pixels": 5000}, {"extra_body": {"top_k": 1}}, {"send": "video_url"}, {"revision": "s"}):
        assert OpenAIBackend(config(**{**base, **other})).model != name
