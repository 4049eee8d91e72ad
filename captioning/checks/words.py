"""Sentences, words and quotations: what the checks look at."""

from __future__ import annotations

import re

_END = re.compile(r"(?<=[.!?…。！？])([\"”’')\]]*)\s+(?=[\"“‘'(\[]*\w)")
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:Mr|Mrs|Ms|Dr|St|Prof|vs|etc|e\.g|i\.e|approx|No|[A-Z])\.$")
QUOTED = re.compile(
    r"\"[^\"]*\"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|(?<!\w)['‘](?=\S)[^'’\"]*(?:['’](?=\w)[^'’\"]*)*['’](?!\w)"
)
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def sentences(text: str) -> list[str]:
    """In order, each with its final punctuation. An abbreviation or an initial ends none."""
    found, start = [], 0
    for match in _END.finditer(text):
        piece = text[start : match.end(1)]
        if not _ABBREVIATION.search(piece):
            found.append(piece.strip())
            start = match.end()
    found.append(text[start:].strip())
    return [piece for piece in found if piece]


def words(text: str) -> list[str]:
    """Lower case, without punctuation."""
    return [word.replace("’", "'") for word in WORD.findall(text.lower())]


def unquoted(text: str) -> str:
    """Without what stands in quotation marks: on-screen text, which a caption may repeat."""
    return QUOTED.sub(" “” ", text)


def brief(text: str, length: int = 60) -> str:
    """For messages."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"
