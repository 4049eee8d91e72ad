"""Getting a source onto local disk once, its SHA-256 computed on the way."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import stamina
from fsspec.implementations.local import LocalFileSystem

CHUNK = 8 * 2**20


class FetchFailed(ValueError):
    """The source cannot be read; the message is the reason for people."""


@contextlib.contextmanager
def fetched(uri: str, folder: Path, beat: Callable[[], None]) -> Iterator[tuple[Path, str]]:
    """(local path, SHA-256) of a source. Local files are read in place, objects are copied into `folder` and removed after.

    Raises FetchFailed, also when a local file changes while the block works on it.
    """
    fs, path = fsspec.url_to_fs(uri)
    if isinstance(fs, LocalFileSystem):
        before = _facts(path)
        yield Path(path), _hash_local(path, beat)
        if _facts(path) != before:
            raise FetchFailed("changed while it was being read; run again")
        return
    target = folder / "source"
    try:
        yield target, _copy(fs, path, target, beat)
    finally:
        target.unlink(missing_ok=True)


def _facts(path: str) -> tuple[int, int]:
    try:
        facts = os.stat(path)
    except OSError as error:
        raise FetchFailed(f"cannot be read: {error.strerror}") from error
    return facts.st_size, facts.st_mtime_ns


def _hash_local(path: str, beat: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                beat()
    except OSError as error:
        raise FetchFailed(f"cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _copy(fs: fsspec.AbstractFileSystem, path: str, target: Path, beat: Callable[[], None]) -> str:
    def again(error: Exception) -> bool:
        return not isinstance(error, FileNotFoundError | PermissionError)

    try:
        for attempt in stamina.retry_context(on=again, attempts=4, timeout=None, wait_initial=0.5, wait_max=10):
            with attempt:
                digest = hashlib.sha256()
                with fs.open(path, "rb", block_size=CHUNK, cache_type="readahead") as source, target.open("wb") as file:
                    while chunk := source.read(CHUNK):
                        digest.update(chunk)  # type: ignore[arg-type]
                        file.write(chunk)  # type: ignore[arg-type]
                        beat()
        return digest.hexdigest()
    except FileNotFoundError as error:
        raise FetchFailed("cannot be read: it is gone") from error
    except Exception as error:
        if isinstance(error, OSError) and error.filename == str(target):
            raise
        raise FetchFailed(f"cannot be read: {error}") from error
