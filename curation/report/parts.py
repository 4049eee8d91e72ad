"""What the templates of the curation page are filled with: small summaries of the surveys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from curation.report.data import DROPPED, KEPT, UNDECIDED, Place
from curation.report.duplicates import Duplicates
from curation.report.highest import PEOPLE, TEXT, labels, sheets
from curation.report.histograms import Bound
from curation.report.survey import ClipSurvey
from curation.report.tiles import STATES, Gallery
from curation.report.videos import VideoSurvey
from curation.rules.funnel import Funnel
from curation.video import Column
from orchestration.report import formats


def lead(sources: VideoSurvey, survey: ClipSurvey) -> str:
    if not sources.total:
        return "There are no videos yet."
    if not sources.statuses["ok"]:
        return f"None of {formats.plural(sources.total, 'video')} could be taken in."
    if not survey.total:
        return f"{formats.plural(sources.total, 'video')}, no clips yet."
    if survey.clips[UNDECIDED] == survey.total:
        return (
            f"{formats.plural(survey.total, 'clip')} out of {formats.plural(sources.total, 'video')}, not selected yet."
        )
    kept = survey.clips[KEPT]
    return (
        f"{formats.count(kept)} of {formats.plural(survey.total, 'clip')} kept: "
        f"{formats.duration(survey.seconds[KEPT])} out of {formats.duration(sources.seconds)} of footage."
    )


def states(survey: ClipSurvey) -> list[dict[str, Any]]:
    names = {KEPT: "kept", DROPPED: "dropped", UNDECIDED: "not selected"}
    return [
        {
            "name": name,
            "clips": survey.clips[state],
            "seconds": survey.seconds[state],
            "pictures": survey.pictures[state],
            "state": STATES.get(state, "neutral"),
        }
        for state, name in names.items()
        if survey.clips[state] or state != UNDECIDED
    ]


def kinds(sources: VideoSurvey) -> list[tuple[str, list[tuple[str, int]]]]:
    """The commonest codecs, sizes and rates, the others summed up."""
    kinds = []
    for title, counts in (("Codec", "codec"), ("Short side", "size"), ("Frame rate", "rate")):
        common = sources.kinds[counts].most_common(5)
        others = sources.kinds[counts].total() - sum(n for _, n in common)
        kinds.append((title, common + ([("others", others)] if others else [])))
    return kinds


def categories(survey: ClipSurvey, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Columns of words that are worth a chart: some, but not one for every clip."""
    found = []
    for column in columns:
        counts = survey.categories.get(column.name)
        distinct = {name for by_state in (counts or {}).values() for name in by_state if name}
        if counts is not None and 1 <= len(distinct) <= 50:
            missing = sum(by_state[""] for by_state in counts.values())
            found.append({"column": column, "distinct": len(distinct), "missing": missing})
    return found


def charts(survey: ClipSurvey, columns: Sequence[Column]) -> dict[str, Any]:
    charts = {f"score-{name}": shape.chart() for name, shape in survey.histograms.items() if shape.measured}
    for item in categories(survey, columns):
        counts = survey.categories[item["column"].name]
        total = sum(counts.values(), type(counts[KEPT])())
        names = [name for name, _ in total.most_common() if name][:12]
        roles = [("kept", "good", KEPT), ("dropped", "bad", DROPPED), ("not selected yet", "neutral", UNDECIDED)]
        shown = [(name, role, state) for name, role, state in roles if counts[state]]
        charts[f"score-{item['column'].name}"] = {
            "x": [formats.short(name, 24) for name in names],
            "category": True,
            "series": [{"name": n, "role": role, "y": [counts[state][x] for x in names]} for n, role, state in shown],
            "hover": ["\n".join([x, *(f"{n} {counts[state][x]:,}" for n, _, state in shown)]) for x in names],
        }
    return charts


def at_bounds(near: Mapping[Bound, Mapping[bool, Sequence[Place]]], gallery: Gallery) -> list[dict[str, Any]]:
    return [
        {
            "bound": bound,
            "shape": gallery.survey.histograms[bound.column],
            # The nearest ones meet at the line.
            "fails": gallery.sheet(reversed(sides[False]), (bound.column,), why=True),
            "passes": gallery.sheet(sides[True], (bound.column,), why=True),
        }
        for bound, sides in near.items()
    ]


