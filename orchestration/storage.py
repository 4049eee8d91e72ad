"""One filesystem object: a local folder or a bucket prefix, used the same way by every stage.

Credentials and endpoints come from the environment, profiles or instance roles, as the fsspec driver of the scheme finds
them (for S3: AWS_* variables or ~/.aws, and AWS_ENDPOINT_URL). None of them is ever part of a configuration or a log.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from orchestration.errors import ConfigError

TEMPORARY = ".tmp"  # holds files that are not yet under their final name; emptied by the next writer


class Storage:
    """Files below one root. Every write is whole or absent: local files are renamed into place, objects are put at once."""

    def __init__(self, root: str | Path):
        try:
            self.fs, self.root = fsspec.url_to_fs(str(root))
        except (ImportError, ValueError) as error:
            raise ConfigError(f"cannot open {root}: {error}") from error
        self.root = self.root.rstrip("/")
        self.uri = str(root).rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)

    def __reduce__(self):
        return Storage, (self.uri,)

    def path(self, name: str = "") -> str:
        """The name as the filesystem wants it."""
        return f"{self.root}/{name}" if name else self.root

    def local_path(self, name: str) -> Path:
        if not self.local:
            raise ValueError(f"{self.uri} is not a local folder")
        return Path(self.path(name))

    def exists(self, name: str) -> bool:
        return self.fs.exists(self.path(name))

    def list(self, folder: str, suffix: str = "") -> list[str]:
        """Sorted names (relative to the root) of the files below `folder`; empty where it does not exist."""
        self.fs.invalidate_cache()
        found = self.fs.find(self.path(folder))
        names = (str(path)[len(self.root) + 1 :] for path in found)
        return sorted(name for name in names if name.endswith(suffix))

    @contextlib.contextmanager
    def open_write(self, name: str) -> Iterator[IO[bytes]]:
        """A binary file that appears under `name` only when the block ends without an error."""
        if not self.local:
            file = self.fs.open(self.path(name), "wb")
            try:
                yield file  # type: ignore[misc]
            except BaseException:
                discard = getattr(file, "discard", None)
                if discard:
                    discard()
                file.closed = True
                raise
            file.close()
            return
        temporary = self._temporary()
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            self._rename(temporary, name)
        finally:
            temporary.unlink(missing_ok=True)

    def open_read(self, name: str) -> IO[bytes]:
        return self.fs.open(self.path(name), "rb")  # type: ignore[return-value]

    def write_bytes(self, name: str, data: bytes) -> None:
        if self.local:
            with self.open_write(name) as file:
                file.write(data)
        else:
            self.fs.pipe_file(self.path(name), data)

    def read_bytes(self, name: str) -> bytes:
        return self.fs.cat_file(self.path(name))  # type: ignore[return-value]

    def put_file(self, source: Path, name: str) -> None:
        """Move a finished local file into the storage."""
        if not self.local:
            self.fs.put_file(str(source), self.path(name))
            source.unlink()
            return
        temporary = self._temporary()
        shutil.move(source, temporary)
        self._rename(temporary, name)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def remove_temporary(self) -> None:
        """Drop what killed writers left half done (only the holder of the writer lock may)."""
        if self.local:
            shutil.rmtree(self.local_path(TEMPORARY), ignore_errors=True)

    def write_table(self, name: str, table: pa.Table) -> None:
        with self.open_write(name) as file:
            pq.write_table(table, file, compression="zstd")

    def _temporary(self) -> Path:
        folder = self.local_path(TEMPORARY)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex

    def _rename(self, temporary: Path, name: str) -> None:
        target = self.local_path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, target)
