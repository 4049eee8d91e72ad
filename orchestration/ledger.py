"""Append-only Parquet parts, one row a key: the truth that every table and every resume is made from.

A part is committed when it is visible under its name: local parts are renamed into place, objects are put whole. Parts of
single rows are named by their key, so doing the same work twice writes the same name. `pack` joins them into larger
parts; a pack's footer names the parts it replaces, so a kill between the two steps changes nothing that readers see.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.errors import RushesError
from orchestration.storage import Storage

PACK = "pack-"
REPLACES = b"rushes.replaces"


class DamagedPart(RushesError):
    """A committed part cannot be read; nothing may be silently missing from the tables made of it."""


class Ledger:
    """The parts below one folder of a dataset. `key` is the column that names a row."""

    def __init__(self, storage: Storage, folder: str, schema: pa.Schema, key: str):
        self.storage, self.folder, self.schema, self.key = storage, folder, schema, key

    def part_name(self, key: str) -> str:
        return f"{self.folder}/{key}.parquet"

    def has(self, key: str) -> bool:
        """Whether the row was committed as a part of its own (packed rows are not looked into)."""
        return self.storage.exists(self.part_name(key))

    def commit(self, key: str, row: dict[str, Any]) -> None:
        """Write one row as a part; whole or not at all, and the same part when repeated."""
        self.storage.write_table(self.part_name(key), pa.Table.from_pylist([row], self.schema))

    def commit_table(self, table: pa.Table) -> None:
        """Write many rows as one part, named by their keys."""
        names = hashlib.sha256("\n".join(table.column(self.key).to_pylist()).encode()).hexdigest()[:24]
        self.storage.write_table(f"{self.folder}/{PACK}{names}.parquet", table)

    def parts(self) -> list[str]:
        """Names of the parts that count."""
        names = self.storage.list(self.folder, ".parquet")
        packs = [name for name in names if self._is_pack(name)]
        if len(packs) == len(names):
            return names
        replaced = {old for pack in packs for old in self._replaced(pack)}
        return [name for name in names if name not in replaced]

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows, a part's row group at a time. Raises DamagedPart with the name of a part that cannot be read."""
        for name in self.parts():
            yield from self.read_part(name, columns)

    def read_part(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        wanted = self.schema if columns is None else pa.schema([self.schema.field(column) for column in columns])
        try:
            with self.storage.open_read(name) as file, pq.ParquetFile(file) as parquet:
                present = [column for column in wanted.names if column in parquet.schema_arrow.names]
                for group in range(parquet.num_row_groups):
                    yield _conform(parquet.read_row_group(group, present), wanted)
        except (pa.ArrowException, OSError) as error:
            raise DamagedPart(
                f"{self.storage.path(name)} is damaged: {error}. Remove it to have its rows made again."
            ) from error

    def keys(self) -> set[str]:
        return {key for table in self.read([self.key]) for key in table.column(0).to_pylist()}

    def pack(self, at_least: int = 64, at_most: int = 4096) -> None:
        """Join single-row parts into packs (only the holder of the writer lock may)."""
        parts = self.parts()
        loose = [name for name in parts if not self._is_pack(name)]
        stale = set(self.storage.list(self.folder, ".parquet")) - set(parts)
        for name in stale:  # left by a kill between writing a pack and removing what it replaces
            self.storage.remove(name)
        if len(loose) < at_least:
            return
        for start in range(0, len(loose), at_most):
            self._join(loose[start : start + at_most])

    def rewrite_without(self, doomed: set[str], column: str) -> int:
        """Remove the rows whose `column` is in `doomed` from every part; returns how many there were."""
        removed = 0
        for name in self.parts():
            tables = list(self.read_part(name))
            kept = [table.filter(_not_in(table.column(column), doomed)) for table in tables]
            gone = sum(table.num_rows for table in tables) - sum(table.num_rows for table in kept)
            if not gone:
                continue
            removed += gone
            rest = pa.concat_tables(kept)
            if rest.num_rows:
                self.storage.write_table(name, rest.replace_schema_metadata(self._metadata(name)))
            else:
                self.storage.remove(name)
        return removed

    def _join(self, names: list[str]) -> None:
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:24]
        metadata = {REPLACES: json.dumps(names).encode()}
        with self.storage.open_write(f"{self.folder}/{PACK}{digest}.parquet") as file:
            with pq.ParquetWriter(file, self.schema.with_metadata(metadata), compression="zstd") as writer:
                pending: list[pa.Table] = []
                for name in names:
                    pending += self.read_part(name)
                    if len(pending) >= 256:
                        writer.write_table(pa.concat_tables(pending))
                        pending = []
                if pending:
                    writer.write_table(pa.concat_tables(pending))
        for name in names:
            self.storage.remove(name)

    def _metadata(self, name: str) -> dict[bytes, bytes] | None:
        return {REPLACES: json.dumps(self._replaced(name)).encode()} if self._is_pack(name) else None

    def _replaced(self, pack: str) -> list[str]:
        try:
            with self.storage.open_read(pack) as file:
                metadata = pq.read_schema(file).metadata or {}
        except (pa.ArrowException, OSError) as error:
            raise DamagedPart(f"{self.storage.path(pack)} is damaged: {error}") from error
        return json.loads(metadata.get(REPLACES, b"[]"))

    @staticmethod
    def _is_pack(name: str) -> bool:
        return name.rpartition("/")[2].startswith(PACK)


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


def _not_in(column: pa.ChunkedArray, values: set[str]) -> pa.Array:
    return pa.array([value not in values for value in column.to_pylist()])
