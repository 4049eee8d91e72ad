"""The videos and clips tables: joined snapshots of the committed parts, replaced by each command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.dataset.records import clip_schema, cuts, scans, scores, token, tombstones
from curation.schema import VIDEOS, arrow_schema
from curation.scorers import AnyScorer
from orchestration.storage import Storage

ROWS_PER_FILE = 250_000
GROUP_BYTES = 8 * 2**20  # small row groups: the report fetches single thumbnails
HEAD = ("listing_id", "run", "uri", "video_id", "status", "shots")


@dataclass
class Roster:
    """Which scan row speaks for which file and for which video. Small: a few strings a file."""

    live: dict[str, str] = field(default_factory=dict)  # uri → listing id of its newest version
    source: dict[str, str] = field(default_factory=dict)  # video id → listing id of the scan row that has its clips
    first: dict[str, str] = field(default_factory=dict)  # video id → uri that is called ok; the others are duplicates
    orphans: set[str] = field(default_factory=set)  # listing ids of duplicates whose original is no longer there


def roster(storage: Storage) -> Roster:
    """Decide, independently of the order in which parts were written."""
    newest: dict[str, tuple[int, str, str | None, str]] = {}
    scanned: dict[str, list[str]] = {}
    gone = tombstones(storage).keys()
    for table in scans(storage).read(HEAD):
        for row in table.to_pylist():
            rank = (row["run"], row["listing_id"], row["video_id"], row["status"])
            if row["uri"] not in newest or rank > newest[row["uri"]]:
                newest[row["uri"]] = rank
            if row["status"] == "ok" and row["video_id"] not in gone:
                scanned.setdefault(row["video_id"], []).append(row["listing_id"])
    found = Roster(live={uri: rank[1] for uri, rank in newest.items()})
    for uri, (_, listing_id, video_id, status) in newest.items():
        if status == "failed":
            continue
        if video_id in scanned:
            found.first[video_id] = min(uri, found.first.get(video_id, uri))
        else:
            found.orphans.add(listing_id)
    found.source = {video_id: min(scanned[video_id]) for video_id in found.first}
    return found


def publish(storage: Storage, scorers: Sequence[AnyScorer]) -> None:
    """Write `videos/` and `clips/` anew from the parts: scores as `scorers` are set now, cuts as last made."""
    speaking = roster(storage)
    later = _Later(storage, scorers)
    clips = clip_schema()
    with (
        _Snapshot(storage, "videos", arrow_schema(VIDEOS)) as videos_out,
        _Snapshot(storage, "clips", clips) as clips_out,
    ):
        for table in scans(storage).read():
            for row in table.to_pylist():
                if speaking.live.get(row["uri"]) == row["listing_id"]:
                    videos_out.add(_video(row, speaking))
                if row["video_id"] and speaking.source.get(row["video_id"]) == row["listing_id"]:
                    for clip in row["clips"] or []:
                        clips_out.add(later.applied(clip, row["measured"] or []))


def _video(row: dict[str, Any], speaking: Roster) -> dict[str, Any]:
    video = {column.name: row[column.name] for column in VIDEOS}
    if row["status"] == "failed":
        return video
    first = speaking.first.get(row["video_id"])
    if first is None:
        return video | {"status": "failed", "reason": "the scan of the file with the same bytes is gone; run again"}
    if first == row["uri"]:
        return video | {"status": "ok", "duplicate_of": None}
    return video | {"status": "duplicate", "duplicate_of": first}


class _Later:
    """Scores and cuts that were made after the scan, by clip id."""

    def __init__(self, storage: Storage, scorers: Sequence[AnyScorer]):
        self._wanted = {scorer.kind: (token(scorer), [c.name for c in scorer.columns()]) for scorer in scorers}
        self._scores: dict[str, dict[str, dict[str, Any]]] = {}
        for scorer in scorers:
            rows: dict[str, dict[str, Any]] = {}
            for table in scores(storage, scorer).read(["measured", "clips"]):
                for row in table.to_pylist():
                    if row["measured"] == token(scorer):
                        rows |= {clip.pop("clip_id"): clip for clip in row["clips"] or []}
            self._scores[scorer.kind] = rows
        self._cuts: dict[str, dict[str, Any]] = {}
        made: dict[str, int] = {}
        for table in cuts(storage).read(["run", "clips"]):
            for row in table.to_pylist():
                for clip in row["clips"] or []:
                    name = clip.pop("clip_id")
                    if row["run"] >= made.get(name, 0):
                        self._cuts[name], made[name] = clip, row["run"]

    def applied(self, clip: dict[str, Any], measured: list[str]) -> dict[str, Any]:
        for kind, (name, columns) in self._wanted.items():
            if name not in measured:
                clip |= self._scores[kind].get(clip["clip_id"], dict.fromkeys(columns))
        return clip | self._cuts.get(clip["clip_id"], {})


class _Snapshot:
    """Numbered Parquet files of one table; those of a longer past snapshot are removed at the end."""

    def __init__(self, storage: Storage, folder: str, schema: pa.Schema):
        self._storage, self._folder, self._schema = storage, folder, schema
        self._rows: list[dict[str, Any]] = []
        self._bytes = self._in_file = 0
        self._names: list[str] = []
        self._stack = contextlib.ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _Snapshot:
        return self

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += 500 + len(row.get("thumbnail") or b"")
        if self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            name = f"{self._folder}/{len(self._names):05d}.parquet"
            file = self._stack.enter_context(self._storage.open_write(name))
            self._writer = self._stack.enter_context(pq.ParquetWriter(file, self._schema, compression="zstd"))
            self._names.append(name)
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._in_file += len(self._rows)
        self._rows, self._bytes = [], 0
        if self._in_file >= ROWS_PER_FILE:
            self._finish_file()

    def _finish_file(self) -> None:
        self._stack.close()
        self._writer, self._in_file = None, 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        if self._rows or not self._names:
            self._flush()
        self._finish_file()
        for name in set(self._storage.list(self._folder, ".parquet")) - set(self._names):
            self._storage.remove(name)


def snapshot(storage: Storage, folder: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Row groups of a published table."""
    for name in storage.list(folder, ".parquet"):
        with storage.open_read(name) as file, pq.ParquetFile(file) as parquet:
            for group in range(parquet.num_row_groups):
                yield parquet.read_row_group(group, columns)
