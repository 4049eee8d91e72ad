"""The report's page about curation: what came in, what was kept, what was dropped and why, down to single clips."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from curation.report import highest, parts
from curation.report.data import Place, Tables, hashes, read_decisions
from curation.report.duplicates import read_duplicates
from curation.report.histograms import Bound
from curation.report.previews import GuardedMaker, Maker, Previews, make_previews
from curation.report.survey import LENGTH, ClipSurvey, survey_clips
from curation.report.tiles import Gallery, gather
from curation.report.videos import survey_videos
from curation.rules.decide import IMAGE
from curation.rules.funnel import Funnel
from curation.schema import CLIPS
from curation.video import Column
from orchestration.report import Page, Section, environment, formats
from orchestration.storage import Storage

TEMPLATES = Path(__file__).parent / "templates"
NEAR_POOL = 48  # clips on each side of a threshold among which those of different videos are preferred

Thresholds = Mapping[str, Sequence[tuple[float | None, float | None]]]


@dataclass(frozen=True)
class Amounts:
    """How much of each thing the page shows; the rest is counted and said to be left out."""

    kept: int = 48
    per_reason: int = 24
    reasons: int = 12
    bounds: int = 16
    near: int = 6  # on each side of a threshold
    groups: int = 12  # of near-duplicates
    members: int = 7  # of a group, beside the clip that is kept
    highest: int = 12  # clips by each score of text, faces and persons
    labels: int = 6  # by each label
    timelines: int = 24
    failures: int = 40
    uris: int = 8  # named for each reason of failure
    preview_seconds: float = 45.0  # time for making previews
    preview_bytes: int = 12_000_000


def curation_page(
    storage: Storage,
    *,
    columns: Sequence[Column],
    thresholds: Thresholds | None = None,
    funnel: Funnel | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
    config: str = "",
    maker: Maker | None = None,
    amounts: Amounts | None = None,
) -> Page:
    """Read `videos/`, `clips/` and `selection.parquet` of a dataset; all of them may be missing or empty.

    columns: the scores' documentation. thresholds: column -> [(min, max)]. stages: dicts with `name`, `seconds` and,
    where known, `items`, `unit`, `bytes`. config: the resolved configuration as YAML. maker(row) -> MP4 file of a
    clip's preview; a sandbox makes them where none is given.
    Memory is bounded by about 20 bytes a clip; media and whole rows are read for the clips shown only.
    """
    amounts = amounts or Amounts()
    basic = {column.name for column in CLIPS}
    columns = [column for column in columns if column.name not in basic]
    videos, clips, decisions = Tables(storage, "videos"), Tables(storage, "clips"), read_decisions(storage)
    sources = survey_videos(videos, timelines=amounts.timelines, uris_a_reason=amounts.uris, duplicates=50)
    duplicates = read_duplicates(storage, groups=amounts.groups, members=amounts.members)
    survey = survey_clips(
        clips,
        decisions,
        columns,
        thresholds or {},
        sources.chosen,
        kept_tiles=amounts.kept,
        reason_tiles=amounts.per_reason,
        max_reasons=amounts.reasons,
        near_pool=NEAR_POOL,
        highest=highest.ranked(columns),
        wanted=hashes(pa.array(duplicates.clip_ids, pa.string())),
    )
    near = _near(survey, amounts)
    sheets = [survey.kept.places, survey.undecided.places, *(group.places for group in survey.dropped.values())]
    sheets += [survey.places(group.clip_ids) for group in duplicates.groups]
    for column in highest.ranked(columns):
        sheets.append(
            highest.chosen(survey, column, amounts.labels if column.startswith(highest.LABEL) else amounts.highest)
        )
    nearest = [place for sides in near.values() for places in sides.values() for place in places]
    places = dict.fromkeys([*nearest, *(place for sheet in sheets for place in sheet)])
    gallery = gather(storage, clips, videos, survey, columns, decisions, places)
    gallery.similarity = {name: value for group in duplicates.groups for name, value in group.similarity.items()}
    guarded = GuardedMaker(storage)
    with contextlib.closing(guarded):
        previews = _previews(gallery, near, sheets, maker or guarded, amounts)
    gallery.no_preview = previews.reasons
    env = environment(TEMPLATES)

    def section(title: str, slug: str, lead: str = "", template: str = "", **context: Any) -> Section:
        html = env.get_template(f"{template or slug}.html").render(
            survey=survey, sources=sources, kinds_of_boxes=gallery.kinds, **context
        )
        return Section(title, slug, Markup(html), lead)  # the template escaped it

    shown = {name: shape for name, shape in survey.histograms.items() if name != LENGTH.name or shape.bounds}
    known = {column.name for column in columns} | {LENGTH.name}
    sections = [
        section(
            "Overview", "overview", parts.lead(sources, survey), states=parts.states(survey), kinds=parts.kinds(sources)
        ),
        section("Funnel", "funnel", funnel=funnel, reasons=survey.reasons.most_common(40)),
        section(
            "Scores",
            "scores",
            "Kept and dropped clips over each score; lines are thresholds, the shaded side fails.",
            histograms=[shape for shape in shown.values() if shape.measured and not shape.constant],
            constant=[shape for shape in shown.values() if shape.measured and shape.constant],
            absent=[name for name, shape in shown.items() if not shape.measured],
            categories=parts.categories(survey, columns),
            unknown=sorted(set(thresholds or {}) - known),
        ),
        section(
            "At the thresholds",
            "thresholds",
            "The clips on which a threshold turns: is the line in the right place?",
            bounds=parts.at_bounds(near, gallery),
            left_out=len(survey.near) - len(near),
        ),
        section(
            "Near-duplicates",
            "duplicates",
            parts.duplicates_lead(duplicates, survey, funnel),
            groups=parts.duplicate_groups(duplicates, survey, gallery),
            left_out=duplicates.kept - len(duplicates.groups),
        ),
        *(
            section(title, slug, lead, "highest", sheets=sheets)
            for title, slug, lead, sheets in parts.highest(survey, gallery, amounts.highest, amounts.labels)
            if sheets
        ),
        section(
            "Kept clips",
            "kept",
            tiles=gallery.sheet(survey.kept.places),
            undecided=gallery.sheet(survey.undecided.places),
        ),
        section(
            "Dropped clips",
            "dropped",
            groups=[
                {
                    "reason": reason,
                    "count": survey.reasons[reason],
                    "tiles": gallery.sheet(group.places),
                    "duplicate": reason in parts.duplicate_reasons(funnel),
                }
                for reason, group in survey.dropped.items()
            ],
            left_out=len(survey.reasons) - len(survey.dropped),
        ),
        section("Timelines", "timelines", videos=parts.timelines(sources, survey), command=gallery.command),
        section("Failures", "failures", **parts.failures(sources, amounts.failures)),
        section("Throughput", "throughput", stages=parts.stages(stages)),
    ]
    if not survey.total:  # without clips most sections would only say that there is nothing to show
        sections = [part for part in sections if part.slug in ("overview", "failures", "throughput")]
    if config:
        sections.append(section("Configuration", "config", config=formats.short(config, 200_000)))
    return Page(
        title="Curation",
        slug="curation",
        sections=tuple(sections),
        charts=parts.charts(survey, columns),
        records=gallery.records(),
        fields=gallery.fields(),
        previews=previews.media,
        script=(TEMPLATES / "marks.js").read_text(encoding="utf-8"),
    )


def _near(survey: ClipSurvey, amounts: Amounts) -> dict[Bound, dict[bool, list[Place]]]:
    """The clips nearest each threshold that fail and that pass, of different videos where there are enough."""
    chosen: dict[Bound, dict[bool, list[Place]]] = {}
    for bound in list(survey.near)[: amounts.bounds]:
        chosen[bound] = {}
        for passes in (False, True):
            items = [(clip_id, place) for *_, clip_id, place in survey.near[bound][passes].items]
            chosen[bound][passes] = highest.spread(items, amounts.near)
    return chosen


def _previews(
    gallery: Gallery,
    near: Mapping[Bound, Mapping[bool, Sequence[Place]]],
    sheets: Sequence[Sequence[Place]],
    maker: Maker,
    amounts: Amounts,
) -> Previews:
    """Of the nearest clips of every threshold first, then the second nearest; then some of each sheet."""
    rounds: list[tuple[int, Place]] = []
    for sides in near.values():
        for places in sides.values():
            rounds += enumerate(places)
    for places in sheets:
        rounds += enumerate(places[:4], start=amounts.near)
    order = [place for _, place in sorted(rounds, key=lambda item: item[0])]
    rows = {row["clip_id"]: row for row in (gallery.rows[place] for place in order) if not row.get(IMAGE)}
    return make_previews(rows, maker, seconds=amounts.preview_seconds, max_bytes=amounts.preview_bytes)
