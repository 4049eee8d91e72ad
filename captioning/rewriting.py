"""Rewriting that only removes: what a model makes of a caption counts only where it adds nothing and loses nothing.

Small language models that are asked to shorten invent, and drop what matters (SmolLM2-135M dropped a camera pan). So a
rewritten caption is judged word by word against the original, and the original stays where it does not pass.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from captioning.backend import Answer, Request, Sampling
from captioning.checks.camera import claims
from captioning.checks.clean import clean
from captioning.checks.words import QUOTED, brief, sentences, words
from captioning.english import content
from captioning.english import words as listed
from captioning.job import Round
from captioning.prompt import Prompt
from orchestration.config import Config

_MOOD = (
    r"(?:sense|feeling|feel|atmosphere|mood|ambian?en?ce|air|impression|aura|vibe|tone|depth|energy|drama|beauty|charm"
    r"|warmth|tranquill?ity|serenity|tension|elegance|mystery|nostalgia|excitement|peace|calm|joy)"
)
# What may go, with all that it says: opinions, moods and guesses, up to the clause's end.
_OPINIONS = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        rf",?\s+(?:(?:and|while|thus|thereby)\s+)?(?:creat|giv|add|lend|contribut|bring|exud)ing\b[^.,;!?]*?\b{_MOOD}\b[^.,;!?]*",
        r",\s+(?:and\s+)?(?:perhaps|possibly|probably|likely|presumably|apparently)\b[^.,;!?]*",
        r",?\s+(?:and\s+)?(?:evoking|conveying|suggesting|indicating|implying|hinting)\b[^.,;!?]*",
        rf"(?:(?<=^)|(?<=[.!?]\s))(?:overall,?\s+)?(?:the|this)\s+(?:\w+\s+)?(?:{_MOOD}|scene|setting|shot|image|moment)\s+"
        rf"(?:is|feels|seems|appears|evokes|conveys|creates|has|exudes)\b[^.,;!?]*?\b(?:{_MOOD}|peaceful|serene|calm|tranquil"
        r"|beautiful|inviting|relaxed|relaxing|lively|dramatic|magical|tense|joyful|cozy|nostalgic)\b[^.;!?]*[.!?]?",
    )
)
# Hedges and praise, which say nothing of what is seen; and the words that openers are made of.
_EMPTY = listed(
    "appear appears seem seems apparently seemingly possibly perhaps probably likely presumably maybe might may could "
    "suggest suggests be very really quite rather clearly also additionally overall simply then beautiful stunning "
    "breathtaking serene tranquil peaceful picturesque captivating mesmerizing charming lovely wonderful gorgeous "
    "inviting magical video clip footage image picture photo scene show shows showing depict depicts depicting feature "
    "features capture captures can see we viewer what some kind sort"
)
_NUMBERS = listed(
    "two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand dozen first "
    "second third"
)
_NEGATIONS = listed("not no never without nobody nothing neither nor none cannot")


class RewriteConfig(Config):
    """What a rewritten caption has to keep."""

    # Least share of the words that carry meaning, opinions and guesses apart. Camera motion, numbers, quotations and
    # what each sentence is about have to stay whatever the share.
    content: float = Field(default=0.9, ge=0, le=1)


def judge(original: str, rewritten: str, config: RewriteConfig) -> str:
    """Why `rewritten` may not take the place of `original`; empty where it only removes what says nothing."""
    before, after = words(original), words(rewritten)
    if not after:
        return "nothing is left"
    kept = _aligned(before, after)
    if len(kept) < len(after):
        return f"adds '{after[len(kept)]}', or moves it"
    if lost := sorted(claims(original).keys() - claims(rewritten).keys()):
        return f"loses the camera's motion: {', '.join(lost)}"
    for quotation in QUOTED.findall(original):
        if not _runs(words(quotation), after):
            return f"loses the quotation {brief(quotation)}"
    if turned := _turned(before, after):
        return turned
    told = _informative(original)
    there = set(after)
    for word in words(told):
        if (word in _NUMBERS or any(letter.isdigit() for letter in word)) and word not in there:
            return f"loses the number '{word}'"
    remains = content(rewritten)
    for sentence in sentences(told):
        said = [word for word in words(sentence) if word not in _EMPTY and content(word)]
        if said and not content(said[0]) <= remains:
            return f"loses what a sentence is about: '{said[0]}'"
    wanted = frozenset().union(*(content(word) for word in words(told) if word not in _EMPTY))
    lost = sorted(wanted - remains)
    if len(lost) > (1 - config.content) * len(wanted) + 1e-9:
        return f"loses {len(lost)} of {len(wanted)} words that carry meaning: {', '.join(lost[:6])}"
    return ""


def _aligned(before: Sequence[str], after: Sequence[str]) -> list[int]:
    """Where each word of `after` stands in `before`, in order, up to the first that cannot be placed."""
    places: list[int] = []
    start = 0
    for word in after:
        try:
            start = before.index(word, start) + 1
        except ValueError:
            break
        places.append(start - 1)
    return places


def _runs(wanted: Sequence[str], there: Sequence[str]) -> bool:
    return any(list(there[at : at + len(wanted)]) == list(wanted) for at in range(len(there) - len(wanted) + 1))


def _turned(before: Sequence[str], after: Sequence[str]) -> str:
    """A negation that went while what it denies stayed."""
    denied = [_denied(before, at) for at, word in enumerate(before) if _denies(word)]
    still = [_denied(after, at) for at, word in enumerate(after) if _denies(word)]
    plain = [word for at, word in enumerate(after) if word not in still]
    for word in denied:
        if word and word not in still and word in plain:
            return f"says '{word}', which the original denies"
    return ""


def _denies(word: str) -> bool:
    return word in _NEGATIONS or word.endswith("n't")


def _denied(text: Sequence[str], at: int) -> str:
    return next((word for word in text[at + 1 : at + 5] if content(word)), "")


def _informative(text: str) -> str:
    """Without openers, absence claims, opinions and guesses."""
    text = clean(text)
    for pattern in _OPINIONS:
        text = pattern.sub("", text)
    return text.strip()


@dataclass(frozen=True)
class Rewritten:
    """text: rewritten, or the original, cleaned, for the reason in `note`. failed: nobody answered, which may pass."""

    text: str
    note: str = ""
    answers: tuple[Answer, ...] = ()
    failed: Answer | None = None


def rewrite_steps(
    key: str, caption: str, prompt: Prompt, sampling: Sampling, tries: int, config: RewriteConfig
) -> Generator[Round, Sequence[Answer], Rewritten]:
    """Asks for a rewritten `caption`, and again with other sampling, at most `tries` times after the first."""
    cleaned = clean(caption)
    if not cleaned:
        return Rewritten("", note="there is nothing to rewrite")
    answers: list[Answer] = []
    reason = ""
    for number in range(1 + tries):
        drawn = replace(sampling, seed=sampling.seed + number)
        if number:
            warmer = min(max(1.0, sampling.temperature), sampling.temperature + 0.4 * number)
            drawn = replace(drawn, temperature=warmer, top_p=min(sampling.top_p, 0.95))
        (answer,) = yield Round([Request(key, prompt.render(caption=caption), sampling=drawn)], by="text")
        answers.append(answer)
        if answer.status == "failed":
            return Rewritten(cleaned, f"kept as it was: {answer.reason}", tuple(answers), failed=answer)
        text = clean(answer.text)
        reason = "cut off" if answer.finish == "length" else judge(caption, text, config)
        if not reason:
            return Rewritten(text, answers=tuple(answers))
    return Rewritten(cleaned, f"kept as it was, what was made of it {reason}", tuple(answers))
