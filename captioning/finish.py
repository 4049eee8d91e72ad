"""From what was said to what trains: derived, cleaned, checked, trimmed.

A pure function of the answer, the clip's row and the checks' settings, so that thresholds move without asking anybody
again: the answer is stored as it came, and what is made of it is made anew where the settings are others (`checked`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xxhash

from captioning import derive
from captioning.checks.check import ChecksConfig, check
from captioning.checks.clean import clean
from captioning.checks.tokens import Counter, trim
from captioning.recipes.base import Said
from captioning.structured import Structured

VERSION = "1"  # to be raised whenever cleaning, deriving or checking gives something else for the same answer

# Worth another try with other sampling: what a model ran into rather than saw.
RESAMPLE = frozenset({"empty", "short", "repetition", "compression", "truncated", "salad", "json", "chat", "prompt"})


# Of a clip's row what checks look at.
FACTS = ("text", "camera_motion", "camera_confidence", "camera_pan", "camera_tilt", "camera_zoom")


def checked_by(checks: ChecksConfig, row: Mapping[str, Any]) -> str:
    """Names what a caption of the clip was finished by: settings, and the clip's measurements."""
    facts = json.dumps([row.get(name) for name in FACTS], default=str)
    return f"{VERSION}-{checks.fingerprint()}-{xxhash.xxh3_64_hexdigest(facts.encode())}"


def finish(
    said: Said,
    row: Mapping[str, Any],
    checks: ChecksConfig,
    count: Counter,
    *,
    ended: str = "",
    prompt: str = "",
    matched: float | None = None,
) -> dict[str, Any]:
    """The columns short, dense, others, structured, tokens, flags and flag_reasons.

    Args:
        row: the clip's, see checks.check.
        ended: the backend's finish reason.
        prompt: what was asked, so that its echo is found.
        matched: cosine with the clip's pictures, where that was looked at.
    """
    short, dense = said.short, said.dense
    if said.structured is not None and not dense:
        dense = derive.dense(said.structured)
    dense = clean(dense)
    if not short:
        # A whole text's own first sentence, shortened as a summary would be.
        source = said.structured or (Structured(summary=dense) if any(map(str.isalpha, dense)) else None)
        short = derive.short(source) if source is not None else ""
    short = clean(short)
    flags = check(dense, row, checks, finish=ended, prompt=prompt)
    known = {flag.name for flag in flags}
    flags += [flag for flag in check(short, row, checks, prompt=prompt) if flag.name not in known]
    if checks.match is not None and matched is not None:
        flags += checks.match.flags(matched)
    fitted = trim(dense, count, checks.max_tokens)
    return {
        "short": trim(short, count, checks.max_tokens).text,
        "dense": fitted.text,
        "others": [text for text in map(clean, said.others) if text],
        "structured": said.structured.model_dump_json(exclude_defaults=True) if said.structured is not None else None,
        "tokens": fitted.tokens,
        "whole_tokens": fitted.whole,
        "flags": [flag.name for flag in flags],
        "flag_reasons": [flag.why for flag in flags],
    }
