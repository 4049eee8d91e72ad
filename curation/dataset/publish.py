"""The videos and clips tables: joined snapshots of the committed parts, replaced by each command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.dataset.records import CUT_COLUMNS, clip_schema, cuts, scans, scores, token, tombstones
from curation.dataset.vlm_labels import MARK, digest, latest
from curation.schema import VIDEOS, arrow_schema
from curation.scorers import AnyScorer
from curation.scorers.labels import LABELS
from orchestration.storage import Storage
from orchestration.tables import Publication

ORPHANED = "the scan of the file with the same bytes is gone; run again"


@dataclass
class Roster:
    """Which scan row speaks for which file and for which video. Small: a few strings a file."""

    live: dict[str, str] = field(default_factory=dict)  # uri → listing id of its newest version
    scanned: dict[str, str] = field(default_factory=dict)  # video id → listing id of the row that holds facts and clips
    uris: dict[str, list[str]] = field(default_factory=dict)  # video id → its files, the canonical one first
    orphans: set[str] = field(default_factory=set)  # listing ids of duplicates whose original is no longer there

    def canonical(self, video_id: str) -> str:
        """The uri that is called ok; all others with the same bytes are duplicates of it."""
        return self.uris[video_id][0]


def roster(storage: Storage) -> Roster:
    """Decide, independently of the order in which parts were written."""
    newest: dict[str, tuple[int, str, str | None, str]] = {}
    scanned: dict[str, str] = {}
    gone = tombstones(storage).keys()
    for table in scans(storage).read(["run", "listing_id", "video_id", "status", "uri"]):
        for run, listing_id, video_id, status, uri in _rows(table):
            if uri not in newest or (run, listing_id) > newest[uri][:2]:
                newest[uri] = (run, listing_id, video_id, status)
            if status == "ok" and video_id not in gone:
                scanned[video_id] = min(listing_id, scanned.get(video_id, listing_id))
    found = Roster()
    for uri, (_, listing_id, video_id, status) in sorted(newest.items()):
        found.live[uri] = listing_id
        if status == "failed" or video_id is None:
            continue
        if video_id in scanned:
            found.uris.setdefault(video_id, []).append(uri)
        else:
            found.orphans.add(listing_id)
    found.scanned = {video_id: scanned[video_id] for video_id in found.uris}
    return found


def publish(storage: Storage, scorers: Sequence[AnyScorer]) -> None:
    """Make `videos/` and `clips/` anew of the parts: scores as `scorers` are set now, labels and cuts as last made."""
    speaking, additions = roster(storage), _Additions(storage, scorers)
    schemas = {"videos": arrow_schema(VIDEOS), "clips": clip_schema().with_metadata({MARK: digest(storage)})}
    with Publication(storage, schemas) as tables:
        for table in scans(storage).read(["listing_id", *schemas["videos"].names, "clips"]):
            tables.add("videos", _videos(table, speaking))
            tables.add("clips", _clips(table, speaking, additions))


def _videos(table: pa.Table, speaking: Roster) -> pa.Table:
    """Rows of the videos table. What is known of the content comes from the row that holds the clips, for each file."""
    found: list[tuple[int, str, str, str | None, str | None]] = []
    for index, row in enumerate(_rows(table.select(["listing_id", "uri", "video_id", "status", "reason"]))):
        listing_id, uri, video_id, status, reason = row
        if video_id and speaking.scanned.get(video_id) == listing_id:
            first, *copies = speaking.uris[video_id]
            found.append((index, first, "ok", None, None))
            found += [(index, copy, "duplicate", None, first) for copy in copies]
        elif speaking.live.get(uri) == listing_id and (status == "failed" or listing_id in speaking.orphans):
            found.append((index, uri, "failed", reason if status == "failed" else ORPHANED, None))
    videos = table.select([column.name for column in VIDEOS]).take(pa.array([row[0] for row in found], pa.int64()))
    for place, name in enumerate(("uri", "status", "reason", "duplicate_of"), start=1):
        videos = _with(videos, name, [row[place] for row in found])
    return videos


def _clips(table: pa.Table, speaking: Roster, additions: _Additions) -> pa.Table:
    """Rows of the clips table, as Arrow all the way: thumbnails are most of their bytes."""
    identities = _rows(table.select(["video_id", "listing_id"]))
    spoken = [video_id is not None and speaking.scanned.get(video_id) == name for video_id, name in identities]
    rows = table.filter(pa.array(spoken, pa.bool_()))
    return additions.applied(pa.Table.from_struct_array(pc.list_flatten(rows.column("clips"))))


class _Additions:
    """Scores, labels and cuts that were made after the scan: values of columns by clip id."""

    def __init__(self, storage: Storage, scorers: Sequence[AnyScorer]):
        self._scores: list[tuple[str, list[str], dict[str, tuple[Any, ...]]]] = []
        for scorer in scorers:
            columns, values = [column.name for column in scorer.columns()], {}
            for table in scores(storage, scorer).read(["measured", "clips"]):
                for measured, clips in _rows(table):
                    if measured == token(scorer):
                        values |= {clip["clip_id"]: tuple(clip[name] for name in columns) for clip in clips or []}
            self._scores.append((token(scorer), columns, values))
        self._labels = latest(storage)
        self._cuts: dict[str, tuple[Any, ...]] = {}
        last: dict[str, tuple[int, str]] = {}
        for table in cuts(storage).read(["run", "key", "clips"]):
            for run, key, clips in _rows(table):
                for clip in clips or []:
                    name, *made = (clip[column] for column in CUT_COLUMNS)
                    if name not in last or (run or 0, key) > last[name]:
                        self._cuts[name], last[name] = tuple(made), (run or 0, key)

    def applied(self, clips: pa.Table) -> pa.Table:
        names = clips.column("clip_id").to_pylist()
        measured = dict(zip(names, clips.column("measured").to_pylist(), strict=True))
        for scorer, columns, values in self._scores:
            lacking = {name for name, scorers in measured.items() if scorer not in scorers}
            nothing = (None,) * len(columns)
            clips = _replaced(clips, names, columns, {name: values.get(name, nothing) for name in lacking})
            measured |= {name: [*measured[name], scorer] for name in lacking & values.keys()}
        labelled = {name: self._labels[name] for name in names if name in self._labels}
        for place, column in enumerate(LABELS):
            # Where the model is unsure, what the classifiers found stays.
            sure = {name: (values[place],) for name, (_, values) in labelled.items() if values[place] is not None}
            clips = _replaced(clips, names, [column], sure)
        measured |= {name: [*measured[name], asked] for name, (asked, _) in labelled.items()}
        clips = _replaced(clips, names, ["measured"], {name: (scorers,) for name, scorers in measured.items()})
        return _replaced(
            clips, names, CUT_COLUMNS[1:], {name: self._cuts[name] for name in names if name in self._cuts}
        )


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def _with(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


def _replaced(
    table: pa.Table, names: list[str], columns: Sequence[str], values: dict[str, tuple[Any, ...]]
) -> pa.Table:
    """The table with other values in `columns` of the rows that `values` names."""
    for place, column in enumerate(columns if values else ()):
        old = table.column(column).to_pylist()
        new = [values[name][place] if name in values else value for name, value in zip(names, old, strict=True)]
        table = _with(table, column, new)
    return table
