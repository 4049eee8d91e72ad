"""Text that a model ran into rather than wrote: loops, cut-offs, hardly any words."""

from __future__ import annotations

import zlib
from collections import Counter
from itertools import pairwise

from pydantic import Field

from captioning.checks.flag import Flag
from captioning.checks.words import brief, sentences, words
from captioning.english import STOP
from captioning.english import words as word_set
from orchestration.config import Config

_ENDS = ".!?…。！？"
_DANGLING = word_set(
    "a an the and or but nor with without of to from for into onto at in on his her its their my our your this these "
    "as while which that who whose where when because if than then is are was were be has have next beside between"
)
_CLOSERS = "\"”’')]»"


class DegenerateConfig(Config):
    """Defaults: no caption of 76 written by hand (6 to 52 words) has a 4-gram or a sentence twice, or a pair of words
    three times, or compresses more than 1.5 times; PLLaVA's of 1,000 letters reach 2.3, loops begin at 2.4, which is
    Whisper's limit too (Radford et al. 2022)."""

    ngram: int = Field(default=4, ge=2, le=10, description="words in a row whose repetition counts")
    ngram_times: int = Field(
        default=3,
        ge=2,
        description="an n-gram this many times is a loop; nearly twice as many if one word of it has meaning",
    )
    pair_times: int = Field(default=4, ge=2, description="two words in a row, one of them no function word, this often")
    word_times: int = Field(
        default=5, ge=2, description="a word of meaning this often is suspicious, if also word_share"
    )
    word_share: float = Field(default=0.15, gt=0, le=1, description="of all words")
    compression: float = Field(default=2.4, gt=1, description="bytes of text / bytes after zlib; more is a loop")
    min_words: int = Field(default=3, ge=1)
    sentence_end: bool = Field(default=True, description="flag a text that stops in the middle of a sentence")


def degenerate(text: str, config: DegenerateConfig, finish: str = "") -> list[Flag]:
    """Flags `empty`, `short`, `repetition`, `compression`, `truncated`. finish: the backend's (`length`: cut off)."""
    found = words(text)
    if not found:
        return [Flag("empty", "no words")]
    flags = []
    if len(found) < config.min_words and not _dense_script(text):
        flags.append(Flag("short", f"{len(found)} words, fewer than {config.min_words}"))
    if why := _repetition(text, found, config):
        flags.append(Flag("repetition", why))
    ratio = compression(text)
    if ratio > config.compression:
        flags.append(Flag("compression", f"compresses {ratio:.1f} times, more than {config.compression:g}"))
    if finish == "length":
        flags.append(Flag("truncated", f"cut off at the token limit: '…{text[-30:]}'"))
    elif config.sentence_end and (why := _broken_off(text, found[-1])):
        flags.append(Flag("truncated", f"{why}: '…{text[-30:]}'"))
    return flags


def compression(text: str) -> float:
    """Bytes of text per byte of it after zlib."""
    data = text.encode()
    return len(data) / len(zlib.compress(data, 9)) if data else 0.0


def _broken_off(text: str, last: str) -> str:
    """Why it seems to stop too early. One phrase without a full stop is a style (as of many brought captions)."""
    bare = text.rstrip().rstrip(_CLOSERS)
    if bare.endswith(tuple(_ENDS)):
        return ""
    if last in _DANGLING or bare.endswith((",", ";", ":", "-", "–")):
        return "stops where more has to follow"
    return "its last sentence has no full stop, others have" if len(sentences(text)) > 1 else ""


def _dense_script(text: str) -> bool:
    """Scripts without spaces have many words in what looks like one."""
    return any("\u3040" <= c <= "\u9fff" or "\u0e00" <= c <= "\u0e7f" for c in text)


def _repetition(text: str, found: list[str], config: DegenerateConfig) -> str:
    said = Counter(" ".join(words(sentence)) for sentence in sentences(text))
    sentence, times = said.most_common(1)[0]
    if times > 1 and len(sentence.split()) > 2:
        return f"sentence '{brief(sentence, 40)}' {times} times"
    for gram, times in Counter(zip(*(found[i:] for i in range(config.ngram)), strict=False)).most_common():
        if times < config.ngram_times:
            break
        # "a man in a hat, a man in a coat and a man in a car" lists; it takes more to be a loop.
        if len(set(gram) - STOP) > 1 or times >= 2 * config.ngram_times - 1:
            return f"{config.ngram}-gram '{' '.join(gram)}' {times} times"
    pairs = Counter(pair for pair in pairwise(found) if not STOP.issuperset(pair))
    if pairs:
        pair, times = pairs.most_common(1)[0]
        if times >= config.pair_times and 2 * times / len(found) >= config.word_share:
            return f"'{' '.join(pair)}' {times} times in {len(found)} words"
    word, times = max(((w, n) for w, n in Counter(found).items() if w not in STOP), key=lambda x: x[1], default=("", 0))
    if times >= config.word_times and times / len(found) >= config.word_share:
        return f"'{word}' {times} times in {len(found)} words"
    return ""
