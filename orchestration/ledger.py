"""Append-only Parquet parts, one row a key: the truth that every table and every resume is made from.

A part is committed when it is visible under its name. A row is committed as a loose part, named by its key, so that the
same work done twice writes the same name. `pack` joins loose parts into packs. One rule makes this safe under a kill at
any point, and right when a key is committed again: **a loose part hides the rows of its key in every pack.** So `pack`
writes the new packs first, then takes the keys out of the older ones, and removes the loose parts last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.errors import RushesError
from orchestration.storage import Storage

PACK = "pack-"
GROUP_BYTES = 32 * 2**20  # in memory, of a row group of a pack


class DamagedPart(RushesError):
    """A committed part cannot be read; nothing may be silently missing from the tables made of it."""


class Part(NamedTuple):
    """A file of the ledger, and the keys whose rows in it no longer count."""

    name: str
    hidden: frozenset[str] = frozenset()


class Ledger:
    """The parts below one folder of a dataset. `key` is the column that names a row; rows have no order.

    Any number of processes may commit at once. `pack` and `rewrite_without` are for the holder of the writer lock while
    nobody commits; they remove files, so that another process which is reading may meet a DamagedPart.
    """

    def __init__(self, storage: Storage, folder: str, schema: pa.Schema, key: str):
        self.storage, self.folder, self.schema, self.key = storage, folder, schema, key

    def part(self, key: str) -> Part:
        """The loose part of a key, whether it is there or not."""
        return Part(f"{self.folder}/{key}.parquet")

    def has(self, key: str) -> bool:
        """Whether a loose part of this key is there now (packs are not looked into)."""
        return self.storage.exists(self.part(key).name)

    def commit(self, key: str, row: dict[str, Any]) -> None:
        """Write one row as a loose part, whole or not at all; it takes the place of any earlier row of this key."""
        self.storage.write_table(self.part(key).name, pa.Table.from_pylist([row], self.schema))

    def parts(self) -> list[Part]:
        """All parts; each key counts in exactly one of them."""
        loose, packs = self._files()
        hidden = frozenset(loose)
        return [*(Part(name) for name in loose.values()), *(Part(name, hidden) for name in packs)]

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows, a part's row group at a time. Raises DamagedPart with the name of a part that cannot be read."""
        for part in self.parts():
            yield from self.read_part(part, columns)

    def read_part(self, part: Part, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of one part that count, with the ledger's columns (or those asked for); what it lacks is null."""
        schema = self.schema if columns is None else pa.schema([self.schema.field(column) for column in columns])
        wanted = set(schema.names) | ({self.key} if part.hidden else set())
        for table in self._groups(part.name, wanted):
            yield _conform(_without(table, self.key, part.hidden), schema)

    def keys(self) -> set[str]:
        return {key for table in self.read([self.key]) for key in table.column(0).to_pylist()}

    def pack(self, at_least: int = 64, at_most: int = 4096) -> None:
        """Join the loose parts, if there are `at_least` so many, into packs of up to `at_most` rows."""
        loose, older = self._files()
        if len(loose) < at_least:
            return
        keys = list(loose)
        for start in range(0, len(keys), at_most):
            some = keys[start : start + at_most]
            # Named by its keys: a pack that has this name already holds none but these, all of them hidden.
            pack = f"{self.folder}/{PACK}{hashlib.sha256(chr(10).join(some).encode()).hexdigest()[:24]}.parquet"
            rows = (table for key in some for table in self.read_part(Part(loose[key])))
            self._write(pack, self.schema, rows)
            older = [name for name in older if name != pack]
        for name in older:
            self._filter(name, self.key, loose)
        for name in loose.values():
            self.storage.remove(name)

    def rewrite_without(self, doomed: set[str], column: str) -> int:
        """Remove the rows whose `column` is in `doomed` from every file; returns how many of them counted.

        Rows that a loose part hides go first, whatever they hold: they must not come back when that part is removed.
        A pack keeps all columns that it has. After a kill, the same call does the rest.
        """
        loose, packs = self._files()
        removed = 0
        for name in packs:
            self._filter(name, self.key, loose)
            removed += self._filter(name, column, doomed)
        for name in loose.values():
            removed += self._filter(name, column, doomed)
        return removed

    def _files(self) -> tuple[dict[str, str], list[str]]:
        """(key → name of its loose part, names of the packs)"""
        loose: dict[str, str] = {}
        packs: list[str] = []
        for name in self.storage.list(self.folder, ".parquet"):
            stem = name.rpartition("/")[2].removesuffix(".parquet")
            if stem.startswith(PACK):
                packs.append(name)
            else:
                loose[stem] = name
        return loose, packs

    def _groups(self, name: str, columns: Collection[str] | None = None) -> Iterator[pa.Table]:
        """The row groups of a file as they are, with those of `columns` that it has."""
        try:
            with self.storage.open_read(name) as file, pq.ParquetFile(file) as parquet:
                names = parquet.schema_arrow.names
                present = names if columns is None else [column for column in names if column in columns]
                for group in range(parquet.num_row_groups):
                    yield parquet.read_row_group(group, present)
        except (pa.ArrowException, OSError) as error:
            raise DamagedPart(
                f"{self.storage.path(name)} is damaged: {error}. Remove it to have its rows made again."
            ) from error

    def _filter(self, name: str, column: str, values: Collection[str]) -> int:
        """Rewrite a file without the rows whose `column` is in `values`, or remove it; returns how many rows went."""
        before = after = 0
        for table in self._groups(name, {column}):
            before, after = before + table.num_rows, after + _without(table, column, values).num_rows
        if not after:
            self.storage.remove(name)
        elif after < before:
            with self.storage.open_read(name) as file:
                schema = pq.read_schema(file)
            self._write(name, schema, (_without(table, column, values) for table in self._groups(name)))
        return before - after

    def _write(self, name: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        """One file of all rows, in row groups of about GROUP_BYTES."""
        with self.storage.open_write(name) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            pending: list[pa.Table] = []
            size = 0
            for table in tables:
                pending.append(table)
                size += table.nbytes
                if size >= GROUP_BYTES:
                    writer.write_table(pa.concat_tables(pending))
                    pending, size = [], 0
            if pending:
                writer.write_table(pa.concat_tables(pending))


def _without(table: pa.Table, column: str, values: Collection[str]) -> pa.Table:
    """The rows whose `column` is in none of `values` (a set or the keys of a dict)."""
    if not values:
        return table
    return table.filter(pa.array([value not in values for value in table.column(column).to_pylist()], pa.bool_()))


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the schema's columns; what an older part lacks is null."""
    return pa.Table.from_arrays([_column(table, field) for field in schema], schema=schema)


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    column = table.column(field.name)
    if column.type == field.type:
        return column
    if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
        # A list of structs that gained members since the part was written.
        return pa.array(column.to_pylist(), field.type)
    return column.cast(field.type)
