"""What may happen around a run: full and read-only disks, a data set that vanishes, a second run, a clock that is
wrong, input that changes, signals that come twice. Real processes, on two cores."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers_curate import contents, table, wait_for
from helpers_kills import Done, Place, make_raw

pytestmark = pytest.mark.slow
DAY = 86_400


@pytest.fixture(scope="module")
def raw(samples, tmp_path_factory) -> Path:
    return make_raw(tmp_path_factory.mktemp("raw"), samples)


@pytest.fixture(scope="module")
def expected(raw, tmp_path_factory) -> dict:
    place = Place(tmp_path_factory.mktemp("undisturbed"), raw)
    assert place.run().code == 0
    return contents(place.output)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[None]:
    """A filesystem of its own at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "rushes", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def assert_told(done: Done, *words: str) -> None:
    """The run could not complete, and says why to a person."""
    assert done.code == 1, done.text
    assert "Traceback" not in done.text
    for word in words:
        assert word in done.text.lower(), done.text


def assert_goes_on(place: Place, expected: dict) -> None:
    done = place.run()
    assert done.code == 0, done.text
    assert contents(place.output) == expected
    place.assert_tidy()


@pytest.mark.parametrize("which", ["output", "scratch"])
@pytest.mark.parametrize("megabytes", [0.3, 1])
def test_a_full_disk_ends_the_run_with_its_reason(raw, expected, tmp_path, which, megabytes):
    place = Place(tmp_path, raw)
    folder = getattr(place, which)
    with small_disk(folder, megabytes):
        assert_told(place.run(), "no space left")
        remount(folder, "size=300m")
        assert_goes_on(place, expected)


def test_a_read_only_output_is_refused(raw, expected, tmp_path):
    place = Place(tmp_path, raw)
    with small_disk(place.output, 100):
        remount(place.output, "ro")
        assert_told(place.run(), "read-only")
        remount(place.output, "rw")
        assert_goes_on(place, expected)


def test_an_output_that_vanishes_is_noticed(raw, expected, tmp_path):
    place = Place(tmp_path, raw)
    process = place.start()
    wait_for(lambda: place.committed >= 3)
    shutil.rmtree(place.output)
    assert_told(place.end(process), "run the same command again")
    assert_goes_on(place, expected)


def test_a_second_run_on_a_dataset_is_refused_and_harms_nothing(raw, expected, tmp_path):
    place = Place(tmp_path, raw)
    process = place.start()
    wait_for(lambda: place.committed >= 2)
    assert_told(place.run(), "is being written by `rushes curate`")
    done = place.end(process)
    assert done.code == 0, done.text
    assert contents(place.output) == expected


@pytest.mark.parametrize("off", [-DAY, DAY])
def test_files_whose_times_are_a_day_off(raw, expected, tmp_path, off):
    """As after runs under a wrong clock, or on a share with its own: a killed run is gone on with all the same."""
    place = Place(tmp_path, raw)
    process = place.start()
    wait_for(lambda: place.committed >= 4)
    process.kill()
    process.communicate()
    for path in place.output.rglob("*"):
        os.utime(path, (time.time() + off, time.time() + off), follow_symlinks=False)
    assert_goes_on(place, expected)
    decodes = place.decodes()
    assert decodes <= 24 + 2
    assert_goes_on(place, expected)
    assert place.decodes() == decodes


def test_input_that_changes_during_the_run_is_not_half_taken(raw, samples, tmp_path):
    mine = tmp_path / "raw"
    shutil.copytree(raw, mine)
    place = Place(tmp_path / "run", mine)
    process = place.start()
    wait_for(lambda: place.committed >= 1)
    other = (samples / "carphone_distorted.mp4").read_bytes()
    for number in range(8, 22):
        path = mine / f"video{number:02}.mp4"
        if number % 3 == 0:
            path.write_bytes(other + bytes(number))  # another video in its place
        elif number % 3 == 1:
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.unlink()
    done = place.end(process)
    assert done.code == 0, done.text
    rows = {Path(row["uri"]).name: row for row in table(place.output, "videos")}
    assert len(rows) == 24
    for row in rows.values():
        if row["status"] == "failed" and Path(row["uri"]).name != "broken.mp4":
            assert any(word in row["reason"] for word in ("changed", "gone", "damaged", "not a video", "decode")), row
    again = place.run()
    assert again.code == 0, again.text
    fresh = Place(tmp_path / "fresh", mine)
    assert fresh.run().code == 0
    present = {path.name for path in mine.iterdir()}
    for output in (place.output, fresh.output):
        found = {Path(row["uri"]).name: row for row in table(output, "videos") if Path(row["uri"]).name in present}
        assert present == set(found)
    told = [
        {Path(row["uri"]).name: (row["status"], row["video_id"]) for row in table(output, "videos")}
        for output in (place.output, fresh.output)
    ]
    assert {name: told[0][name] for name in present} == {name: told[1][name] for name in present}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("pause", [0.05, 1.0])
def test_signals_that_come_twice(raw, expected, tmp_path, number, pause):
    place = Place(tmp_path, raw)
    process = place.start()
    wait_for(lambda: place.committed >= 2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    time.sleep(pause)
    process.send_signal(number)
    done = place.end(process)
    if done.code != -signal.SIGTERM:  # while Ray shuts down, its core gives SIGTERM its default meaning for a moment
        assert_told(done, "run the same command again")
        assert not list(place.scratch.iterdir())
    _, alive = psutil.wait_procs(children, timeout=40)
    assert not alive
    assert_goes_on(place, expected)
