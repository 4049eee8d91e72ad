"""Where videos lie: addresses that people write, names that a listing found, and fetching a file to disk once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import fsspec
import stamina
from fsspec.implementations.local import LocalFileSystem

from orchestration.errors import ConfigError

CHUNK = 8 * 2**20
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
CHAIN = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*::|::[A-Za-z][A-Za-z0-9+.-]*://")  # fsspec would open one thing in another
SIGNED = re.compile(r"\?(.*&)?(x-(amz|goog)-\w+|awsaccesskeyid|signature|sig|se|token|key|expires)=", re.IGNORECASE)
# What no later attempt changes.
FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, NotImplementedError, TypeError, ValueError)


class FetchFailed(ValueError):
    """The source cannot be read; the message is the reason for people."""

    def __init__(self, reason: str, retryable: bool = False):
        """`retryable`: it may be otherwise in a later run (a timeout, a server's fault, a right that is lacking)."""
        super().__init__(reason)
        self.retryable = retryable


class _SourceFailed(Exception):
    """A source could not be read, because of `__cause__`."""


def locate(address: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(filesystem, path on it) of an address that a person wrote: a path or a URI.

    Raises ConfigError for an unknown scheme, for fsspec's chains, and for addresses with a password or a signature in
    them: what is written into tables and logs must hold no secret.
    """
    scheme, rest = _split(address)
    if CHAIN.search(address) and not address.startswith("/"):
        raise ConfigError(f"{shown(address)}: chained addresses (a::b) are not taken; a path may begin with ./")
    http = scheme in ("http", "https")
    user = rest.split("/", 1)[0].rpartition("@")[0] if scheme else ""
    if ":" in user or (user and http):
        raise ConfigError(
            f"{shown(address)}: no user name and password in addresses; give them in the environment or a profile"
        )
    if scheme and (SIGNED.search(rest) or (http and "?" in rest)):
        raise ConfigError(
            f"{shown(address)}: no query in addresses (a signed one is a password, and ends); use s3://, gs:// or az://"
        )
    if scheme in ("file", "local"):
        return LocalFileSystem(), rest if os.path.lexists(rest) else os.fsdecode(unquote_to_bytes(rest))
    try:
        return open_source(address if scheme else os.path.expanduser(address))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{shown(address)}: {error}") from error


def open_source(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """(filesystem, path on it) of a name that a listing found (see `uri_of`), or a path.

    Whoever may put objects into a bucket chooses their names, so that nothing but the scheme is read out of them.
    """
    scheme, rest = _split(uri)
    if scheme == "file":
        return LocalFileSystem(), os.fsdecode(unquote_to_bytes(rest))
    if not scheme:
        return LocalFileSystem(), os.path.abspath(uri)
    kind = fsspec.get_filesystem_class(scheme)
    return fsspec.filesystem(scheme, **kind._get_kwargs_from_urls(uri)), str(kind._strip_protocol(uri))


def is_remote(uri: str) -> bool:
    """Whether a name that a listing found is no file of this machine."""
    return _split(uri)[0] not in ("", "file")


def uri_of(path: str) -> str:
    """How tables name a local file: by its absolute path; a name that is not UTF-8 as a percent-encoded file:// URI."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path


def shown(text: str) -> str:
    """The address or message without what may be secret in it."""
    return re.sub(r"\?\S*", "?…", re.sub(r"://[^/\s@]*@", "://…@", text))


def _split(uri: str) -> tuple[str, str]:
    """(scheme, what follows ://); no scheme where it is a path."""
    found = SCHEME.match(uri)
    return (found[1].lower(), uri[found.end() :]) if found else ("", uri)


@contextlib.contextmanager
def fetched(uri: str, folder: Path, beat: Callable[[], None]) -> Iterator[tuple[Path, str]]:
    """(local path, SHA-256) of a listed source. Local files are read in place, objects are copied into `folder`, and
    removed afterwards.

    Raises FetchFailed, also when a local file changes while the block works on it, and OSError where scratch is full.
    """
    fs, path = open_source(uri)
    if isinstance(fs, LocalFileSystem):
        before = _facts(path)
        yield Path(path), _hash_local(path, beat)
        if _facts(path) != before:
            raise FetchFailed("changed while it was being read; run again", retryable=True)
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
        raise _failure(error) from error
    if not stat.S_ISREG(facts.st_mode):
        raise FetchFailed("cannot be read: not a regular file")
    return facts.st_size, facts.st_mtime_ns


def _hash_local(path: str, beat: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    try:
        for chunk in _chunks(LocalFileSystem(), path):
            digest.update(chunk)
            beat()
    except _SourceFailed as error:
        raise _failure(error.__cause__) from error
    return digest.hexdigest()


def _copy(fs: fsspec.AbstractFileSystem, path: str, target: Path, beat: Callable[[], None]) -> str:
    digest = hashlib.sha256()

    def again(error: Exception) -> bool:
        return isinstance(error, _SourceFailed) and not isinstance(error.__cause__, (*FINAL, PermissionError))

    try:
        for attempt in stamina.retry_context(on=again, attempts=4, timeout=None, wait_initial=0.5, wait_max=10):
            with attempt:
                digest = hashlib.sha256()
                with target.open("wb") as file:
                    for chunk in _chunks(fs, path):
                        digest.update(chunk)
                        file.write(chunk)
                        beat()
    except _SourceFailed as error:
        raise _failure(error.__cause__) from error
    return digest.hexdigest()


def _chunks(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[bytes]:
    """Raises _SourceFailed; what whoever takes the chunks raises is another matter."""
    options = {} if isinstance(fs, LocalFileSystem) else {"block_size": CHUNK, "cache_type": "readahead"}
    try:
        with fs.open(path, "rb", **options) as source:
            while chunk := source.read(CHUNK):
                yield chunk  # type: ignore[misc]
    except Exception as error:
        raise _SourceFailed from error


def _failure(error: BaseException | None) -> FetchFailed:
    if isinstance(error, FileNotFoundError):
        return FetchFailed("cannot be read: it is gone")
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return FetchFailed(f"cannot be read: {shown(text.splitlines()[0][:300])}", not isinstance(error, FINAL))
