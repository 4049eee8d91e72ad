"""The report's page about captions: versions, accounts, flags, lengths, vocabulary, single clips, costs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from captioning.cost import CostConfig
from captioning.records import Version, versions
from captioning.report import charts, parts
from captioning.report.gallery import Gallery, choose, gather
from captioning.report.survey import Only, VersionSurvey, survey_captions
from captioning.report.vocabulary import Vocabulary, vocabulary
from curation.report.data import Tables, read_decisions
from curation.report.previews import GuardedMaker, Maker, Previews, make_previews
from curation.rules.decide import IMAGE
from orchestration.report import Page, Section, environment
from orchestration.storage import Storage

TEMPLATES = Path(__file__).parent / "templates"
POOL = 10  # clips to choose each shown one from


@dataclass(frozen=True)
class Amounts:
    """How much of each thing the page shows."""

    clips: int = 60  # with all their versions
    charted: int = 6  # versions with histograms and vocabulary
    reasons: int = 20  # of failures, a version
    preview_seconds: float = 30.0  # time for making previews
    preview_bytes: int = 6_000_000


def caption_page(
    storage: Storage,
    *,
    cost: CostConfig | None = None,
    max_tokens: int = 226,
    occupancy: Mapping[str, float] | None = None,
    only: Only | None = None,
    maker: Maker | None = None,
    amounts: Amounts | None = None,
) -> Page:
    """Read `captions/`, the versions, `clips/`, `videos/` and `selection.parquet`; all may be missing or empty.

    max_tokens: what the trainer sees of a caption. occupancy: share of the workers' time in which the model was asked,
    by fingerprint. only: a comparison of these versions and clips; words in which they differ are marked. maker(row) ->
    MP4 file of a clip's preview; a sandbox makes them where none is given.
    Memory is bounded by 8 bytes a clip and 10,000 captions a version; of clips whole rows are read for those shown.
    """
    amounts = amounts or Amounts()
    known = versions(storage)
    order = [name for name in known if only is None or name in only.versions]
    tables = Tables(storage, "captions"), Tables(storage, "clips"), Tables(storage, "videos")
    survey = survey_captions(tables[0], read_decisions(storage), order, pool=POOL * amounts.clips, only=only)
    found = list(survey.versions.values())
    if only is None:
        found.sort(key=lambda version: -version.train)  # stable: the others in the order in which they were made
    labels = parts.labels({version.fingerprint: _name(version, known) for version in found})
    chosen = choose(survey, amounts.clips)
    clip_ids = list(dict.fromkeys(only.clip_ids)) if only is not None else chosen.clip_ids
    gallery = gather(storage.uri, tables, labels, clip_ids, only is not None)
    previews = _previews(storage, gallery, maker, amounts)
    gallery.no_preview = previews.reasons
    charted = [version for version in found if version.captions][: amounts.charted]
    vocabularies = {version.fingerprint: vocabulary(version.sample) for version in charted}
    env = environment(TEMPLATES)

    def section(title: str, slug: str, lead: str = "", **context: Any) -> Section:
        html = env.get_template(f"{slug}.html").render(survey=survey, labels=labels, **context)
        return Section(title, slug, Markup(html), lead)  # the template escaped it

    rows = [parts.version_row(version, known.get(version.fingerprint), occupancy or {}) for version in found]
    if only is not None:
        groups = [("", clip_ids)]
    else:
        groups = [("Flagged", chosen.flagged), ("Failed", chosen.failed), ("Of many videos", chosen.spread)]
    clips = [(title, gallery.cards(names)) for title, names in groups if names]
    first = section("Versions", "versions", parts.lead(survey, labels, only), rows=rows, max_tokens=max_tokens)
    looked_at = section("Clips", "clips", parts.clips_lead(clip_ids, only), groups=clips)
    counted = [
        section("Accounts", "accounts", accounts=parts.accounts(survey, found), most=amounts.reasons),
        section("Flags", "flags", parts.flags_lead(found), flags=parts.flags(found)),
    ]
    priced = section("Cost", "cost", costs=parts.costs(survey, rows, cost or CostConfig()))
    if only is not None:
        sections = [first, looked_at, *counted, priced]
    else:
        lengths = section("Lengths", "lengths", shown=charted, max_tokens=max_tokens)
        words = section("Vocabulary", "vocabulary", shown=_with(vocabularies))
        sections = [first, *counted, lengths, words, looked_at, priced]
    return Page(
        title="Captions" if only is None else "Comparison",
        slug="captions" if only is None else "compare",
        sections=tuple(sections),
        charts=_charts(charted, vocabularies, max_tokens) if only is None else {},
        records=gallery.records(),
        previews=previews.media,
        style=(TEMPLATES / "captions.css").read_text(encoding="utf-8"),
    )


def _name(version: VersionSurvey, known: Mapping[str, Version]) -> str:
    stored = known.get(version.fingerprint)
    return version.name or (stored.name if stored else "")


def _with(vocabularies: Mapping[str, Vocabulary | None]) -> dict[str, Vocabulary]:
    return {name: found for name, found in vocabularies.items() if found is not None}


def _charts(
    shown: list[VersionSurvey], vocabularies: Mapping[str, Vocabulary | None], max_tokens: int
) -> dict[str, Any]:
    """Ids begin with `captions-`, so that they are no other page's."""
    if not shown:
        return {}
    measures = {
        "short": charts.lengths([version.short_words for version in shown]),
        "dense": charts.lengths([version.dense_words for version in shown]),
        "tokens": charts.lengths([version.whole_tokens for version in shown], max_tokens),
    }
    found = {
        f"captions-{name}-{version.fingerprint}": chart
        for name, made in measures.items()
        for version, chart in zip(shown, made, strict=True)
    }
    return found | {f"captions-growth-{name}": charts.growth(one) for name, one in _with(vocabularies).items()}


def _previews(storage: Storage, gallery: Gallery, maker: Maker | None, amounts: Amounts) -> Previews:
    rows = {clip_id: row for clip_id, row in gallery.clips.items() if not row.get(IMAGE)}
    with contextlib.closing(GuardedMaker(storage)) as guarded:
        return make_previews(rows, maker or guarded, seconds=amounts.preview_seconds, max_bytes=amounts.preview_bytes)
