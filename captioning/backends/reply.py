"""What a server's reply says: an answer's text, or why there is none. Replies are not trusted to be of any form."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from captioning.backend import Answer


class NotJson(ValueError):
    """The body is no JSON object: a proxy's page, or a broken one."""


def read_answer(key: str, body: bytes) -> Answer:
    """The answer in a chat completion (OpenAI's `chat.completion` object). Raises NotJson."""
    reply = _object(body)
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        said = error_text(body) if "error" in reply else ""
        return Answer(key, "failed", reason="the reply has no choices" + (f": {said}" if said else ""))
    finish = choices[0].get("finish_reason")
    message = choices[0].get("message")
    message = message if isinstance(message, dict) else {}
    text, refusal = message.get("content"), message.get("refusal")
    prompt, output = _tokens(reply.get("usage"))
    reason = ""
    if isinstance(refusal, str) and refusal:
        reason = f"the model refused: {refusal}"
    elif finish == "content_filter":
        reason = "the server's content filter withheld the answer"
    elif text is None and finish == "length":
        reason = "no text before max_tokens ran out (a model that thinks first needs more)"
    elif text is None:
        reason = f"the reply's message has no content (finish_reason {finish})"
    elif not isinstance(text, str):
        reason = f"the reply's content is a {type(text).__name__}, no text"
    if reason or not isinstance(text, str):
        return Answer(key, "failed", prompt_tokens=prompt, output_tokens=output, reason=reason)
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate could not be stored
    return Answer(key, "ok", text, finish if finish in ("stop", "length") else "", prompt, output)


def error_text(body: bytes) -> str:
    """What an error reply says: OpenAI's {"error": {message, param}}, FastAPI's {"detail": ...}, or plain text."""
    try:
        reply = _object(body)
    except NotJson:
        return body[:2000].decode("utf-8", "replace").strip()
    error = reply.get("error", reply.get("detail", reply.get("message", reply)))
    return "; ".join(_said(error)) or json.dumps(error)


def _said(error: Any) -> Iterator[str]:
    if isinstance(error, str):
        yield error
    elif isinstance(error, list):
        for item in error[:5]:
            yield from _said(item)
    elif isinstance(error, dict):
        where = error.get("param") or error.get("loc")
        where = ".".join(map(str, where)) if isinstance(where, list) else where
        what = error.get("message") or error.get("msg")
        if isinstance(what, str):
            yield f"{where}: {what}" if isinstance(where, str) and where not in what else what


def retry_after(value: str | None, date: str | None = None) -> float | None:
    """Seconds that a `Retry-After` asks for (RFC 9110: a number, or a date, read against the reply's own `Date`)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        moment = _moment(value)
        seconds = (moment - (_moment(date) or datetime.now(UTC))).total_seconds() if moment else math.nan
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _moment(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _object(body: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NotJson(f"it is not JSON: {error}" if body else "it is empty") from error
    if not isinstance(reply, dict):
        raise NotJson(f"it is a JSON {type(reply).__name__}, no object")
    return reply


def _tokens(usage: Any) -> tuple[int | None, int | None]:
    """Of the prompt and of the answer."""
    counts = usage if isinstance(usage, dict) else {}

    def count(name: str) -> int | None:
        value = counts.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None

    return count("prompt_tokens"), count("completion_tokens")
