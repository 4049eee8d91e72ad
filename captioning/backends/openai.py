"""Asks any server with OpenAI's chat completions: many requests at once, each answered exactly once.

The client is httpx2, not the openai package: its own retries, which the server's headers steer, would have to be off,
and then it adds only types. Retries are stamina's.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from captioning.backend import Answer, Request
from captioning.backends.circuit import Circuit, Down
from captioning.backends.frames import jpeg_urls, mp4_url
from captioning.backends.messages import chat, unfit
from captioning.backends.reply import NotJson, error_text, read_answer, retry_after
from orchestration.config import Config, secret_key
from orchestration.errors import ConfigError

RESPONSE_BYTES = 4 * 2**20  # a caption's reply has a few thousand
REASON_CHARACTERS = 400
AGAIN = frozenset({408, 409, 425, 429})  # and 5xx; every other 4xx stays what it is
OURS = frozenset({"model", "messages", "stream", "n"})
PRIVATE_NAMES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
HINTS = {
    401: "; check the key that api_key_env names",
    403: "; check the key that api_key_env names",
    404: "; check url and model",
    413: "; send fewer frames, or lower max_pixels",
}


class OpenAIConfig(Config):
    """A server with OpenAI's chat completions: vLLM, SGLang, llama.cpp, `transformers serve`, or a hosted one."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a key in the wrong place is not repeated

    kind: Literal["openai"] = "openai"
    url: str = Field(description="base, as in https://api.example.com/v1 or http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="the server's name of it")
    revision: str = Field("", description="what tells its weights from others of that name; part of the fingerprint")
    api_key_env: str | None = Field(None, description="name of the environment variable that holds the key; null: none")
    insecure: bool = Field(False, description="true: http to a public host, where everybody on the way reads the key")
    concurrency: int = Field(16, ge=1, le=1024, description="requests under way at a time, a worker")
    timeout_s: float = Field(180, gt=0, description="of one try, from connecting to the reply's last byte")
    retries: int = Field(6, ge=0, le=100, description="tries after the first")
    wait_s: float = Field(0.5, gt=0, description="before the second try; doubled each time, with jitter")
    longest_wait_s: float = Field(30, gt=0, description="between two tries, but for what Retry-After asks")
    max_wait_s: float = Field(600, gt=0, description="no try of a request begins later than this after its first")
    send: Literal["frames", "video_url"] = Field("frames", description="JPEG frames, or all of them as one mp4")
    max_pixels: int = Field(360_000, ge=1024, description="of a frame; larger ones are made smaller")
    quality: int = Field(90, ge=1, le=100, description="of JPEG")
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: dict[str, Any] = Field(
        {}, description="fields of the vendor's; null takes out one that is sent otherwise"
    )
    usage: bool = Field(True, description="false: the server's token counts are wrong, leave them null")

    # What changes how a server is asked, but not what it is asked.
    HOW: ClassVar[set[str]] = {
        *("url", "api_key_env", "insecure", "concurrency", "timeout_s", "retries"),
        *("wait_s", "longest_wait_s", "max_wait_s", "limit_field", "usage"),
    }

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,99}", name):
            raise ValueError("the name of an environment variable (capitals, as in OPENAI_API_KEY), not the key itself")
        return name

    @field_validator("extra_body")
    @classmethod
    def _not_ours(cls, body: dict[str, Any]) -> dict[str, Any]:
        if named := secret_key(body):
            raise ValueError(f"{named} looks like a key, which would be kept in the data set: api_key_env names one")
        if taken := OURS & set(body):
            raise ValueError(f"cannot set {', '.join(sorted(taken))}")
        return body

    @model_validator(mode="after")
    def _safe(self) -> OpenAIConfig:
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError("url: not an address") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("url: expected https://HOST/v1, or http:// for a server of your own")
        if parts.username or parts.password or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("url: no user, password or query in it; api_key_env names the variable that holds the key")
        if parts.scheme == "http" and not self.insecure and not _is_private(host):
            raise ValueError(f"url: http to {host} sends key and frames in the open; use https, or set insecure: true")
        return self


