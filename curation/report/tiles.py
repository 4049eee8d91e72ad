"""Single clips in the report: the tile that stands in a sheet, and the record that its dialog shows."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from curation.report.boxes import KINDS, box_columns, counted, outlines
from curation.report.data import DROPPED, KEPT, Decisions, Details, Place, Tables, read_details
from curation.report.previews import small_jpeg
from curation.report.survey import ClipSurvey
from curation.report.videos import fetch_videos
from curation.rules.decide import IMAGE
from curation.video import Column
from orchestration.report import data_uri, formats
from orchestration.storage import Storage

CHIPS = 4  # scores on a tile
STATES = {KEPT: "kept", DROPPED: "dropped"}


@dataclass
class Gallery:
    """The clips that are shown one by one, with their videos' rows."""

    dataset: str  # as a person would name it to `rushes explain`
    columns: Sequence[Column]
    survey: ClipSurvey
    rows: dict[Place, dict[str, Any]] = field(default_factory=dict)
    no_preview: Mapping[str, str] = field(default_factory=dict)  # clip_id -> reason
    similarity: Mapping[str, float] = field(default_factory=dict)  # of near-duplicates to what they were dropped for

    @property
    def kinds(self) -> dict[str, str]:
        """Kinds of boxes that some clip has -> what they are called, for legends."""
        drawn = {kind for row in self.rows.values() if row["outlines"] for kind in row["outlines"].counts}
        return {kind: name for kind, name in KINDS.items() if kind in drawn}

    @property
    def command(self) -> str:
        """What explains a clip, but for the clip's id."""
        return f"rushes explain {shlex.quote(self.dataset)}"

    def sheet(
        self,
        places: Iterable[Place],
        first: Sequence[str] = (),
        *,
        badges: Mapping[Place, str] | None = None,
        why: bool = False,
    ) -> list[dict[str, Any]]:
        """Tiles in this order. The scores `first` come first; with `why` they say why there is no preview."""
        badges = badges or {}
        return [self._tile(self.rows[p], first, badges.get(p, ""), why) for p in places if p in self.rows]

    def _tile(self, row: dict[str, Any], first: Sequence[str], badge: str, why: bool) -> dict[str, Any]:
        names = [name for name in first if row.get(name) is not None]
        decided = [name for name, shape in self.survey.histograms.items() if shape.bounds]
        names += [name for name in decided if name not in names]
        names += [
            column.name for column in self.columns if column.name not in names and row.get(column.name) is not None
        ]
        names = [name for name in names if name not in self._lists]
        chips = [
            {"name": name, "value": value_text(row.get(name)), "state": self._state(row, name)}
            for name in names[:CHIPS]
        ]
        verdict = _verdict(row)
        span = f"{formats.clock(row.get('start_s'))} – {formats.clock(row.get('end_s'))}"
        span = "picture" if row.get(IMAGE) else span
        reason = self.no_preview.get(row["clip_id"]) if why else None
        return {
            "key": row["clip_id"],
            "state": row["state"],
            "verdict": formats.short(verdict, 120),
            "span": span,
            "image": row["jpeg"],
            "boxes": row["outlines"],
            "badge": badge,
            "chips": chips,
            "label": formats.short(f"Clip {row['clip_id']}, {span}, {verdict}. Details", 400),
            "find": formats.short(f"{row['clip_id']} {verdict} {row['uri']}", 600),
            "note": f"No preview: {formats.short(reason, 160)}" if reason else "",
        }

    def _state(self, row: Mapping[str, Any], name: str) -> str:
        """Whether the rules on this column fail the clip."""
        value = row.get(name)
        shape = self.survey.histograms.get(name)
        if row.get(IMAGE) and shape and shape.column.temporal:
            return ""  # the rules do not apply
        if isinstance(value, int | float) and shape and not isinstance(value, bool):
            if any(not bound.passes(value) for bound in shape.bounds):  # type: ignore[arg-type]
                return "fail"
            return "pass" if shape.bounds else ""
        return "fail" if any(reason.startswith(f"{name} ") for reason in row["reasons"]) else ""

    def records(self) -> dict[str, Any]:
        """What report.js shows in the dialog, by clip_id."""
        return {row["clip_id"]: self._record(row) for row in self.rows.values()}

    def _record(self, row: dict[str, Any]) -> dict[str, Any]:
        facts = [*_what(row), ("Source", row["uri"])]
        if row.get("width") and row.get("height"):
            rate = [] if row.get(IMAGE) else [f"{formats.number(row.get('fps'))} frames/s"]
            source = [row.get("codec") or "unknown codec", f"{row['width']}×{row['height']}", *rate]
            facts.append(("Picture" if row.get(IMAGE) else "Video", ", ".join(source)))
        facts.append(("Cut", " – ".join(filter(None, [row.get("cut") or "none", row.get("cut_reason")]))))
        facts += [("Also", reason) for reason in row["reasons"] if reason != row["reason"]]
        if row["duplicate_of"]:
            similarity = self.similarity.get(row["clip_id"])
            alike = f" (similarity {similarity:.2f})" if similarity is not None else ""
            facts.append(("Kept instead", f"{row['duplicate_of']}{alike}"))
        if row["outlines"]:
            facts.append(("Boxes", row["outlines"].text))
        record = {
            "state": row["state"],
            "verdict": formats.short(_verdict(row)),
            "facts": [(name, formats.short(value)) for name, value in facts],
            "values": [self._value(row, column) for column in self.columns],
            "command": f"{self.command} {shlex.quote(row['clip_id'])}",
        }
        reason = self.no_preview.get(row["clip_id"])
        return record | ({"no_preview": formats.short(reason)} if reason else {})

    def fields(self) -> list[dict[str, str]]:
        """What the values of a record are, in their order."""
        fields = []
        for column in self.columns:
            shape = self.survey.histograms.get(column.name)
            rule = ", ".join(bound.label for bound in shape.bounds) if shape else ""
            fields.append({"name": column.name, "unit": column.unit, "doc": column.doc, "rule": rule})
        return fields

    def _value(self, row: Mapping[str, Any], column: Column) -> list[Any]:
        """Text, whether the rules fail it, and percent of the clips that lie below; short: there are very many."""
        value, shape = row.get(column.name), self.survey.histograms.get(column.name)
        state, place = self._state(row, column.name), None
        if value is None:
            return [None, state] if state else []
        if isinstance(value, int | float) and shape and shape.measured and math.isfinite(value):
            place = shape.place(value)
        text = counted(value) if isinstance(value, list) else value_text(value)
        return [text, state, place]

    @cached_property
    def _lists(self) -> frozenset[str]:
        return frozenset(box_columns(self.columns))