def duplicate_reasons(funnel: Funnel | None) -> list[str]:
    return [stage.reason for stage in funnel.stages if stage.kind == "duplicate"] if funnel else []


def duplicates_lead(duplicates: Duplicates, survey: ClipSurvey, funnel: Funnel | None) -> str:
    if duplicates.clips:
        return (
            f"{formats.plural(duplicates.clips, 'clip')} dropped as near-duplicates of "
            f"{formats.plural(duplicates.kept, 'kept clip')}: is each group one scene, and the best of it kept?"
        )
    if survey.clips[UNDECIDED] == survey.total:
        return "Near-duplicates are decided by rushes select, which has not run yet."
    if duplicate_reasons(funnel):
        return "None found among the clips that the rules keep."
    return "Not looked for: `near_duplicates` below `select` turns the search on, and needs the embedding scorer."


def duplicate_groups(duplicates: Duplicates, survey: ClipSurvey, gallery: Gallery) -> list[dict[str, Any]]:
    groups = []
    for group in duplicates.groups:
        places = survey.places(group.clip_ids)
        badges = {
            place: f"{group.similarity[name]:.2f}" for name in group.similarity for place in survey.places([name])
        }
        badges |= dict.fromkeys(survey.places([group.kept]), "kept")
        groups.append({"group": group, "tiles": gallery.sheet(places, badges=badges)})
    return groups


def highest(
    survey: ClipSurvey, gallery: Gallery, size: int, label_size: int
) -> list[tuple[str, str, str, list[dict[str, Any]]]]:
    """Title, slug, lead and sheets of the sections that show what detectors found."""
    return [
        (
            "Faces and people",
            "people",
            "Where most faces and persons were found. Boxes belong to the moment of the picture.",
            sheets(survey, gallery, PEOPLE, size),
        ),
        (
            "Text",
            "text",
            "Where most text was found. Overlays stay in place over the clip; text of the scene moves with it.",
            sheets(survey, gallery, TEXT, size),
        ),
        (
            "Labels",
            "labels",
            "The clips that each label fits best.",
            sheets(survey, gallery, labels(gallery.columns), label_size),
        ),
    ]


def timelines(sources: VideoSurvey, survey: ClipSurvey) -> list[dict[str, Any]]:
    videos = []
    for video_id, row in sources.chosen.items():
        spans = sorted(survey.spans.get(video_id, []), key=lambda span: span["start_s"] or 0)
        ends = [span["end_s"] or 0 for span in spans]
        length = max([row["duration_s"] or 0, *ends]) or 1.0
        for order, span in enumerate(spans):
            start = span["start_s"] or 0
            span["x"] = round(1000 * start / length, 2)
            # A sliver of space keeps neighbouring cuts apart, a clip however short stays visible.
            span["width"] = round(max(1.2, 1000 * ((span["end_s"] or 0) - start) / length - 0.8), 2)
            span["class"] = STATES.get(span["state"], "undecided") + (" odd" if order % 2 else "")
            verdict = span["reason"] or STATES.get(span["state"], "not selected yet")
            span["tip"] = f"{formats.clock(start)} – {formats.clock(span['end_s'])}  {formats.short(verdict, 120)}"
        kept = sum(span["state"] == KEPT for span in spans)
        total = survey.spans_of[video_id]
        videos.append(
            {"row": row, "spans": spans, "length": length, "kept": kept, "total": total, "until": max(ends, default=0)}
        )
    return videos


def failures(sources: VideoSurvey, reasons: int) -> dict[str, Any]:
    ranked = sorted(sources.failures.values(), key=lambda failure: (-failure.count, failure.reason))
    shown = ranked[:reasons]
    return {"failures": shown, "left_out": sum(failure.count for failure in ranked[len(shown) :])}


def stages(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """With rates, where the stage says how much it did."""
    rows = []
    for stage in stages:
        seconds = float(stage.get("seconds") or 0.0)
        rates = {name: (stage.get(name) or 0) / seconds if seconds > 0 else math.nan for name in ("items", "bytes")}
        unit = stage.get("unit") or "items"
        rows.append({"items": None, "bytes": None, **stage, "seconds": seconds, "unit": unit, "rates": rates})
    return rows