def _is_private(host: str) -> bool:
    """Loopback, private addresses, names without a dot, and endings that only private networks use."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # Numbers in other notations (134744072, 0x08080808) are addresses too, so names begin with a letter.
        return bool(re.fullmatch(r"[a-z][a-z0-9-]*", host)) or host.endswith(PRIVATE_NAMES)
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_private


class _Failure(Exception):
    """One try failed. passing: another may work. down: the server gave no sign of life."""

    def __init__(self, reason: str, passing: bool, down: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.passing, self.down, self.wait = reason, passing, down, wait


class OpenAIBackend:
    """captioning.backend.Backend for a server. The key is read from the environment in `setup`, where it is used."""

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config
        self._key: SecretStr | None = None
        self._host = urlsplit(config.url).netloc
        self._circuit = Circuit(config.wait_s, config.longest_wait_s, config.max_wait_s)

    @property
    def model(self) -> str:
        """Name, revision, and a fingerprint of what else is asked for (pixel cap, JPEG, vendor fields)."""
        name = self.config.model + (f"@{self.config.revision}" if self.config.revision else "")
        return f"{name}#{self.config.fingerprint(self.config.HOW)}"

    def setup(self) -> None:
        """Raises ConfigError where the key is missing, or cannot be one."""
        # A line a try, some with replies' headers, in which a server may repeat the key.
        for library in ("httpx2", "httpcore2", "stamina"):
            logging.getLogger(library).setLevel(logging.ERROR)
        name = self.config.api_key_env
        if name is None:
            return
        key = os.environ.get(name, "").strip()
        if not key:
            raise ConfigError(f"backend openai: the environment variable {name} is not set; it has to hold the key")
        if not re.fullmatch(r"[!-~]+", key):  # said here without the key: an HTTP library would repeat it
            raise ConfigError(f"backend openai: {name} holds spaces or other characters that no key has")
        self._key = SecretStr(key)

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer a request, in their order; at most `concurrency` of them are under way at a time."""
        begun = time.monotonic()
        answers = asyncio.run(self._all(requests))
        share = (time.monotonic() - begun) / max(len(answers), 1)
        return [replace(answer, seconds=share) for answer in answers]

    async def _all(self, requests: Sequence[Request]) -> list[Answer]:
        import httpx2

        self._circuit.renew()
        places = asyncio.Semaphore(self.config.concurrency)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "rushes"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        async with httpx2.AsyncClient(
            headers=headers,
            timeout=self.config.timeout_s,
            limits=httpx2.Limits(max_connections=self.config.concurrency),
            follow_redirects=False,  # the key and the frames are for this host
            trust_env=self.config.url.startswith("https"),  # plain http stays on this network: no proxy
        ) as client:
            return list(await asyncio.gather(*(self._one(client, places, request) for request in requests)))

    async def _one(self, client: Any, places: asyncio.Semaphore, request: Request) -> Answer:
        import stamina

        async with places:
            deadline = time.monotonic() + self.config.max_wait_s
            if reason := unfit(request):
                return Answer(request.key, "failed", reason=reason)
            try:
                body = await asyncio.to_thread(self._body, request)
                async for attempt in stamina.retry_context(
                    on=lambda error: isinstance(error, _Failure) and error.passing,
                    attempts=self.config.retries + 1,
                    timeout=self.config.max_wait_s,
                    wait_initial=self.config.wait_s,
                    wait_max=self.config.longest_wait_s,
                    wait_jitter=self.config.wait_s,
                ):
                    with attempt:
                        return await self._try(client, request.key, body, deadline)
                raise AssertionError("stamina ends with an answer or an error")
            except _Failure as error:
                return Answer(request.key, "failed", reason=error.reason, passing=error.passing)
            except Down as error:
                return Answer(request.key, "failed", reason=self._plain(f"{self._host}: {error}"), passing=True)
            except Exception as error:  # whatever a request may hold, the others' answers are not lost
                reason = self._plain(f"cannot be asked: {type(error).__name__}: {error}")
                return Answer(request.key, "failed", reason=reason)

    def _body(self, request: Request) -> bytes:
        config, sampling = self.config, request.sampling
        parts: list[dict[str, Any]] = []
        if request.frames and config.send == "video_url":
            url = mp4_url(request.frames, request.seconds, config.max_pixels)
            parts = [{"type": "video_url", "video_url": {"url": url}}]
        elif request.frames:
            urls = jpeg_urls(request.frames, config.max_pixels, config.quality)
            parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        body = {
            "model": config.model,
            "messages": chat(request.prompt, parts),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            config.limit_field: sampling.max_tokens,
        }
        if sampling.repetition_penalty != 1.0:  # a vendor's field: many servers refuse it
            body["repetition_penalty"] = sampling.repetition_penalty
        body = {name: value for name, value in {**body, **config.extra_body}.items() if value is not None}
        return json.dumps(body, allow_nan=False).encode()

    async def _try(self, client: Any, key: str, body: bytes, deadline: float) -> Answer:
        """One try. Raises _Failure, or Down where there was none."""
        async with self._circuit.attempt(deadline) as trying:
            try:
                answer = await self._ask(client, key, body)
            except _Failure as error:
                if error.down:
                    self._circuit.failed(error.reason, trying)
                else:
                    self._circuit.worked()
                if error.passing and error.wait is not None:
                    self._circuit.pause(error.wait)
                raise
            self._circuit.worked()
        return answer

    async def _ask(self, client: Any, key: str, body: bytes) -> Answer:
        import httpx2

        try:
            async with asyncio.timeout(self.config.timeout_s):  # httpx2's own time-outs begin anew with each packet
                url = self.config.url.rstrip("/") + "/chat/completions"
                async with client.stream("POST", url, content=body) as response:
                    data = await self._read(response)
        except (TimeoutError, httpx2.TimeoutException):
            raise self._failure(f"no reply within {self.config.timeout_s:g} s", True, down=True) from None
        except (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
            raise self._failure(f"cannot be asked: {error}", False) from None
        except httpx2.HTTPError as error:
            raise self._failure(f"connection lost ({type(error).__name__}: {error})", True, down=True) from None
        if not response.is_success:
            raise self._refusal(response, data)
        try:
            answer = read_answer(key, data)
        except NotJson as error:
            kind = response.headers.get("content-type", "no type")
            raise self._failure(
                f"HTTP {response.status_code}, but the reply cannot be read: {error} ({kind})", True
            ) from None
        if not self.config.usage:
            answer = replace(answer, prompt_tokens=None, output_tokens=None)
        return replace(answer, text=self._without_key(answer.text), reason=self._plain(answer.reason))

    async def _read(self, response: Any) -> bytes:
        """The body, of bounded size: not unpacked, so that it cannot grow."""
        if (packed := response.headers.get("content-encoding", "identity")) != "identity":
            raise self._failure(f"the reply is packed ({packed}), which was not asked for", False)
        data = bytearray()
        async for piece in response.aiter_raw():
            data += piece
            if len(data) > RESPONSE_BYTES:
                raise self._failure(f"HTTP {response.status_code}, reply longer than {RESPONSE_BYTES} bytes", False)
        return bytes(data)

    def _refusal(self, response: Any, data: bytes) -> _Failure:
        status = response.status_code
        if response.is_redirect:
            where = urlsplit(response.headers.get("location", ""))
            target = f"{where.scheme}://{where.netloc}{where.path}" if where.netloc else where.path
            return self._failure(
                f"HTTP {status} redirects to {target}, not followed; set url to it if it is right", False
            )
        wait = retry_after(response.headers.get("retry-after"), response.headers.get("date"))
        passing = status in AGAIN or status >= 500
        said = self._plain(error_text(data))
        return self._failure(f"HTTP {status}: {said}{HINTS.get(status, '')}", passing, status >= 500, wait)

    def _failure(self, what: str, passing: bool, down: bool = False, wait: float | None = None) -> _Failure:
        return _Failure(self._plain(f"{self._host}: {what}"), passing, down, wait)

    def _plain(self, text: str) -> str:
        """One line of bounded length without the key: servers repeat what they were sent."""
        line = " ".join(self._without_key(text).split())
        return line if len(line) <= REASON_CHARACTERS else line[: REASON_CHARACTERS - 1] + "…"

    def _without_key(self, text: str) -> str:
        key = self._key.get_secret_value() if self._key else ""
        return text.replace(key, "[key]") if len(key) >= 8 else text  # "EMPTY", "none": no secrets, but words
