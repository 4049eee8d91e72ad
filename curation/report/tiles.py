"""Single clips in the report: the tile that stands in a sheet, and the record that its dialog shows."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curation.report.data import DROPPED, KEPT, Decisions, Place, Tables, all_reasons
from curation.report.histograms import Bound
from curation.report.previews import small_jpeg
from curation.report.survey import ClipSurvey
from curation.report.videos import fetch_videos
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

    @property
    def command(self) -> str:
        """What explains a clip, but for the clip's id."""
        return f"rushes explain {shlex.quote(self.dataset)}"

    def sheet(self, places: Iterable[Place], bound: Bound | None = None) -> list[dict[str, Any]]:
        """Tiles in this order; with `bound`, that score comes first."""
        return [self._tile(self.rows[place], bound) for place in places if place in self.rows]

    def _tile(self, row: dict[str, Any], bound: Bound | None) -> dict[str, Any]:
        names = [bound.column] if bound else []
        decided = [name for name, shape in self.survey.histograms.items() if shape.bounds]
        names += [name for name in decided if name not in names]
        names += [
            column.name for column in self.columns if column.name not in names and row.get(column.name) is not None
        ]
        chips = [
            {"name": name, "value": value_text(row.get(name)), "state": self._state(row, name)}
            for name in names[:CHIPS]
        ]
        verdict = _verdict(row)
        span = f"{formats.clock(row.get('start_s'))} – {formats.clock(row.get('end_s'))}"
        reason = self.no_preview.get(row["clip_id"]) if bound else None
        return {
            "key": row["clip_id"],
            "state": row["state"],
            "verdict": formats.short(verdict, 120),
            "span": span,
            "image": row["image"],
            "chips": chips,
            "label": formats.short(f"Clip {row['clip_id']}, {span}, {verdict}. Details", 400),
            "find": formats.short(f"{row['clip_id']} {verdict} {row['uri']}", 600),
            "note": f"No preview: {formats.short(reason, 160)}" if reason else "",
        }

    def _state(self, row: Mapping[str, Any], name: str) -> str:
        """Whether the rules on this column fail the clip."""
        value = row.get(name)
        shape = self.survey.histograms.get(name)
        if isinstance(value, int | float) and shape and not isinstance(value, bool):
            if any(not bound.passes(value) for bound in shape.bounds):  # type: ignore[arg-type]
                return "fail"
            return "pass" if shape.bounds else ""
        return "fail" if any(reason.startswith(f"{name} ") for reason in row["reasons"]) else ""

    def records(self) -> dict[str, Any]:
        """What report.js shows in the dialog, by clip_id."""
        return {row["clip_id"]: self._record(row) for row in self.rows.values()}

    def _record(self, row: dict[str, Any]) -> dict[str, Any]:
        start, end = formats.clock(row.get("start_s")), formats.clock(row.get("end_s"))
        facts = [
            ("Span", f"{start} – {end} ({formats.duration(row.get('duration_s') or 0)})"),
            ("Frames", f"{row.get('start_frame')} to {row.get('end_frame')}"),
            ("Source", formats.short(row["uri"])),
        ]
        if row.get("width") and row.get("height"):
            size = f"{row['width']}×{row['height']}"
            facts.append(
                ("Video", f"{row.get('codec') or 'unknown codec'}, {size}, {formats.number(row.get('fps'))} frames/s")
            )
        facts.append(("Cut", " – ".join(filter(None, [row.get("cut") or "none", row.get("cut_reason")]))))
        facts += [("Also", formats.short(reason)) for reason in row["reasons"] if reason != row["reason"]]
        record = {
            "state": row["state"],
            "verdict": formats.short(_verdict(row)),
            "facts": [(name, formats.short(value)) for name, value in facts],
            "values": [self._value(row, column) for column in self.columns],
            "command": f"{self.command} {shlex.quote(row['clip_id'])}",
        }
        reason = self.no_preview.get(row["clip_id"])
        return record | ({"no_preview": formats.short(reason)} if reason else {})

    def _value(self, row: Mapping[str, Any], column: Column) -> dict[str, Any]:
        value, shape = row.get(column.name), self.survey.histograms.get(column.name)
        place = None
        if isinstance(value, int | float) and shape and shape.measured and math.isfinite(value):
            place = shape.place(value)
        return {
            "name": column.name,
            "value": value_text(value),
            "unit": column.unit if value is not None else "",
            "doc": column.doc,
            "rule": ", ".join(bound.label for bound in shape.bounds) if shape else "",
            "state": self._state(row, column.name),
            "place": place,
        }


def value_text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return formats.number(value) if isinstance(value, int | float) else formats.short(value, 60)


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
    found = clips.fetch(places)
    sources = fetch_videos(videos, (row.get("video_id") or "" for row in found.values()))
    reasons = all_reasons(storage, [row.get("clip_id") or "" for row in found.values()])
    gallery = Gallery(storage.uri, columns, survey)
    for place, clip in found.items():
        clip_id = str(clip.get("clip_id") or "")
        state, reason = decisions.of_one(clip_id)
        jpeg = small_jpeg(clip.pop("thumbnail", None))
        row = {**sources.get(clip.get("video_id") or "", {}), **clip, "clip_id": clip_id}
        row["uri"] = row.get("uri") or ""
        row |= {
            "state": STATES.get(state, "undecided"),
            "reason": reason,
            "reasons": reasons.get(clip_id) or ([reason] if reason else []),
            "image": data_uri("image/jpeg", jpeg) if jpeg else None,
        }
        gallery.rows[place] = row
    return gallery