def value_text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return formats.number(value) if isinstance(value, int | float) else formats.short(value, 60)


def _what(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    if row.get(IMAGE):
        return []
    start, end = formats.clock(row.get("start_s")), formats.clock(row.get("end_s"))
    return [
        ("Span", f"{start} – {end} ({formats.duration(row.get('duration_s') or 0)})"),
        ("Frames", f"{row.get('start_frame')} to {row.get('end_frame')}"),
    ]


def _verdict(row: Mapping[str, Any]) -> str:
    if row["state"] != "dropped":
        return "kept" if row["state"] == "kept" else "not selected yet"
    return row["reason"] or "dropped"


def gather(
    storage: Storage,
    clips: Tables,
    videos: Tables,
    survey: ClipSurvey,
    columns: Sequence[Column],
    decisions: Decisions,
    places: Iterable[Place],
) -> Gallery:
    """Read the rows of `places` and join them with their videos and decisions."""
    lists = box_columns(columns)
    found = clips.fetch(places, lists)
    sources = fetch_videos(videos, (row.get("video_id") or "" for row in found.values()))
    details = read_details(storage, [row.get("clip_id") or "" for row in found.values()])
    gallery = Gallery(storage.uri, columns, survey)
    for place, clip in found.items():
        clip_id = str(clip.get("clip_id") or "")
        state, reason = decisions.of_one(clip_id)
        jpeg = small_jpeg(clip.pop("thumbnail", None))
        reasons, duplicate_of = details.get(clip_id, Details([], None))
        row = {**sources.get(clip.get("video_id") or "", {}), **clip, "clip_id": clip_id}
        row["uri"] = row.get("uri") or ""
        row |= {
            "state": STATES.get(state, "undecided"),
            "reason": reason,
            "reasons": reasons or ([reason] if reason else []),
            "duplicate_of": duplicate_of,
            "jpeg": data_uri("image/jpeg", jpeg) if jpeg else None,
            "outlines": outlines(clip, lists, jpeg),
        }
        gallery.rows[place] = row
    return gallery
