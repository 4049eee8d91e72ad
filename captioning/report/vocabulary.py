"""How varied the captions of a version are: figures of a sample, which show templates and collapse."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from captioning.checks.words import sentences, words
from captioning.english import DETERMINERS, PLACES, PRONOUNS, STOP

SAMPLE = 10_000  # captions of a version
OPENING = 4  # words
TEMPLATE = 0.25  # of the captions: from here on an opening is called a template
STEPS = 10  # at which the growth of the vocabulary is taken
EMPTY = STOP | PLACES | DETERMINERS | PRONOUNS  # words that say nothing of a clip
CHARACTERS = 4000  # of a caption that are looked at


@dataclass
class Sample:
    """The SAMPLE captions whose clips have the smallest hashes: the same ones whatever files and batches there are."""

    texts: list[tuple[int, str]] = field(default_factory=list)
    _limit: np.uint64 = field(default_factory=lambda: np.uint64(2**64 - 1))

    def offer(self, keys: np.ndarray, texts: pa.Array, fit: np.ndarray) -> None:
        """[n] uint64 hashes of clip_ids, [n] captions, [n] bool: those to choose from."""
        (at,) = np.nonzero(fit & texts.is_valid().to_numpy(zero_copy_only=False))
        if len(at) > SAMPLE:
            at = at[np.argpartition(keys[at], SAMPLE - 1)[:SAMPLE]]
        at = at[keys[at] < self._limit]
        self.texts += zip(keys[at].tolist(), texts.take(pa.array(at)).to_pylist(), strict=True)
        if len(self.texts) > SAMPLE:
            self.texts = sorted(self.texts)[:SAMPLE]
            self._limit = np.uint64(self.texts[-1][0])


@dataclass(frozen=True)
class Vocabulary:
    """Of `captions` captions."""

    captions: int
    words: int
    distinct: int
    trigrams: float | None  # share of three words in a row that are not a repetition of others
    growth: tuple[tuple[int, int], ...]  # after so many captions, so many distinct words
    top: tuple[tuple[str, int], ...]  # commonest words that carry meaning, and how many captions have them
    openings: tuple[tuple[str, int], ...]  # commonest beginnings of sentences, and how many captions have them

    @property
    def template(self) -> tuple[str, int] | None:
        """The commonest opening, where too many captions share it."""
        first = self.openings[0] if self.openings and self.captions >= 20 else None
        return first if first and first[1] >= TEMPLATE * self.captions else None


def vocabulary(sample: Sample, *, top: int = 12, openings: int = 8) -> Vocabulary | None:
    """None of a sample without words."""
    numbers: dict[str, int] = {}
    of, begins = Counter[str](), Counter[str]()
    runs: list[np.ndarray] = []
    growth, total = [], 0
    texts = [text[:CHARACTERS] for _, text in sorted(sample.texts)]
    marks = {round(len(texts) * step / STEPS) for step in range(1, STEPS + 1)}
    for place, text in enumerate(texts, start=1):
        found = words(text)
        total += len(found)
        codes = np.fromiter((numbers.setdefault(word, len(numbers)) for word in found), np.uint64, len(found))
        runs.append((codes[:-2] << np.uint64(42)) | (codes[1:-1] << np.uint64(21)) | codes[2:])
        of.update({word for word in found if word not in EMPTY and not word.isdigit()})
        first = (" ".join(words(sentence)[:OPENING]) for sentence in sentences(text))
        begins.update({opening for opening in first if opening})
        if place in marks:
            growth.append((place, len(numbers)))
    if not total:
        return None
    trigrams = np.concatenate(runs)
    return Vocabulary(
        len(texts),
        total,
        len(numbers),
        len(np.unique(trigrams)) / len(trigrams) if len(trigrams) else None,
        tuple(growth),
        tuple(_commonest(of, top)),
        tuple(_commonest(begins, openings)),
    )


def _commonest(counts: Counter[str], size: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]
