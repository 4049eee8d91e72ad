"""The files that captions may be in: listed, grouped by what their names say, and read within limits."""

from __future__ import annotations

import io
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import unquote

import fsspec

from captioning.brought.rows import MAX_FIELD
from curation.fetch import SCHEME, locate, open_source, shown, uri_of
from curation.ingest import UNREADABLE, Listed, list_input
from orchestration.errors import ConfigError

MEDIA = frozenset(
    (
        *("3g2", "3gp", "asf", "avi", "dv", "flv", "gif", "gxf", "h264", "hevc", "ivf", "m2ts", "m4v", "mj2", "mkv"),
        *("mov", "mp4", "mpeg", "mpg", "mts", "mxf", "nut", "obu", "ogg", "ogm", "ogv", "rm", "ts", "vob", "webm"),
        *("wmv", "y4m", "avif", "bmp", "heic", "heif", "jpeg", "jpg", "png", "tif", "tiff", "webp"),
    )
)
TABLES = {"csv": "csv", "tsv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
SIDECARS = frozenset(("txt", "caption", "json"))
BATCH = 64  # sidecars that are fetched at once


@dataclass
class Files:
    """What lies below `root` (an address): tables and sidecars in the order of the listing, the rest counted."""

    root: str
    tables: list[Listed] = field(default_factory=list)
    sidecars: list[Listed] = field(default_factory=list)
    unreadable: list[Listed] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)

    def found(self) -> str:
        """For messages: how many files of which kind."""
        kinds = [f"{count:,} {suffix or 'without suffix'}" for suffix, count in self.suffixes.most_common(8)]
        return ", ".join(kinds) or "no file"


def find_files(path: str, exclude: str = "") -> Files:
    """List `path`: a folder, a glob or one file. `exclude` is a folder (the dataset) that is passed over.

    Raises ConfigError where there is nothing or the listing fails.
    """
    fs, place = locate(path)
    magic = re.search(r"[*?\[]", place)
    if magic and "file" in fs.protocol and os.path.lexists(place):
        magic = None
    try:
        single = not magic and suffix(place) in (*TABLES, *SIDECARS) and fs.isfile(place)
        alone = [Listed(_uri(fs, place), int(fs.info(place).get("size") or 0), "")] if single else []
    except Exception as error:  # each driver has exceptions of its own: no credentials, no such bucket, no connection
        raise ConfigError(f"captions.path: cannot read {shown(path)}: {shown(str(error))}") from error
    folder = posixpath.dirname(place[: magic.start()] if magic else place) if magic or single else place
    files = Files(root=address(_uri(fs, folder)))
    for item in alone or list_input(path, exclude):
        kind = suffix(item.uri)
        files.suffixes[f".{kind}" if kind else ""] += 1
        if item.version.startswith(UNREADABLE):
            files.unreadable.append(item)
        elif kind in TABLES:
            files.tables.append(item)
        elif kind in SIDECARS:
            files.sidecars.append(item)
    return files


def sibling(item: Listed, names: Sequence[str]) -> Listed | None:
    """The first file of these names in the folder of `item`."""
    fs, place = open_source(item.uri)
    for name in names:
        other = f"{posixpath.dirname(place)}/{name}"
        if fs.isfile(other):
            return Listed(_uri(fs, other), int(fs.info(other).get("size") or 0), "")
    return None


def open_file(item: Listed) -> IO[bytes]:
    """The file for reading bytes."""
    fs, place = open_source(item.uri)
    if "file" in fs.protocol:
        return open(place, "rb")
    raw: Any = fs.open(place, "rb")
    return io.BufferedReader(raw, 2**20)  # fsspec's own readline has no limit


def read_small(items: Sequence[Listed], limit: int = MAX_FIELD) -> Iterator[tuple[Listed, bytes | str]]:
    """(file, its bytes, or why it cannot be read). Objects of a bucket are fetched many at a time."""
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        wanted = [item for item in batch if 0 < item.bytes <= limit]
        got: dict[str, Any] = {}
        if wanted:
            places = [open_source(item.uri) for item in wanted]
            fs = places[0][0]
            paths = [place for _, place in places]
            try:  # not fs.cat: it would take names with [ or * for patterns
                data = fs.cat_ranges(paths, [0] * len(paths), [item.bytes for item in wanted], on_error="return")
            except Exception as error:  # one whole batch: a connection that is gone
                data = [error] * len(paths)
            got = {item.uri: value for item, value in zip(wanted, data, strict=True)}
        for item in batch:
            value = got.get(item.uri, b"")
            if item.bytes > limit:
                yield item, f"larger than {limit // 2**20} MiB"
            elif isinstance(value, Exception):
                yield item, f"cannot be read: {shown(str(value))[:200] or type(value).__name__}"
            else:
                yield item, bytes(value)


def address(uri: str) -> str:
    """One spelling of a place, for comparing only: an absolute path or scheme://bucket/key, without . and .. in it.

    A file that a listing named by a file:// URI (its name is not UTF-8) is called by its path.
    """
    match = SCHEME.match(uri)
    if not match:
        return posixpath.normpath(uri)
    scheme, rest = match[1].lower(), uri[match.end() :]
    if scheme in ("file", "local"):
        return posixpath.normpath(open_source(f"file://{rest}")[1])
    if scheme in ("http", "https"):
        rest = unquote(rest)
    return f"{scheme}://{posixpath.normpath(rest).lstrip('/')}"


def without_suffix(name: str) -> str:
    """The name without the suffix of a video or picture, in upper or lower case; as it is where it has none."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and ending.lower() in MEDIA and posixpath.basename(stem) else name


def suffix(name: str) -> str:
    """Lower case, without the dot; empty where there is none."""
    return posixpath.splitext(name)[1][1:].lower()


def label(item: Listed, root: str) -> str:
    """What messages call a file: its path below the root."""
    place = address(item.uri)
    short = place[len(root) :].lstrip("/") if place.startswith(root.rstrip("/") + "/") else place
    return short if short.isprintable() else repr(short)[1:-1]


def _uri(fs: fsspec.AbstractFileSystem, place: str) -> str:
    return uri_of(place) if "file" in fs.protocol else fs.unstrip_protocol(place)
