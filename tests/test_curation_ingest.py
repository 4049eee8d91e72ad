"""Listing and fetching: every file a row in a stable order, names taken literally, no secret in any of it."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from curation import fetch
from curation.fetch import FetchFailed, fetched, locate, open_source, uri_of
from curation.ingest import UNREADABLE, Listing, list_input, sampled
from orchestration.errors import ConfigError


def names(items) -> list[str]:
    return [item.uri for item in items]


def files(folder: Path, *relative: str) -> list[str]:
    for name in relative:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return [str(folder / name) for name in relative]


@pytest.fixture
def memory():
    fs = MemoryFileSystem()
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


def test_folders_globs_and_single_files_in_order(tmp_path):
    wanted = files(tmp_path, "a.mp4", "b/c.mp4", "b/d e.mov", "c.txt")
    assert names(list_input(str(tmp_path))) == wanted
    assert names(list_input(f"{tmp_path}/**/*.mp4")) == [wanted[0], wanted[1]]
    assert names(list_input(wanted[0])) == [wanted[0]]
    assert names(list_input(f"file://{wanted[2].replace(' ', '%20')}")) == [wanted[2]]
    for missing in ("nothing", "*.avi"):
        with pytest.raises(ConfigError):
            list(list_input(f"{tmp_path}/{missing}"))


def test_the_output_is_passed_over_everywhere(tmp_path):
    wanted = files(tmp_path, "a.mp4", "out/media/x.mp4", "z.mp4")
    out = str(tmp_path / "out")
    listed = tmp_path / "files.lst"
    listed.write_text("\n".join(wanted))
    for source in (f"{tmp_path}/**/*.mp4", str(listed)):
        assert names(list_input(source, exclude=out)) == [wanted[0], wanted[2]]
    assert names(list_input(str(tmp_path), exclude=f"file://{out}")) == [wanted[0], str(listed), wanted[2]]
    assert names(list_input(f"{out}/media", exclude=out)) == [wanted[1]]


def test_links(tmp_path):
    wanted = files(tmp_path, "raw/a.mp4", "elsewhere/b.mp4")
    (tmp_path / "raw/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw/loop").symlink_to(tmp_path / "raw")
    (tmp_path / "raw/broken.mp4").symlink_to(tmp_path / "gone")
    (tmp_path / "raw/self").symlink_to(tmp_path / "raw/self")
    found = {item.uri: item for item in list_input(str(tmp_path / "raw"))}
    assert [uri for uri in found if found[uri].bytes] == [wanted[0], str(tmp_path / "raw/again/b.mp4")]
    assert found[str(tmp_path / "raw/broken.mp4")].version == f"{UNREADABLE}a link to nothing"
    assert found[str(tmp_path / "raw/self")].version.startswith(UNREADABLE)
    assert len(found) == 4


def test_what_cannot_be_listed_is_a_row(tmp_path, monkeypatch):
    wanted = files(tmp_path, "a.mp4", "closed/b.mp4", "vanished.mp4", "z.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    real_stat, real_list = os.stat, os.listdir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real_list(path)

    def vanish(path, **options):
        if str(path).endswith("vanished.mp4"):
            raise FileNotFoundError(2, "No such file", path)
        return real_stat(path, **options)

    monkeypatch.setattr(os, "listdir", refuse)  # root is refused nothing
    monkeypatch.setattr(os, "stat", vanish)
    found = {item.uri: item.version for item in list_input(str(tmp_path))}
    assert list(found) == [wanted[0], str(tmp_path / "closed"), wanted[2], wanted[3]]
    assert found[str(tmp_path / "closed")] == "cannot be read: Permission denied"
    assert found[wanted[2]] == "cannot be read: it is not there"


def test_names_that_are_not_utf8_can_be_fetched(tmp_path):
    raw = os.fsencode(tmp_path) + b"/\xff %.mp4"
    with open(raw, "wb") as file:
        file.write(b"content")
    (item,) = list_input(str(tmp_path))
    assert item.uri == f"file://{tmp_path}/%FF%20%25.mp4"
    with fetched(item.uri, tmp_path, lambda: None) as (path, digest):
        assert os.fsencode(path) == raw
    assert digest == hashlib.sha256(b"content").hexdigest()
    listing = Listing(tmp_path, 1)
    listing.write([item], set())
    assert listing.rows == 1
    plain = str(tmp_path / "100%25 é.mp4")
    assert uri_of(plain) == plain


def test_list_files(tmp_path, memory):
    wanted = files(tmp_path, "a.mp4", "b::c.mp4")
    memory.pipe("/bucket/x.mp4", b"12")
    listed = tmp_path / "Files.TXT"
    lines = ["\ufeff# films", "", wanted[0], wanted[1], f"{tmp_path}/gone.mp4", str(tmp_path), "memory://bucket/x.mp4"]
    listed.write_text("\r\n".join([*lines, "memory://bucket/gone.mp4"]))
    found = [(item.uri, item.bytes, item.version) for item in list_input(str(listed))]
    assert [uri for uri, size, _ in found if size] == [*wanted, "memory:///bucket/x.mp4"]
    reasons = [version for _, size, version in found if not size]
    assert reasons == ["cannot be read: it is not there", "cannot be read: it is a folder", *reasons[:1]]


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("zip://a.mp4::s3://bucket/x.zip", "chained"),
        ("simplecache::s3://bucket/a.mp4", "chained"),
        ("s3://bucket/a.mp4::file:///etc/passwd", "chained"),
        ("nosuch://bucket/a.mp4", "nosuch"),
        (f"https://user:{SECRET}@host/a.mp4", "no user name"),
        (f"https://{SECRET}@host/a.mp4", "no user name"),
        (f"ftp://user:{SECRET}@host/a.mp4", "no user name"),
        (f"https://host/a.mp4?X-Amz-Signature={SECRET}", "s3://"),
        (f"https://host/a.mp4?anything={SECRET}", "s3://"),
        (f"s3://bucket/a.mp4?a=b&X-Amz-Signature={SECRET}", "s3://"),
        (f"az://box/a.mp4?sv=2020&sig={SECRET}", "s3://"),
    ],
)
def test_malformed_and_secret_addresses_are_refused(tmp_path, line, words):
    listed = tmp_path / "list.txt"
    listed.write_text(f"# x\n{line}\n")
    for source, prefix in ((line, ""), (str(listed), f"{listed}:2: ")):
        with pytest.raises(ConfigError) as failure:
            list(list_input(source))
        assert words in str(failure.value)
        assert str(failure.value).startswith(prefix)
        assert SECRET not in str(failure.value)


def test_harmless_addresses_are_taken():
    for address in ("s3://bucket/a?b.mp4", "s3://bucket/a::b@c.mp4", "s3://bucket/clip_?.mp4", "memory://a&key=1"):
        locate(address)
    assert locate("~/x")[1] == os.path.expanduser("~/x")
    assert locate("s3://bucket/a::b.mp4")[1] == "bucket/a::b.mp4"


@pytest.mark.parametrize("name", ["x::file:///etc/hostname", "a::b.mp4", "zip://x::y.mp4", "file:x", "a?b#c%41.mp4"])
def test_names_from_a_listing_are_taken_literally(tmp_path, name):
    (path,) = files(tmp_path, name) if "://" not in name else [str(tmp_path / name)]
    if "://" in name:
        files(tmp_path, name)
    assert path in [os.path.normpath(uri) for uri in names(list_input(str(tmp_path)))] or "//" in name
    fs, found = open_source(path)
    assert isinstance(fs, LocalFileSystem)
    assert os.path.normpath(found) == os.path.normpath(path)
    for remote in (f"s3://bucket/{name}", f"gs://bucket/{name}", f"https://host/{name}"):
        try:
            fs, found = open_source(remote)
        except ImportError:
            continue
        assert found.endswith(f"bucket/{name}") or found == remote
        assert fs.protocol[0] in ("s3", "gs", "gcs", "http")


def test_remote_folders(memory):
    for name in ("b/2.mp4", "a.mp4", "b/1.mp4", "out/media/x.mp4", "c/d/e.mp4"):
        memory.pipe(f"/bucket/{name}", b"x")
    found = names(list_input("memory://bucket", exclude="memory://bucket/out"))
    assert [uri.partition("bucket/")[2] for uri in found] == ["a.mp4", "b/1.mp4", "b/2.mp4", "c/d/e.mp4"]
    assert len(names(list_input("memory://bucket/b/*.mp4"))) == 2
    with pytest.raises(ConfigError, match="cannot list"):
        list(list_input("memory://bucket/nothing"))


def test_a_driver_that_fails_is_a_wrong_configuration(memory, monkeypatch):
    class NoCredentialsError(Exception):
        pass

    def fail(*arguments, **options):
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(MemoryFileSystem, "isdir", fail)
    with pytest.raises(ConfigError, match="Unable to locate credentials"):
        list(list_input("memory://bucket"))


class Pages:
    """What s3fs is asked for, answered with pages of 1,000 of a million keys."""

    protocol = ("s3", "s3a")
    req_kw: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, count: int):
        self.count, self.asked = count, 0

    def call_s3(self, method: str, Bucket: str, Prefix: str, ContinuationToken: str = "0"):
        assert (method, Bucket) == ("list_objects_v2", "bucket")
        self.asked += 1
        start = int(ContinuationToken)
        keys = [f"{Prefix}{n:07d}.mp4" for n in range(start, min(start + 1000, self.count))]
        page = {"Contents": [{"Key": key, "Size": 1, "ETag": f'"{key}"'} for key in keys]}
        more = start + 1000 < self.count
        return page | {"IsTruncated": more} | ({"NextContinuationToken": str(start + 1000)} if more else {})

    def unstrip_protocol(self, name: str) -> str:
        return f"s3://{name}"


def test_buckets_are_listed_page_by_page(monkeypatch):
    fs = Pages(1_000_000)
    monkeypatch.setattr("curation.ingest.locate", lambda address: (fs, "bucket/raw"))
    first = list(itertools.islice(list_input("s3://bucket/raw"), 1500))
    assert fs.asked == 2
    assert (first[1499].uri, first[1499].version) == ("s3://bucket/raw/0001499.mp4", "raw/0001499.mp4")
    monkeypatch.setattr("curation.ingest.locate", lambda address: (Pages(3000), "bucket/raw/*99.mp4"))
    assert len(names(list_input("s3://bucket/raw/*99.mp4"))) == 30


class Shaky:
    """A filesystem whose files fail as told, then work."""

    def __init__(self, *errors: Exception):
        self.errors = list(errors)

    def open(self, path, mode, **options):
        if self.errors:
            raise self.errors.pop(0)
        return fsspec.filesystem("memory").open("/x", "rb")


@pytest.mark.parametrize(
    ("error", "again", "retryable"),
    [
        (TimeoutError("read timed out"), True, True),
        (ConnectionResetError(104, "reset by peer"), True, True),
        (OSError("503 Slow Down https://h/x?X-Amz-Signature=hunter2"), True, True),
        (PermissionError("403 expired token"), False, True),
        (FileNotFoundError("gone"), False, False),
        (ValueError("no such thing"), False, False),
    ],
)
def test_what_fails_in_passing_is_tried_again(memory, tmp_path, monkeypatch, error, again, retryable):
    monkeypatch.setattr(fetch, "open_source", lambda uri: (shaky, "/x"))
    import stamina

    stamina.set_testing(True, attempts=4)
    memory.pipe("/x", b"data")
    try:
        shaky = Shaky(error)
        if again:
            with fetched("s3://b/x", tmp_path, lambda: None) as (path, digest):
                assert path.read_bytes() == b"data"
                assert digest == hashlib.sha256(b"data").hexdigest()
        shaky = Shaky(*[error] * 9)
        with (
            pytest.raises(FetchFailed, match="cannot be read: ") as failure,
            fetched("s3://b/x", tmp_path, lambda: None),
        ):
            pass
        assert failure.value.retryable == retryable
        assert len(shaky.errors) == (5 if again else 8)
        assert SECRET not in str(failure.value)
    finally:
        stamina.set_testing(False)


def test_a_full_scratch_is_an_error_of_the_run(memory, tmp_path, monkeypatch):
    memory.pipe("/x", b"data" * 100)
    monkeypatch.setattr(fetch, "open_source", lambda uri: (memory, "/x"))
    full = tmp_path / "source"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as failure, fetched("s3://b/x", tmp_path, lambda: None):
        pass
    assert not isinstance(failure.value, FetchFailed)


def test_what_beat_raises_goes_through_at_once(memory, tmp_path, monkeypatch):
    memory.pipe("/x", b"data")
    monkeypatch.setattr(fetch, "open_source", lambda uri: (memory, "/x"))
    calls = []

    def beat() -> None:
        calls.append(1)
        raise OSError("stop")

    with pytest.raises(OSError, match="stop"), fetched("s3://b/x", tmp_path, beat):
        pass
    assert len(calls) == 1


def test_a_local_file_that_changes_or_is_none(tmp_path):
    (path,) = files(tmp_path, "a.mp4")
    with pytest.raises(FetchFailed, match="changed while") as failure, fetched(path, tmp_path, lambda: None):
        Path(path).write_bytes(b"other")
    assert failure.value.retryable
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("pipe", "not a regular file"), ("gone", "it is gone")):
        with pytest.raises(FetchFailed, match=words) as failure, fetched(f"{tmp_path}/{name}", tmp_path, lambda: None):
            pass
        assert not failure.value.retryable


def test_samples_of_a_listing_are_stable(tmp_path):
    files(tmp_path, *(f"{n}.mp4" for n in range(200)))
    items = list(list_input(str(tmp_path)))
    some = names(sampled(items, 0.1, None))
    assert 5 < len(some) < 40
    assert names(sampled(items, 0.1, 3)) == some[:3]
    assert set(names(sampled(items, 0.3, None))) > set(some)
