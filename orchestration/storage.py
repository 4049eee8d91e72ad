"""One filesystem object: a local folder or a bucket prefix, used the same way by every stage.

Credentials and endpoints come from the environment, profiles or instance roles, as the fsspec driver of the scheme
finds them (for S3: AWS_* variables or ~/.aws, and AWS_ENDPOINT_URL). None is ever part of a configuration or a log.
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
    """Files below one root. Every write is whole or absent, and replaces what had the name.

    Local files are written under a temporary name, synced and renamed: what a file holds is on disk before its name is.
    (Folders are not synced: after a power cut the last names may be missing, on a journaling filesystem the latest
    first.) Objects are put at once or by a multipart upload that counts only when it is completed. Listings are not
    cached, so that what other processes have written is seen.
    """

    def __init__(self, root: str | Path):
        try:
            self.fs, self.root = fsspec.url_to_fs(str(root), use_listings_cache=False)
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
        found = self.fs.find(self.path(folder))
        names = (str(path)[len(self.root) + 1 :] for path in found)
        return sorted(name for name in names if name.endswith(suffix))

    @contextlib.contextmanager
    def open_write(self, name: str) -> Iterator[IO[bytes]]:
        """A binary file that appears under `name` only when the block ends without an error.

        An upload that fails is aborted. One that is killed leaves parts that no listing shows and that a bucket's
        lifecycle rule for incomplete uploads removes.
        """
        if self.local:
            with self._placed(name) as temporary, temporary.open("wb") as file:
                yield file
            return
        file = self.fs.open(self.path(name), "wb")
        try:
            yield file  # type: ignore[misc]
            file.close()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                getattr(file, "discard", lambda: None)()
            file.closed = True  # else it is committed when it is collected
            raise

    def open_read(self, name: str) -> IO[bytes]:
        if self.local:
            # Not a Python file: Arrow's threads would need the interpreter to let go of it, also while that ends.
            return pa.OSFile(self.path(name), "rb")
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
        """Move a finished local file into the storage; when this returns, its content is stored."""
        if not self.local:
            self.fs.put_file(str(source), self.path(name))
            source.unlink()
            return
        with self._placed(name) as temporary:
            shutil.move(source, temporary)

    def move(self, source: str, target: str) -> None:
        """Give a file another name, in one step where it is local; an object is copied, then removed."""
        if self.local:
            self.local_path(target).parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.path(source), self.path(target))
        else:
            self.fs.cp_file(self.path(source), self.path(target))
            self.remove(source)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def remove_folder(self, folder: str) -> None:
        """Everything below it, if there is anything."""
        if self.local:
            shutil.rmtree(self.path(folder), ignore_errors=True)
            return
        for name in self.list(folder):
            self.remove(name)

    def remove_temporary(self) -> None:
        """Drop what killed writers left half done (only the holder of the writer lock may)."""
        if self.local:
            self.remove_folder(TEMPORARY)

    def write_table(self, name: str, table: pa.Table) -> None:
        with self.open_write(name) as file:
            pq.write_table(table, file, compression="zstd")

    @contextlib.contextmanager
    def _placed(self, name: str) -> Iterator[Path]:
        """A temporary path; the file that the block puts there is synced and renamed to `name`."""
        folder = self.local_path(TEMPORARY)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / uuid.uuid4().hex
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            self.move(f"{TEMPORARY}/{temporary.name}", name)
        finally:
            temporary.unlink(missing_ok=True)
