"""One streamed pass over the videos table for the report: counts, failures by reason, what the sources are like."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curation.media.still import PICTURES
from curation.report.data import Tables
from orchestration.report import formats

COLUMNS = (
    "video_id",
    "uri",
    "status",
    "reason",
    "duplicate_of",
    "bytes",
    "container",
    "codec",
    "width",
    "height",
    "rotation",
    "fps",
    "frames_decoded",
    "decode_errors",
    "duration_s",
)
DISTINCT = 10_000  # reasons that are told apart
HEIGHTS = ((2160, "2160p and more"), (1440, "1440p"), (1080, "1080p"), (720, "720p"), (480, "480p"), (0, "below 480p"))


@dataclass
class Failure:
    """Videos that failed for one reason."""

    reason: str
    count: int = 0
    uris: list[str] = field(default_factory=list)


@dataclass
class VideoSurvey:
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0  # of the videos that are ok
    bytes: int = 0
    damaged: int = 0  # videos that are ok, with decoder errors
    failures: dict[str, Failure] = field(default_factory=dict)
    pictures: int = 0  # files that are ok and still pictures
    duplicates: list[tuple[str, str]] = field(default_factory=list)  # (uri, uri of the one that is kept)
    kinds: dict[str, Counter[str]] = field(default_factory=lambda: {n: Counter() for n in ("codec", "size", "rate")})
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)  # video_id -> row, for the timelines

    @property
    def total(self) -> int:
        return sum(self.statuses.values())


def survey_videos(tables: Tables, *, timelines: int, uris_a_reason: int, duplicates: int) -> VideoSurvey:
    """`timelines`: how many videos to choose, at random but always the same ones."""
    survey = VideoSurvey()
    drawn: list[tuple[int, str, dict[str, Any]]] = []  # a heap with the largest hash on top
    for part in tables.scan(COLUMNS):
        for row in _rows(part.table):
            status = str(row["status"] or "failed")
            survey.statuses[status] += 1
            survey.bytes += row["bytes"] or 0
            if status == "ok":
                _describe(survey, row)
                if row["container"] in PICTURES:  # nothing to cut, no timeline
                    continue
                priority = -xxhash.xxh64_intdigest((row["video_id"] or "").encode())
                if len(drawn) < timelines:
                    heapq.heappush(drawn, (priority, row["uri"] or "", row))
                elif drawn and priority > drawn[0][0]:
                    heapq.heapreplace(drawn, (priority, row["uri"] or "", row))
            elif status == "duplicate":
                if len(survey.duplicates) < duplicates:
                    survey.duplicates.append((row["uri"] or "", row["duplicate_of"] or ""))
            else:
                _blame(survey, row, uris_a_reason)
    chosen = [row for *_, row in drawn]
    chosen.sort(key=lambda row: (-(row["duration_s"] or 0), row["uri"] or ""))
    survey.chosen = {row["video_id"]: row for row in chosen if row["video_id"]}
    return survey


def _rows(table: pa.RecordBatch) -> Iterable[dict[str, Any]]:
    for row in table.to_pylist():
        yield {name: row.get(name) for name in COLUMNS}


def _describe(survey: VideoSurvey, row: dict[str, Any]) -> None:
    survey.seconds += row["duration_s"] or 0.0
    survey.damaged += bool(row["decode_errors"])
    survey.pictures += row["container"] in PICTURES
    survey.kinds["codec"][row["codec"] or "unknown"] += 1
    short_side = min(row["width"] or 0, row["height"] or 0)
    survey.kinds["size"][next(name for least, name in HEIGHTS if short_side >= least)] += 1
    unknown = "still picture" if row["container"] in PICTURES else "unknown"
    survey.kinds["rate"][f"{formats.number(round(row['fps'], 2))} frames/s" if row["fps"] else unknown] += 1


def _blame(survey: VideoSurvey, row: dict[str, Any], uris_a_reason: int) -> None:
    reason = row["reason"] or "no reason recorded"
    if reason not in survey.failures and len(survey.failures) >= DISTINCT:
        reason = "other reasons"
    failure = survey.failures.setdefault(reason, Failure(reason))
    failure.count += 1
    if len(failure.uris) < uris_a_reason:
        failure.uris.append(row["uri"] or "")


def fetch_videos(tables: Tables, video_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Rows of these videos that are ok, by video_id."""
    wanted = pa.array(sorted(set(video_ids)), pa.string())
    found: dict[str, dict[str, Any]] = {}
    for part in tables.scan(tables.schema.names):
        ids, status = part.strings("video_id"), part.strings("status")
        chosen = pc.and_(pc.is_in(ids, value_set=wanted), pc.equal(status, "ok"))
        for row in part.table.filter(chosen.fill_null(False)).to_pylist():
            found.setdefault(row["video_id"], row)
    return found
