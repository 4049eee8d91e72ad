"""What the templates of the captions page are filled with: small summaries of the survey."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from captioning.cost import Amount, CostConfig, Usage, by_time, by_tokens
from captioning.records import Version
from captioning.report.survey import FAILED, FLAGGED, OK, Only, Survey, VersionSurvey
from orchestration.report import formats

MILLION = 1_000_000


def labels(names: Mapping[str, str]) -> dict[str, str]:
    """What versions are called: by name, and by fingerprint where a name is not theirs alone."""
    counts = Counter(names.values())
    return {
        fingerprint: name if name and counts[name] == 1 else f"{name} {fingerprint[:8]}".strip() or "without a name"
        for fingerprint, name in names.items()
    }


def lead(survey: Survey, labels: Mapping[str, str], only: Only | None) -> str:
    found = list(survey.versions.values())
    if only is not None:
        return f"{formats.plural(len(found), 'version')} of the captions of {formats.plural(survey.kept or 0, 'clip')}."
    if not any(version.total for version in found):
        return "There are no captions yet: rushes caption makes them."
    train = sum(version.train for version in found)
    of = f" of {formats.plural(survey.kept, 'kept clip')}" if survey.kept is not None else " clips"
    by = [f"{formats.count(v.train)} by {labels[v.fingerprint]}" for v in found if v.train]
    if not train:
        return f"None{of} has a caption to train with."
    return f"{formats.count(train)}{of} have a caption to train with: {', '.join(by)}."


def version_row(version: VersionSurvey, stored: Version | None, occupancy: Mapping[str, float]) -> dict[str, Any]:
    """A line of the versions' table, and what is asked in it."""
    settings = dict(stored.settings) if stored else {}
    captions = settings.get("captions")
    kind = captions.get("kind", "") if isinstance(captions, dict) else ""
    model = version.model or (stored.model if stored else "")
    said = {"attributes": "measured attributes, no language model", "brought": "brought, no model was asked"}
    return {
        "version": version,
        "usage": version.usage,
        "model": said.get(kind, model),
        "free": kind in said,
        "recipe": version.recipe or (stored.recipe if stored else ""),
        "occupancy": occupancy.get(version.fingerprint),
        "prompts": dict(stored.prompts) if stored else {},
        "settings": formats.short(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), 20_000),
    }


def accounts(survey: Survey, found: Sequence[VersionSurvey]) -> list[dict[str, Any]]:
    """Of each version what became of the kept clips; the counts add up to them."""
    rows = []
    for version in found:
        kept = version.total if survey.kept is None else survey.kept
        rows.append(
            {
                "version": version,
                "kept": kept,
                "ok": version.states[OK],
                "flagged": version.states[FLAGGED],
                "failed": version.states[FAILED],
                "without": max(0, kept - version.total),
                "reasons": version.reasons.most_common(),
            }
        )
    return rows


def flags_lead(found: Sequence[VersionSurvey]) -> str:
    captions = sum(version.captions for version in found)
    flagged = sum(version.states[FLAGGED] for version in found)
    if not captions:
        return ""
    if not flagged:
        return f"No check found anything in {formats.plural(captions, 'caption')}."
    return (
        f"{formats.plural(flagged, 'caption')} of {formats.count(captions)} flagged: they stay here to be looked at, "
        "and out of training unless train.allow names the flag."
    )


def flags(found: Sequence[VersionSurvey]) -> list[dict[str, Any]]:
    """The commonest flag of a version first."""
    return [
        {"version": version, "flag": flag, "example": example, "share": formats.share(example.count, version.captions)}
        for version in found
        for flag, example in sorted(version.flags.items(), key=lambda item: (-item[1].count, item[0]))
    ]


def clips_lead(clip_ids: Sequence[str], only: Only | None) -> str:
    if not clip_ids:
        return ""
    if only is not None:
        return "Marked are words that not every version has. Enter or a click on the picture: the answers as they came."
    return (
        f"{formats.plural(len(clip_ids), 'clip')}, always the same ones, with what every version says. The filter "
        "looks for words of captions, flags and files; a click on the picture shows the answers as they came."
    )


def costs(survey: Survey, rows: Sequence[Mapping[str, Any]], cost: CostConfig) -> list[dict[str, Any]]:
    """By version (of version_row): what its captions cost, what all kept clips would, and a million."""
    found = []
    for row in rows:
        version: VersionSurvey = row["version"]
        usage, sizes = version.usage, (version.total, survey.kept, MILLION)
        rate = usage.clips_a_second
        free = [{"text": "–", "why": "no model was asked"}] if row["free"] else []
        found.append(
            {
                "version": version,
                "usage": usage,
                "time": free or [_money(by_time, usage, cost, clips) for clips in sizes],
                "tokens": free or [_money(by_tokens, usage, cost, clips) for clips in sizes],
                "million": formats.duration(MILLION / rate) if rate else "",
            }
        )
    return found


def _money(
    price: Callable[[Usage, CostConfig, int], Amount], usage: Usage, cost: CostConfig, clips: int | None
) -> dict[str, str]:
    amount = price(usage, cost, clips or 0)
    if amount.value is None or clips is None:
        return {"text": "–", "why": amount.why or "nothing selected yet"}
    return {"text": f"{_figure(amount.value)} {cost.currency}", "why": ""}


def _figure(value: float) -> str:
    """Two decimals where they say something, three digits below a cent."""
    return f"{value:,.2f}" if value >= 0.01 or not value else formats.number(value)
