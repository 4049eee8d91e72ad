"""Listing the input: a folder, a glob, a list file or any fsspec URI, streamed into Parquet; no file is opened."""

from __future__ import annotations

import glob as globbing
import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from curation.fetch import locate, shown, uri_of
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
UNREADABLE = "cannot be read: "  # begins the version of what the listing met but cannot be taken; the rest says why


class Listed(NamedTuple):
    """One file of the input, or something that stands where one should be (see UNREADABLE)."""

    uri: str
    bytes: int
    version: str  # etag, or modification time: a cache key, not an identity

    @property
    def listing_id(self) -> str:
        """24 hex digits that change when the object does."""
        return hashlib.sha256(f"{self.uri}\0{self.bytes}\0{self.version}".encode()).hexdigest()[:24]


def list_input(source: str, exclude: str = "") -> Iterator[Listed]:
    """Every file that `source` names, in a stable order.

    Memory: one folder's names, of S3 one page of 1,000. `exclude` is a folder (the output) that is passed over. Raises
    ConfigError where there is nothing to list or the listing fails.
    """
    fs, path = locate(source)
    outside = _Outside(exclude)
    try:
        if path.lower().endswith(LIST_SUFFIXES):
            yield from _list_file(fs, path, shown(source), outside)
        elif isinstance(fs, LocalFileSystem):
            yield from _list_local(path, source, outside)
        else:
            yield from _list_remote(fs, path, outside)
    except ConfigError:
        raise
    except Exception as error:  # each driver has exceptions of its own: no credentials, no such bucket, no connection
        raise ConfigError(f"cannot list {shown(source)}: {shown(str(error)) or type(error).__name__}") from error


class _Outside:
    """Tells what lies outside an excluded folder."""

    def __init__(self, exclude: str):
        self._fs, self._folder = locate(exclude) if exclude else (None, "")
        self._folder = self._folder.rstrip("/")
        if isinstance(self._fs, LocalFileSystem):
            self._folder = os.path.realpath(self._folder)

    def __call__(self, fs: Any, path: str) -> bool:
        if self._fs is None or type(fs) is not type(self._fs):
            return True
        path = os.path.realpath(path) if isinstance(fs, LocalFileSystem) else path
        return path != self._folder and not path.startswith(self._folder + "/")


def _list_local(path: str, source: str, outside: _Outside) -> Iterator[Listed]:
    if globbing.has_magic(path) and not os.path.lexists(path):
        found = (p for p in sorted(globbing.iglob(path, recursive=True)) if not os.path.isdir(p))
        yield from _some((_stat(p) for p in found if outside(LocalFileSystem(), p)), f"no file matches {source}")
    elif os.path.isdir(path):
        os.scandir(path).close()  # raises where the whole input cannot be read
        # An input inside the output is what the person said.
        yield from _walk(path, outside if outside(LocalFileSystem(), path) else _Outside(""))
    elif os.path.isfile(path):
        yield _stat(path)
    else:
        raise ConfigError(f"input {source} does not exist")


