"""Short and dense text out of structured fields, and the fields out of a model's answer; nothing is invented."""

from __future__ import annotations

import re

from captioning import phrases
from captioning.json_answer import read
from captioning.structured import Structured, Subject

SHORT_WORDS = 25
COVERED = 0.75  # share of the summary's words that the other fields say too, from which on it adds nothing to them
LINES = 6  # of on-screen text in a dense caption


def short(structured: Structured) -> str:
    """One sentence of about SHORT_WORDS words at most: the summary's first.

    A longer one ends at its last clause that fits, and stays long where it has none. Empty where nothing has words.
    """
    for text in (structured.summary, *(_plainly(subject) for subject in structured.subjects), *structured.events):
        for sentence in phrases.sentences(text):
            return phrases.sentence(phrases.trim(sentence.removesuffix("."), SHORT_WORDS))
    return ""


def dense(structured: Structured) -> str:
    """A paragraph: who is there and does what, what happens in order, where, light, camera, shot, style, text.

    The summary leads where it says what the other fields do not. A sentence that only says again what one before it
    said is left out; openers ("The video shows") and claims of absence ("no text is visible") are not taken over.
    """
    rest: list[str] = []
    for subject in structured.subjects:
        rest += _subject(subject)
    for event in structured.events:
        rest += phrases.sentences(event)
    rest += phrases.about("setting", structured.environment)
    rest += phrases.light(structured.lighting)
    rest += phrases.camera(structured.camera_motion)
    rest += phrases.shot(structured.shot_type, structured.camera_angle)
    rest += phrases.about("style", structured.style)
    rest += _text(structured.text)
    summary, rest = phrases.sentences(structured.summary), _once(rest)
    paragraph = " ".join(rest)
    brief = short(structured)
    if _share(" ".join(summary), paragraph) < COVERED or not _longer(paragraph, brief):
        paragraph = " ".join(_once([*summary, *rest]))
    # A summary cut at a clause may still be more than what is left of equal sentences.
    return paragraph if _longer(paragraph, brief) else " ".join(_once([brief, *rest]))


def parse(text: str) -> Structured:
    """The one JSON object in a model's answer; code fences and words around it are skipped, nothing in it is mended.

    Raises ValueError that says what is wrong, in words that a model can be told to ask again.
    """
    return read(text, Structured)


def _plainly(subject: Subject) -> str:
    return " ".join(filter(None, (subject.name, subject.appearance, subject.action)))


def _subject(subject: Subject) -> list[str]:
    name, action = phrases.name(subject.name), phrases.parts(subject.action)
    own = [phrases.sentence(part) for part in action]
    if not name:
        return own
    who = phrases.described(name, subject.appearance)
    if action and (doing := phrases.predicate(name, action[0])):
        return [phrases.sentence(f"{who} {doing}"), *own[1:]]
    if who == name and action and phrases.content(name) <= phrases.content(action[0]):
        return own
    return [phrases.sentence(f"there {phrases.be(name)} {who}"), *own]


def _text(lines: tuple[str, ...]) -> list[str]:
    said = [" ".join(line.split()) for line in lines if re.search(r"\w", line)]
    quoted = [f'"{line}"' for line in dict.fromkeys(said)][:LINES]
    return [f"Text on screen reads {phrases.listed(quoted)}."] if quoted else []  # verbatim but for white space


def _once(sentences: list[str]) -> list[str]:
    """Without those whose words all occur in one of the others that come before them."""
    kept: list[str] = []
    for sentence in sentences:
        words = phrases.content(sentence)
        said = words and any(words <= phrases.content(before) for before in kept)
        if not said and sentence.lower() not in {before.lower() for before in kept}:
            kept.append(sentence)
    return kept


def _share(part: str, whole: str) -> float:
    """Of `part`'s content words, those that `whole` has (0-1)."""
    words = phrases.content(part)
    return len(words & phrases.content(whole)) / len(words) if words else 1.0


def _longer(text: str, other: str) -> bool:
    return len(text) >= len(other) and len(text.split()) >= len(other.split())
