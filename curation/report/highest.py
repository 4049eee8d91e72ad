"""Sheets of the clips with the highest values of a score: what a detector found, to be judged by eye."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from curation.report.data import Place
from curation.report.survey import ClipSurvey
from curation.report.tiles import Gallery
from curation.video import Column

LABEL = "label_"
NEARLY = 0.8
LIKELY = 0.5  # of what lies between 0 and 1


@dataclass(frozen=True)
class Sheet:
    """Clips by one column, the highest value first; values of 0 are not shown."""

    column: str
    title: str
    beside: tuple[str, ...] = ()  # columns that tiles show beside it
    mark: float | None = None  # values from here on are marked


PEOPLE = (
    Sheet("talking_head", "Talking heads", ("faces", "face_area"), LIKELY),
    Sheet("faces", "Most faces", ("face_area", "persons", "talking_head")),
    Sheet("persons", "Most persons", ("faces", "face_area")),
)
TEXT = (
    Sheet("text_area", "Most text", ("overlay_text", "subtitle_text", "watermark_text")),
    Sheet("overlay_text", "Most overlay text", ("text_area", "subtitle_text", "watermark_text")),
)


def labels(columns: Iterable[Column]) -> tuple[Sheet, ...]:
    names = [column.name for column in columns if column.name.startswith(LABEL)]
    return tuple(Sheet(name, name.removeprefix(LABEL).replace("_", " ").capitalize(), (), LIKELY) for name in names)


def ranked(columns: Sequence[Column]) -> dict[str, float | None]:
    """Columns that sheets need the highest clips of, and from which value on they are counted."""
    names = {column.name for column in columns}
    return {sheet.column: sheet.mark for sheet in (*PEOPLE, *TEXT, *labels(columns)) if sheet.column in names}


def chosen(survey: ClipSurvey, column: str, size: int) -> list[Place]:
    """The highest clips; of those that are nearly as high as the last one, such as are of different videos."""
    group = survey.highest.get(column)
    items = group.items if group else []
    least = NEARLY * -items[:size][-1][0] if items else 0.0  # priorities are negated values
    return spread([(clip_id, place) for priority, _, clip_id, place in items if -priority >= least], size)


def spread(items: Sequence[tuple[str, Place]], size: int) -> list[Place]:
    """`size` of the (clip_id, place) in their order; those of a video that has one already only to fill up."""
    seen: set[str] = set()
    ranked = []
    for order, (clip_id, place) in enumerate(items):
        ranked.append((clip_id[:16] in seen, order, place))  # a clip_id begins with its video's
        seen.add(clip_id[:16])
    return [place for *_, place in sorted(sorted(ranked)[:size], key=lambda item: item[1])]


def sheets(survey: ClipSurvey, gallery: Gallery, wanted: Sequence[Sheet], size: int) -> list[dict[str, Any]]:
    """For the templates; columns that no clip has a value in are left out."""
    found = []
    for sheet in wanted:
        shape, mark = survey.histograms.get(sheet.column), sheet.mark
        if shape is None or not shape.measured:
            continue
        places = chosen(survey, sheet.column, size)
        marked = [place for place in places if mark is not None and gallery.rows[place][sheet.column] >= mark]
        found.append(
            {
                "sheet": sheet,
                "doc": shape.column.doc,
                "measured": shape.measured,
                "marked": survey.marked[sheet.column],
                "tiles": gallery.sheet(
                    places, (sheet.column, *sheet.beside), badges=dict.fromkeys(marked, f"≥ {mark or 0:g}")
                ),
            }
        )
    return found
