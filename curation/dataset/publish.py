"""The videos and clips tables: joined snapshots of the committed parts, replaced by each command.

The next snapshot is written below `publishing/` where no reader looks. A file that lists its parts is the switch: from
then on the new files move to their places and the old ones go. A kill before the switch leaves the old tables, one
after it is made good by the next command that writes; in between, readers refuse.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.dataset.records import CUT_COLUMNS, clip_schema, cuts, scans, scores, token, tombstones
from curation.schema import VIDEOS, arrow_schema
from curation.scorers import AnyScorer
from orchestration.errors import RushesError
from orchestration.storage import Storage

ROWS_PER_FILE = 250_000
GROUP_BYTES = 8 * 2**20  # small row groups: the report fetches single thumbnails
STAGE = "publishing"
READY = f"{STAGE}/ready.json"
TABLES = ("videos", "clips")
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
    """Make `videos/` and `clips/` anew from the parts: scores as `scorers` are set now, cuts as last made."""
    settle(storage)
    speaking, additions = roster(storage), _Additions(storage, scorers)
    videos = _Snapshot(storage, "videos", arrow_schema(VIDEOS))
    clips = _Snapshot(storage, "clips", clip_schema())
    with videos, clips:
        for table in scans(storage).read(["listing_id", *videos.schema.names, "clips"]):
            videos.add(_videos(table, speaking))
            clips.add(_clips(table, speaking, additions))
    storage.write_bytes(READY, json.dumps([*videos.names, *clips.names]).encode())
    settle(storage)


def settle(storage: Storage) -> None:
    """Finish the publication that a kill interrupted, or drop it if it was not whole (under the writer lock)."""
    if storage.exists(READY):
        names = json.loads(storage.read_bytes(READY))
        for staged in storage.list(STAGE, ".parquet"):
            storage.move(staged, staged.removeprefix(f"{STAGE}/"))
        for folder in TABLES:
            for name in storage.list(folder, ".parquet"):
                if name not in names:
                    storage.remove(name)
        storage.remove(READY)
    storage.remove_folder(STAGE)


def published(storage: Storage, folder: str) -> list[str]:
    """Names of the files of a published table. Raises RushesError while old and new ones may lie side by side."""
    if storage.exists(READY):
        raise RushesError(
            f"{storage.uri}: its tables are being replaced right now, or were when a run was killed. "
            "Try again; if no run is at work, `rushes report` or `rushes curate` puts them in order"
        )
    return storage.list(folder, ".parquet")


def snapshot(storage: Storage, folder: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Row groups of a published table. Raises RushesError with the name of a file that cannot be read."""
    for name in published(storage, folder):
        try:
            with storage.open_read(name) as file, pq.ParquetFile(file) as parquet:
                for group in range(parquet.num_row_groups):
                    yield parquet.read_row_group(group, columns)
        except (pa.ArrowException, OSError) as error:
            raise RushesError(
                f"{storage.path(name)} cannot be read: {error}. `rushes curate` publishes it anew"
            ) from error


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
    """Scores and cuts that were made after the scan: values of columns by clip id."""

    def __init__(self, storage: Storage, scorers: Sequence[AnyScorer]):
        self._scores: list[tuple[str, list[str], dict[str, tuple[Any, ...]]]] = []
        for scorer in scorers:
            columns, values = [column.name for column in scorer.columns()], {}
            for table in scores(storage, scorer).read(["measured", "clips"]):
                for measured, clips in _rows(table):
                    if measured == token(scorer):
                        values |= {clip["clip_id"]: tuple(clip[name] for name in columns) for clip in clips or []}
            self._scores.append((token(scorer), columns, values))
        self._cuts: dict[str, tuple[Any, ...]] = {}
        latest: dict[str, tuple[int, str]] = {}
        for table in cuts(storage).read(["run", "key", "clips"]):
            for run, key, clips in _rows(table):
                for clip in clips or []:
                    name, *made = (clip[column] for column in CUT_COLUMNS)
                    if name not in latest or (run or 0, key) > latest[name]:
                        self._cuts[name], latest[name] = tuple(made), (run or 0, key)

    def applied(self, clips: pa.Table) -> pa.Table:
        names = clips.column("clip_id").to_pylist()
        measured = dict(zip(names, clips.column("measured").to_pylist(), strict=True))
        for scorer, columns, values in self._scores:
            lacking = {name for name, scorers in measured.items() if scorer not in scorers}
            nothing = (None,) * len(columns)
            clips = _replaced(clips, names, columns, {name: values.get(name, nothing) for name in lacking})
            measured |= {name: [*measured[name], scorer] for name in lacking & values.keys()}
        clips = _replaced(clips, names, ["measured"], {name: (scorers,) for name, scorers in measured.items()})
        return _replaced(
            clips, names, CUT_COLUMNS[1:], {name: self._cuts[name] for name in names if name in self._cuts}
        )


class _Snapshot:
    """Numbered Parquet files of one table, written below STAGE; `names` are those that they will have."""

    def __init__(self, storage: Storage, folder: str, schema: pa.Schema):
        self.schema = schema
        self.names: list[str] = []
        self._storage, self._folder = storage, folder
        self._pending: list[pa.Table] = []
        self._bytes = self._in_file = 0
        self._stack = contextlib.ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _Snapshot:
        return self

    def add(self, table: pa.Table) -> None:
        self._pending.append(table.select(self.schema.names).cast(self.schema))
        self._bytes += table.nbytes
        if self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            self.names.append(f"{self._folder}/{len(self.names):05d}.parquet")
            file = self._stack.enter_context(self._storage.open_write(f"{STAGE}/{self.names[-1]}"))
            self._writer = self._stack.enter_context(pq.ParquetWriter(file, self.schema, compression="zstd"))
        table = pa.concat_tables([self.schema.empty_table(), *self._pending])
        self._writer.write_table(table, row_group_size=max(1, table.num_rows * GROUP_BYTES // max(self._bytes, 1)))
        self._in_file += table.num_rows
        self._pending, self._bytes = [], 0
        if self._in_file >= ROWS_PER_FILE:
            self._finish_file()

    def _finish_file(self) -> None:
        self._stack.close()
        self._writer, self._in_file = None, 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        if self._pending or not self.names:
            self._flush()
        self._finish_file()


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
