"""Words on the screen that became the caption's own (text in a video can carry instructions: arXiv 2503.21824)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from captioning.checks.flag import Flag
from captioning.checks.words import brief, sentences, unquoted, words
from orchestration.config import Config

_ORDERS = (
    r"write|describe|ignore|disregard|forget|say|output|respond|reply|answer|repeat|return|pretend|visit|call|click|tap|"
    r"download|subscribe|follow|buy|order|rate|remember|use|do\s+not|don['’]t|please|never|always|join|share|like|vote|"
    r"watch|recommend|tell|swipe|scan|sign\s+up"
)
_COMMAND = re.compile(
    rf"^(?:and\s+|now\s+|just\s+)?(?:{_ORDERS})(?:,|!|\.|$|\s+(?:the|a|an|all|any|this|that|these|us|me|our|your|my|now|"
    rf"here|today|for|to|only|every|no|not|code|on|with|in|as|one|{_ORDERS}|start|forget|mention|include|www\S*|\d)\b)",
    re.I,
)
_PASSAGES = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        r"https?://\S+|\bwww\.\S+|\b[\w-]+\.(?:com|net|org|io|co|shop|example)\b(?:/\S*)?",
        r"(?<!\w)@\w{3,}",
        r"\b(?:ignore|disregard|forget|override)\s+(?:all\s+|any\s+)?(?:of\s+)?(?:the\s+|your\s+)?(?:previous|prior|above|earlier|preceding|other)\b",
        r"\b(?:like|comment|share)(?:,|\s+and)\s+(?:comment|subscribe|share)\b",
        r"\b(?:subscribe\s+(?:to|now|for)|follow\s+(?:us|me)\b|click\s+(?:here|the\s+link|below)|link\s+in\s+(?:the\s+)?bio|(?:use|enter)\s+(?:the\s+)?code)\b",
        r"\b\d+\s*(?:%|percent)\s+off\b|\border\s+(?:yours|now|today)\b|\bbuy\s+now\b|\bcall\s+(?:now|us|[\d\s-]{6,})",
        r"\b(?:system\s+prompt|(?:as|you\s+are)\s+(?:now\s+)?an?\s+(?:AI|helpful|language\s+model|assistant))\b|^(?:system|user|assistant)\s*:",
        r"\byou\s+(?:must|should|are\s+required\s+to|have\s+to)\b",
    )
)


class ScreenTextConfig(Config):
    run: int = Field(
        default=6, ge=3, description="words in a row of the clip's recognised text, outside of quotation marks"
    )


def screen_text(text: str, row: Mapping[str, Any], config: ScreenTextConfig) -> list[Flag]:
    """Flags `screen_text` (repeats `row["text"]`, what curation read in the middle picture) and `instruction` (speaks
    to somebody). Text in quotation marks is a description and free."""
    own = unquoted(text)
    flags = []
    seen = row.get("text")
    run = longest_run(words(own), words(seen)) if isinstance(seen, str) else []
    if len(run) >= config.run:
        why = f"repeats {len(run)} words of the on-screen text without quotation marks: '{brief(' '.join(run))}'"
        flags.append(Flag("screen_text", why))
    if passage := _passage(own):
        flags.append(Flag("instruction", f"speaks to somebody: '{brief(passage)}'"))
    return flags


def longest_run(a: list[str], b: list[str]) -> list[str]:
    """The longest run of words that both hold in a row."""
    from difflib import SequenceMatcher

    match = SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
    return a[match.a : match.a + match.size]


def _passage(own: str) -> str:
    for sentence in sentences(own):
        for pattern in _PASSAGES:
            if match := pattern.search(sentence):
                return match.group()
        if _COMMAND.match(sentence.lstrip('"“ ')):
            return sentence
    return ""
