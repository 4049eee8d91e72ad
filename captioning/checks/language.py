"""In which language a caption is, and whether it is prose at all: py3langid (naive Bayes over byte n-grams, Lui and
Baldwin 2012; its model comes with it), and the share of function words, which word salad lacks."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

from pydantic import Field

from captioning.checks.flag import Flag
from captioning.checks.words import unquoted, words
from captioning.english import STOP
from captioning.english import words as word_set
from orchestration.config import Config

_LATIN = word_set(
    "af ca cs cy da de en es et eu fi fr ga hr hu id is it lt lv ms nb nl nn no pl pt ro sk sl sq sv tr vi"
)
_LATIN_NAMES = ("LATIN", "MODIFIER", "FEMININE", "MASCULINE")  # of letters, in Unicode
_FUNCTION = STOP | word_set(
    "up down out off over under who which that after again around past near inside outside him them she he her one two "
    "what when where so than then until if through across along behind before between above not no"
)
_PROSE = 10  # words; the share of function words means little in fewer
_FEW = 3  # words; a language cannot be told from fewer


class LanguageConfig(Config):
    language: str = Field(default="en", min_length=2, description="ISO 639-1 code that captions are to be in")
    sure: float = Field(default=0.7, ge=0, le=1, description="another language counts from this probability")
    foreign: float = Field(default=0.05, ge=0, le=1, description="share of non-Latin letters, where letters are Latin")
    function_words: float = Field(
        default=0.12, ge=0, le=1, description="least share of function words, in English of 10 words and more"
    )


def language(text: str, config: LanguageConfig) -> list[Flag]:
    """Flags `script`, `language` or `salad`. What stands in quotation marks is on-screen text and may be in any."""
    own = unquoted(text)
    if config.language in _LATIN and (letters := [c for c in own if c.isalpha()]):
        strange = [c for c in letters if not unicodedata.name(c, "").startswith(_LATIN_NAMES)]
        if len(strange) / len(letters) > config.foreign:
            share = len(strange) / len(letters)
            return [Flag("script", f"{share:.0%} of its letters are not Latin: '{''.join(strange[:12])}'")]
    found = words(own)
    if len(found) < _FEW:
        return []
    guess, probability = _identifier().classify(own)
    if guess != config.language and float(probability) >= config.sure:
        return [Flag("language", f"looks like '{guess}' ({float(probability):.0%}), not '{config.language}'")]
    if config.language == "en" and len(found) >= _PROSE:
        share = sum(word in _FUNCTION for word in found) / len(found)
        if share < config.function_words:
            return [Flag("salad", f"{share:.0%} of its {len(found)} words are function words: no prose")]
    return []


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
