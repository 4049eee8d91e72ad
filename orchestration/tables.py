"""Published tables of a dataset: Parquet files below a folder each, replaced whole and together.

The next files are written below `publishing/` where no reader looks. A file that lists them is the switch: from then on
the new files move to their places and the old ones go. A kill before the switch leaves the old tables, one after it is
made good by the next command that writes; in between, readers refuse.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.errors import RushesError
from orchestration.storage import Storage

ROWS_PER_FILE = 250_000
GROUP_BYTES = 8 * 2**20  # small row groups: the report fetches single thumbnails
STAGE = "publishing"
READY = f"{STAGE}/ready.json"


def settle(storage: Storage) -> None:
    """Finish the publication that a kill interrupted, or drop it if it was not whole (under the writer lock)."""
    if storage.exists(READY):
        tables: dict[str, list[str]] = json.loads(storage.read_bytes(READY))
        for staged in storage.list(STAGE, ".parquet"):
            storage.move(staged, staged.removeprefix(f"{STAGE}/"))
        for folder, names in tables.items():
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
                f"{storage.path(name)} cannot be read: {error}. The command that made the table publishes it anew"
            ) from error


class Publication:
    """Context manager: `add` rows to its tables; when the block ends well, they take the place of the old ones."""

    def __init__(self, storage: Storage, schemas: Mapping[str, pa.Schema]):
        self._storage = storage
        self._tables = {folder: _Files(storage, folder, schema) for folder, schema in schemas.items()}

    def __enter__(self) -> Publication:
        settle(self._storage)
        return self

    def add(self, folder: str, table: pa.Table) -> None:
        """Rows with at least the columns of the folder's schema."""
        self._tables[folder].add(table)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        stack = contextlib.ExitStack()
        for files in self._tables.values():
            stack.push(files.close)
        stack.__exit__(kind, error, trace)
        if kind is None:
            names = {folder: files.names for folder, files in self._tables.items()}
            self._storage.write_bytes(READY, json.dumps(names).encode())
            settle(self._storage)


class _Files:
    """Numbered Parquet files of one table, written below STAGE; `names` are those that they will have."""

    def __init__(self, storage: Storage, folder: str, schema: pa.Schema):
        self.schema = schema
        self.names: list[str] = []
        self._storage, self._folder = storage, folder
        self._pending: list[pa.Table] = []
        self._bytes = self._in_file = 0
        self._stack = contextlib.ExitStack()
        self._writer: pq.ParquetWriter | None = None

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

    def close(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        if self._pending or not self.names:
            self._flush()
        self._finish_file()
