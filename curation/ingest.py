"""Listing the input: a folder, a glob, a list file or any fsspec URI, streamed into Parquet; no file is opened."""

from __future__ import annotations

import glob as globbing
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from orchestration.errors import ConfigError

LISTING = pa.schema(
    [
        ("listing_id", pa.string()),
        ("uri", pa.string()),
        ("bytes", pa.int64()),
        ("version", pa.string()),
        ("run", pa.int64()),
    ]
)
ROWS_PER_FILE = 2_000  # the engine takes a file at a time
LIST_SUFFIXES = (".txt", ".lst", ".list")


class Listed(NamedTuple):
    """One regular file of the input."""

    uri: str
    bytes: int
    version: str  # etag, or modification time: a cache key, not an identity

    @property
    def listing_id(self) -> str:
        """24 hex digits that change when the object does."""
        return hashlib.sha256(f"{self.uri}\0{self.bytes}\0{self.version}".encode(errors="surrogateescape")).hexdigest()[
            :24
        ]


def list_input(source: str, exclude: str = "") -> Iterator[Listed]:
    """Every regular file that `source` names, in a stable order, without holding the listing in memory.

    `exclude` is a folder (the output) that is passed over. Raises ConfigError where there is nothing to list.
    """
    if source.lower().endswith(LIST_SUFFIXES):
        yield from _list_file(source)
        return
    try:
        fs, path = fsspec.url_to_fs(source)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"input {source}: {error}") from error
    if isinstance(fs, LocalFileSystem):
        if globbing.has_magic(path) and not os.path.lexists(path):
            paths: Iterable[str] = (p for p in sorted(globbing.iglob(path, recursive=True)) if os.path.isfile(p))
            yield from _some(map(_stat, paths), f"no file matches {source}")
        elif os.path.isdir(path):
            yield from _walk_local(path, str(Path(exclude).resolve()) if exclude and "://" not in exclude else "")
        elif os.path.isfile(path):
            yield _stat(path)
        else:
            raise ConfigError(f"input {source} does not exist")
        return
    try:
        yield from _list_remote(fs, path, exclude)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot list {source}: {error}") from error


def _walk_local(folder: str, exclude: str) -> Iterator[Listed]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            if not exclude or os.path.realpath(entry.path) != exclude:
                yield from _walk_local(entry.path, exclude)
        elif entry.is_file():
            yield _stat(entry.path)


def _stat(path: str) -> Listed:
    facts = os.stat(path)
    return Listed(path, facts.st_size, str(facts.st_mtime_ns))


def _list_remote(fs: Any, path: str, exclude: str) -> Iterator[Listed]:
    if globbing.has_magic(path):
        found = fs.glob(path, detail=True)
        files = (entry for _, entry in sorted(found.items()) if entry["type"] == "file")
        yield from _some((_remote(fs, entry) for entry in files), f"no object matches {path}")
        return
    if not fs.isdir(path):
        yield _remote(fs, fs.info(path))  # raises FileNotFoundError
        return
    skipped = fs._strip_protocol(exclude) if exclude and "://" in exclude else ""
    for folder, _, files in fs.walk(path, detail=True):
        if skipped and (folder == skipped or folder.startswith(skipped + "/")):
            continue
        for _, entry in sorted(files.items()):
            if not entry["name"].endswith("/"):
                yield _remote(fs, entry)


def _remote(fs: Any, entry: dict[str, Any]) -> Listed:
    version = entry.get("ETag") or entry.get("etag") or entry.get("LastModified") or entry.get("mtime") or ""
    return Listed(fs.unstrip_protocol(entry["name"]), int(entry.get("size") or 0), str(version).strip('"'))


def _list_file(source: str) -> Iterator[Listed]:
    """One path or URI a line; blank lines and lines that begin with # are passed over. What is missing becomes a row."""
    try:
        with fsspec.open(source, "rt") as file:
            lines = [line.strip() for line in file]  # type: ignore[union-attr]
    except OSError as error:
        raise ConfigError(f"cannot read the list {source}: {error}") from error
    for line in lines:
        if not line or line.startswith("#"):
            continue
        fs, path = fsspec.url_to_fs(line)
        try:
            yield _stat(path) if isinstance(fs, LocalFileSystem) else _remote(fs, fs.info(path))
        except OSError:
            yield Listed(line, 0, "missing")


def _some(items: Iterator[Listed], complaint: str) -> Iterator[Listed]:
    first = next(items, None)
    if first is None:
        raise ConfigError(complaint)
    yield first
    yield from items


def sampled(items: Iterable[Listed], share: float | None, limit: int | None) -> Iterator[Listed]:
    """A stable `share` (0 to 1) of the files, chosen by their name, then the first `limit`."""
    taken = 0
    for item in items:
        if limit is not None and taken >= limit:
            return
        if share is None or zlib.crc32(item.uri.encode(errors="surrogateescape")) < share * 2**32:
            taken += 1
            yield item


class Listing:
    """The rows of one run that are still to do, in Parquet files of a local folder."""

    def __init__(self, folder: Path, run: int):
        self._folder, self._run = folder, run
        self.files: list[str] = []
        self.rows = self.bytes = self.known = 0

    def write(self, items: Iterable[Listed], done: set[str]) -> None:
        """Keeps what is not in `done` (listing ids); larger files first inside each Parquet file, to end evenly."""
        pending: list[tuple[str, Listed]] = []
        seen: set[str] = set()
        for item in items:
            listing_id = item.listing_id
            if listing_id in done or listing_id in seen:
                self.known += listing_id in done
                continue
            seen.add(listing_id)
            self.rows += 1
            self.bytes += item.bytes
            pending.append((listing_id, item))
            if len(pending) >= ROWS_PER_FILE:
                self._flush(pending)
                pending = []
        if pending:
            self._flush(pending)

    def _flush(self, pending: list[tuple[str, Listed]]) -> None:
        pending.sort(key=lambda pair: -pair[1].bytes)
        rows = [{"listing_id": name, **item._asdict(), "run": self._run} for name, item in pending]
        for row in rows:
            row["uri"] = row["uri"].encode(errors="surrogateescape").decode(errors="backslashreplace")
        path = self._folder / f"{len(self.files):06d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, LISTING), path)
        self.files.append(str(path))
