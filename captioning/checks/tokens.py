"""How many tokens of the trainer's text encoder a caption takes, and a caption cut where a sentence ends."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from captioning.checks.words import sentences
from orchestration.errors import RushesError

LIMIT = 226  # tokens, the end mark included: what CogVideoX's text encoder is given
ESTIMATE = "estimate"
_PIECE = re.compile(r"[A-Za-z]+|[^\W\d_]|\d|[^\w\s]|_")
_LETTERS, _CAPITALS = 4, 3  # letters a token of a word, and of one with capitals: names are rarely in a vocabulary


@dataclass(frozen=True)
class Counter:
    """Tokens of a text, the end mark included. name: whose tokens (a tokenizer's name, or `estimate`)."""

    name: str
    count: Callable[[str], int]

    def __call__(self, text: str) -> int:
        return self.count(text)


@dataclass(frozen=True)
class Trimmed:
    text: str
    tokens: int  # of `text`
    whole: int  # tokens before trimming
    dropped: int  # sentences
    mid_sentence: bool  # the first sentence alone was too long and is cut at a comma, or else at a word
    counter: str  # whose tokens


def counter(tokenizer: str | None = None) -> Counter:
    """Of a tokenizer (hub name or folder, for example google/t5-v1_1-xxl); None: `estimate`. Raises RushesError."""
    if tokenizer is None:
        return Counter(ESTIMATE, estimate)
    tokens = _load(tokenizer)
    folder = Path(tokenizer)
    return Counter(folder.name if folder.is_dir() else tokenizer, lambda text: len(tokens(text)["input_ids"]))


def estimate(text: str) -> int:
    """Tokens that T5 is not likely to exceed: one for every 4 letters begun of each word (3 with capitals), one for
    every digit, mark and non-Latin letter, one for the end.

    No T5 tokenizer was at hand to compare it with. It is at or above what two other subword tokenizers count (BERT's of
    30,522 pieces, SmolLM2's of 49,152; T5's has 32,100) for each of 154 captions, a third above at the median. It is no
    bound: a text of rare short words can take more.
    """
    return 1 + sum(map(_tokens, _PIECE.findall(text)))


def _tokens(piece: str) -> int:
    if not (piece.isascii() and piece.isalpha()):
        return 1
    return math.ceil(len(piece) / (_LETTERS if piece.islower() else _CAPITALS))


def trim(text: str, count: Callable[[str], int], limit: int = LIMIT) -> Trimmed:
    """The longest run of whole sentences from the start that takes at most `limit` tokens. Empty if no word fits."""
    name = count.name if isinstance(count, Counter) else getattr(count, "__name__", "given")
    whole = count(text)
    if whole <= limit:
        return Trimmed(text, whole, whole, 0, False, name)
    found = sentences(text)
    kept = _most(found, " ", count, limit)
    if kept:
        short = " ".join(found[:kept])
        return Trimmed(short, count(short), whole, len(found) - kept, False, name)
    for pattern in (r"(?<=[,;:])\s+", r"\s+"):
        parts = re.split(pattern, found[0]) if found else []
        ends = [part.rstrip(",;:") for part in parts]
        for kept in range(_most(parts, " ", count, limit - 1), 0, -1):
            short = " ".join([*parts[: kept - 1], ends[kept - 1]]) + "."
            if count(short) <= limit:
                return Trimmed(short, count(short), whole, len(found) - 1, True, name)
    return Trimmed("", count(""), whole, len(found), True, name)


def _most(parts: list[str], joint: str, count: Callable[[str], int], limit: int) -> int:
    """How many parts from the start fit."""
    low, high = 0, len(parts)
    while low < high:
        middle = (low + high + 1) // 2
        if count(joint.join(parts[:middle])) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


@cache
def _load(tokenizer: str) -> Any:
    from curation.scorers.runtime import allow_torchvision

    allow_torchvision()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(tokenizer)
    except Exception as error:  # the hub's client, tokenizers and sentencepiece have a class for every trouble
        raise RushesError(
            f"no tokenizer {tokenizer}: {error}. Give a hub name or a folder with its files, fill the hub's cache "
            "beforehand (HF_HOME), or leave tokenizer out: tokens are then estimated"
        ) from error
