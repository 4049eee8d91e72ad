"""Reads a published dataset for its report: in batches of the columns asked for, and single rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from curation.rules.decide import DUPLICATE_OF
from orchestration.storage import Storage

BATCH = 65_536
UNDECIDED, DROPPED, KEPT = -1, 0, 1


class Place(NamedTuple):
    """Where a clip's row stands."""

    file: int
    row: int


class Part(NamedTuple):
    """Some rows of one file, in order."""

    file: int
    row: int  # of the first
    table: pa.RecordBatch

    def strings(self, name: str) -> pa.Array:
        return self.table.column(name).cast(pa.string())

    def numbers(self, name: str) -> np.ndarray:
        """[n] float64, NaN where there is no value."""
        return self.table.column(name).cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)

    def flags(self, name: str) -> np.ndarray:
        """[n] bool, false where there is no value, or no such column."""
        if name not in self.table.schema.names:
            return np.zeros(self.table.num_rows, bool)
        return self.table.column(name).cast(pa.bool_()).fill_null(False).to_numpy(zero_copy_only=False)


class Tables:
    """The Parquet files of one folder. A column that a file lacks is read as nulls."""

    def __init__(self, storage: Storage, folder: str):
        self._storage = storage
        self.names = storage.list(folder, ".parquet")
        self.schema = pa.schema([])
        self.groups: list[np.ndarray] = []  # [G + 1] first row of each row group, by file
        for name in self.names:
            with storage.open_read(name) as source:
                file = pq.ParquetFile(source)
                sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
                self.groups.append(np.cumsum([0, *sizes]))
                self.schema = pa.unify_schemas([self.schema, file.schema_arrow], promote_options="permissive")
        self.rows = int(sum(starts[-1] for starts in self.groups))

    def scan(self, columns: Iterable[str]) -> Iterator[Part]:
        wanted = [name for name in dict.fromkeys(columns) if name in self.schema.names]
        for index, name in enumerate(self.names):
            with self._storage.open_read(name) as source:
                file = pq.ParquetFile(source)
                row = 0
                for batch in file.iter_batches(BATCH, columns=[n for n in wanted if n in file.schema_arrow.names]):
                    yield Part(index, row, self._complete(batch, wanted))
                    row += batch.num_rows

    def fetch(self, places: Iterable[Place], lists: Iterable[str] = ()) -> dict[Place, dict[str, Any]]:
        """Whole rows; of columns of lists only those named. Row groups without a wanted row are not read."""
        lists = set(lists)
        by_file: dict[int, set[int]] = defaultdict(set)
        for place in places:
            by_file[place.file].add(place.row)
        found: dict[Place, dict[str, Any]] = {}
        for index, rows in sorted(by_file.items()):
            with self._storage.open_read(self.names[index]) as source:
                file = pq.ParquetFile(source)
                columns = [
                    field.name
                    for field in file.schema_arrow
                    if field.name in lists or not pa.types.is_nested(field.type)
                ]
                starts = self.groups[index]
                groups = np.searchsorted(starts, sorted(rows), side="right") - 1
                for group in dict.fromkeys(groups.tolist()):
                    row = int(starts[group])
                    # Small batches: a row group may hold thumbnails of very many clips.
                    for batch in file.iter_batches(1024, row_groups=[group], columns=columns):
                        inside = [r for r in range(row, row + batch.num_rows) if r in rows]
                        if inside:
                            taken = batch.take(pa.array([r - row for r in inside])).to_pylist()
                            found |= {Place(index, r): values for r, values in zip(inside, taken, strict=True)}
                        row += batch.num_rows
        return found

    def tiers(self, size: int = 32) -> list[np.ndarray]:
        """For each file, each row group's turn in sampling: 0 for the first `size` ones in an order mixed up by a hash.

        Samples that come from few row groups cost few reads of thumbnails; below `size` row groups all have turn 0.
        """
        keys = [
            (xxhash.xxh64_intdigest(f"{name}:{group}".encode()), index, group)
            for index, name in enumerate(self.names)
            for group in range(len(self.groups[index]) - 1)
        ]
        turns = [np.zeros(len(starts) - 1, np.uint64) for starts in self.groups]
        for order, (_, index, group) in enumerate(sorted(keys)):
            turns[index][group] = order // size
        return turns

    def _complete(self, batch: pa.RecordBatch, wanted: Sequence[str]) -> pa.RecordBatch:
        fields = [self.schema.field(name) for name in wanted]
        present = set(batch.schema.names)
        arrays = [
            batch.column(field.name).cast(field.type) if field.name in present else pa.nulls(batch.num_rows, field.type)
            for field in fields
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def hashes(ids: pa.Array) -> np.ndarray:
    """[n] uint64 of n strings: joins and samples need no more of a clip_id, and 8 bytes a clip stay in memory."""
    texts = ids.fill_null("").cast(pa.binary()).to_pylist()
    return np.fromiter(map(xxhash.xxh64_intdigest, texts), np.uint64, len(ids))


@dataclass(frozen=True)
class Decisions:
    """selection.parquet in 13 bytes a clip."""

    keys: np.ndarray  # [n] uint64, ascending
    states: np.ndarray  # [n] int8
    codes: np.ndarray  # [n] int32 into `reasons`
    reasons: tuple[str, ...]  # the first is "", of kept clips

    def of(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """States and reason codes of the clips with these hashes; a clip without a decision is UNDECIDED."""
        if not len(self.keys):
            return np.full(len(keys), UNDECIDED, np.int8), np.zeros(len(keys), np.int32)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        known = self.keys[at] == keys
        return np.where(known, self.states[at], UNDECIDED), np.where(known, self.codes[at], 0)

    def of_one(self, clip_id: str) -> tuple[int, str]:
        """State and reason of a clip."""
        states, codes = self.of(hashes(pa.array([clip_id])))
        return int(states[0]), self.reasons[codes[0]]


SELECTION = "selection.parquet"
_NONE = Decisions(np.zeros(0, np.uint64), np.zeros(0, np.int8), np.zeros(0, np.int32), ("",))


def read_decisions(storage: Storage) -> Decisions:
    numbers: dict[str, int] = {"": 0}
    keys, states, codes = [], [], []
    for batch in read_selection(storage, ["clip_id", "kept", "drop_reason"]):
        kept = batch.column("kept").fill_null(False).to_numpy(zero_copy_only=False)
        encoded = batch.column("drop_reason").cast(pa.string()).fill_null("").dictionary_encode()
        local = [numbers.setdefault(text, len(numbers)) for text in encoded.dictionary.to_pylist()]
        keys.append(hashes(batch.column("clip_id").cast(pa.string())))
        states.append(np.where(kept, KEPT, DROPPED).astype(np.int8))
        codes.append(np.array(local or [0], np.int32)[encoded.indices.to_numpy(zero_copy_only=False)])
    if not keys:
        return _NONE
    joined = np.concatenate(keys)
    order = np.argsort(joined)
    return Decisions(joined[order], np.concatenate(states)[order], np.concatenate(codes)[order], tuple(numbers))


class Details(NamedTuple):
    """What selection.parquet says of a clip besides its state."""

    reasons: list[str]  # every one that applies, not only the first
    duplicate_of: str | None  # the kept clip that it is a near-duplicate of


def read_details(storage: Storage, clip_ids: Sequence[str]) -> dict[str, Details]:
    if not clip_ids:
        return {}
    wanted = pa.array(clip_ids, pa.string())
    found: dict[str, Details] = {}
    for batch in read_selection(storage, ["clip_id", "drop_reasons", DUPLICATE_OF]):
        rows = batch.filter(pc.is_in(batch.column("clip_id").cast(pa.string()), value_set=wanted))
        for row in rows.to_pylist():
            reasons = row.get("drop_reasons") or []
            reasons = [reasons] if isinstance(reasons, str) else [str(text) for text in reasons]
            found[row["clip_id"]] = Details(reasons, row.get(DUPLICATE_OF))
    return found


def read_selection(storage: Storage, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches with those of the columns that there are; none where nothing was selected yet."""
    if not storage.exists(SELECTION):
        return
    with storage.open_read(SELECTION) as source:
        file = pq.ParquetFile(source)
        present = [name for name in columns if name in file.schema_arrow.names]
        yield from file.iter_batches(BATCH, columns=present)