def _walk(root: str, outside: _Outside) -> Iterator[Listed]:
    """Links to folders are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    pending = [root]
    while pending:
        path = pending.pop()
        try:
            facts = os.stat(path)
            if not stat.S_ISDIR(facts.st_mode):
                if stat.S_ISREG(facts.st_mode):
                    yield _file(path, facts)
                continue
            if (facts.st_dev, facts.st_ino) in seen or not outside(LocalFileSystem(), path):
                continue
            seen.add((facts.st_dev, facts.st_ino))
            names = sorted(os.listdir(path), reverse=True)
        except OSError as error:
            yield _unreadable(path, error)
            continue
        pending += [os.path.join(path, name) for name in names]


def _stat(path: str) -> Listed:
    try:
        facts = os.stat(path)
    except OSError as error:
        return _unreadable(path, error)
    if stat.S_ISDIR(facts.st_mode):
        return Listed(uri_of(path), 0, f"{UNREADABLE}it is a folder")
    if not stat.S_ISREG(facts.st_mode):
        return Listed(uri_of(path), 0, f"{UNREADABLE}not a regular file")
    return _file(path, facts)


def _file(path: str, facts: os.stat_result) -> Listed:
    return Listed(uri_of(path), facts.st_size, str(facts.st_mtime_ns))


def _unreadable(path: str, error: OSError) -> Listed:
    why = "it is not there" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        why = "a link to nothing"
    return Listed(uri_of(path), 0, UNREADABLE + why)


def _list_remote(fs: Any, path: str, outside: _Outside) -> Iterator[Listed]:
    matches = re.compile(glob_translate(path)).match if globbing.has_magic(path) else None
    if "s3" in fs.protocol:
        base = re.split(r"[*?\[]", path)[0] if matches else path.rstrip("/") + "/"
        found = _pages_s3(fs, base)
    elif matches:
        found = (entry for _, entry in sorted(fs.glob(path, detail=True).items()) if entry["type"] == "file")
    elif "http" in fs.protocol and not path.endswith("/"):
        found = iter(())  # to ask whether it is a folder would read all of it
    else:
        found = _walk_remote(fs, path, outside)
    empty = True
    for entry in found:
        empty = False
        if isinstance(entry, Listed):
            yield entry
        elif not entry["name"].endswith("/") and (not matches or matches(entry["name"])) and outside(fs, entry["name"]):
            yield _remote(fs, entry)
    if empty:
        if matches:
            raise ConfigError(f"no object matches {path}")
        entry = fs.info(path)  # a single object; raises FileNotFoundError
        if entry.get("type") != "directory":
            yield _remote(fs, entry)


def _pages_s3(fs: Any, base: str) -> Iterator[dict[str, Any]]:
    """Objects whose `bucket/key` begins with `base`, by key. s3fs itself would hold the listing of a whole prefix."""
    bucket, _, prefix = base.partition("/")
    more: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more, **fs.req_kw)
        for entry in page.get("Contents", ()):
            yield {**entry, "name": f"{bucket}/{entry['Key']}", "size": entry["Size"]}
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _walk_remote(fs: Any, path: str, outside: _Outside) -> Iterator[dict[str, Any] | Listed]:
    fresh = type(fs)(*fs.storage_args, **{**fs.storage_options, "use_listings_cache": False})  # holds one folder only
    if not fresh.isdir(path):
        return
    pending: list[dict[str, Any]] = [{"name": path, "type": "directory"}]
    while pending:
        entry = pending.pop()
        folder = entry["name"].rstrip("/")
        if entry["type"] != "directory":
            yield entry
        elif outside(fs, folder):
            try:
                found = [item for item in fresh.ls(folder, detail=True) if item["name"].rstrip("/") != folder]
            except OSError as error:
                if folder == path.rstrip("/"):
                    raise
                yield Listed(fs.unstrip_protocol(folder), 0, UNREADABLE + shown(str(error)))
                continue
            pending += sorted(found, key=lambda item: item["name"], reverse=True)


def _remote(fs: Any, entry: dict[str, Any]) -> Listed:
    uri = fs.unstrip_protocol(entry["name"])
    if entry.get("type") == "directory":
        return Listed(uri, 0, f"{UNREADABLE}it is a folder")
    if "http" in fs.protocol and "?" in uri:
        return Listed(uri.split("?")[0], 0, f"{UNREADABLE}its address has a query")
    version = entry.get("ETag") or entry.get("etag") or entry.get("LastModified") or entry.get("mtime") or ""
    return Listed(uri, int(entry.get("size") or 0), str(version).strip('"'))


def _list_file(fs: Any, path: str, name: str, outside: _Outside) -> Iterator[Listed]:
    """One path or URI a line; blank lines and lines that begin with # are passed over. What is missing is a row."""
    try:
        with fs.open(path, "rb") as file:
            lines = file.read().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the list {name}: {error}") from error
    for number, line in enumerate(lines, 1):
        text = os.fsdecode(line.strip())
        if not text or text.startswith("#"):
            continue
        try:
            there, place = locate(text)
            local = isinstance(there, LocalFileSystem)
            if not local:
                text.encode()
        except (ConfigError, UnicodeEncodeError) as error:
            raise ConfigError(f"{name}:{number}: {error}") from error
        if not outside(there, place):
            continue
        try:
            yield _stat(place) if local else _remote(there, there.info(place))
        except OSError as error:
            why = "it is not there" if isinstance(error, FileNotFoundError) else shown(str(error))
            yield Listed(there.unstrip_protocol(place), 0, UNREADABLE + why)


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
        if share is None or zlib.crc32(item.uri.encode()) < share * 2**32:
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
        path = self._folder / f"{len(self.files):06d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, LISTING), path)
        self.files.append(str(path))
