"""What every layout is read into: rows of a video's name, texts and time spans. Text that strangers wrote is parsed
here, within limits, and never evaluated."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from dataclasses import dataclass
from typing import Any

MAX_FIELD = 2**20  # bytes of one caption, one list of captions, one path
SHOWN = 160  # characters of foreign text in a message
Span = tuple[float, float]

_CLOCK = re.compile(r"(?:(?:(\d{1,3}):)?(\d{1,3}):)?(\d{1,7}(?:\.\d{0,9})?)")
_FORBIDDEN = re.compile("[\0\ud800-\udfff]")  # NUL; and what stands for bytes that are not UTF-8


class RowError(ValueError):
    """A row that cannot be used; the message says why."""


@dataclass(frozen=True)
class Problem:
    """A row or file that was passed over: where (file, and line or row) and why."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(frozen=True)
class Row:
    """Captions of one video, or of time spans in it.

    name: the video as the source calls it: a path, a URI, a file name, an id. folder: what a relative name is relative
    to (an address). spans: seconds from the video's start, one a text; empty: the texts are about the whole video.
    """

    group: str  # the file, or set of sidecars, it comes from
    where: str
    folder: str
    name: str
    texts: tuple[str, ...]
    spans: tuple[Span, ...] = ()
    sidecar: bool = False  # name is the sidecar's own address without its suffix


def quoted(text: str) -> str:
    """Foreign text for one line of a message: control characters escaped, shortened."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def make_row(group: str, where: str, folder: str, name: Any, caption: Any, span: Any = None) -> Row:
    """From cells of a table. `span` is None, or a span or list of spans as text or values. Raises RowError."""
    name = _name(name)
    spans, several = ((), False) if span is None else _spans(span)
    texts = _texts(caption, several)
    if spans and len(spans) != len(texts):
        raise RowError(f"{len(texts)} captions for {len(spans)} time spans")
    if not any(texts):
        raise RowError("the caption is empty")
    if spans:
        spans = tuple(span for span, text in zip(spans, texts, strict=True) if text)
    return Row(group, where, folder, name, tuple(filter(None, texts)), spans)


def caption_texts(value: Any) -> tuple[str, ...]:
    """The captions in a cell or JSON value: a text, or a list of them. Raises RowError."""
    texts = tuple(filter(None, _texts(value, several=False)))
    if not texts:
        raise RowError("the caption is empty")
    return texts


def clean(text: str, what: str) -> str:
    """The text itself. Raises RowError where it is too long, has NUL in it or is not UTF-8."""
    if len(text) > MAX_FIELD or len(text.encode(errors="surrogatepass")) > MAX_FIELD:
        raise RowError(f"the {what} is larger than {MAX_FIELD // 2**20} MiB")
    bad = _FORBIDDEN.search(text)
    if bad:
        raise RowError(f"the {what} has a NUL character in it" if bad[0] == "\0" else f"the {what} is not UTF-8")
    return text


def literal(text: str) -> Any:
    """The value of JSON text, or of Python's literals (str, numbers, lists, tuples, dicts). Raises RowError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a backslash in somebody's caption is not our code's
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise RowError(f"neither JSON nor a list in Python's notation: {quoted(text[:60])}") from error


def seconds(value: Any) -> float:
    """Of a number, "12.5", "1:02.5" or "0:01:02.5". Raises RowError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value) if abs(value) < 1e9 else math.inf
    elif isinstance(value, str) and (match := _CLOCK.fullmatch(value.strip().replace(",", "."))):
        hours, minutes, rest = match.groups()
        found = int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest)
    else:
        raise RowError(f"not a time: {quoted(str(value)[:SHOWN])}")
    if not math.isfinite(found):
        raise RowError(f"not a time: {quoted(str(value)[:SHOWN])}")
    return found


def listed(value: Any) -> bool:
    """Whether a cell holds a list, as a value or as text."""
    return _sequence(value) or (isinstance(value, str) and value.strip()[:1] in ("[", "("))


def _name(value: Any) -> str:
    if isinstance(value, dict):  # a video column of Hugging Face: {bytes, path}
        value = value.get("path")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise RowError("no path" if value is None or value == "" else f"the path is not text: {type(value).__name__}")
    return clean(value, "path")


def _texts(value: Any, several: bool) -> list[str]:
    """Without spaces around them; empty ones stay, for their spans. several: what begins like a list has to be one."""
    if isinstance(value, str):
        value = _list_in(clean(value, "caption").strip(), several)
    if not _sequence(value):
        raise RowError("no caption" if value is None else f"the caption is not text: {type(value).__name__}")
    if not all(isinstance(item, str) for item in value):
        raise RowError("the caption is a list of other things than texts")
    return [clean(item, "caption").strip() for item in value]


def _list_in(text: str, several: bool) -> list[str]:
    """The texts of a list that is written as text; else the text itself, as in "[music] a man sings"."""
    if not text.startswith("["):
        return [text]
    value: Any = None
    try:
        value = literal(text)
    except RowError:
        if several:
            raise
    if _sequence(value) and all(isinstance(item, str) for item in value):
        return list(value)
    if several:
        raise RowError("the caption is not a list of texts")
    return [text]


def _spans(value: Any) -> tuple[tuple[Span, ...], bool]:
    """(spans, whether they are written as a list of them)."""
    if isinstance(value, str):
        value = literal(clean(value, "list of time spans").strip())
    if not _sequence(value) or not value:
        raise RowError("no time spans")
    several = all(_sequence(item) for item in value)
    pairs = value if several else [value]
    found = []
    for pair in pairs:
        if len(pair) != 2:
            raise RowError(f"a time span is a start and an end; found {len(pair)} values")
        start, end = seconds(pair[0]), seconds(pair[1])
        if not 0 <= start < end:
            raise RowError(f"a time span ends before it starts: {start:g} to {end:g} s")
        found.append((start, end))
    return tuple(found), several


def _sequence(value: Any) -> bool:
    return isinstance(value, list | tuple)
