"""SIGKILL of driver, worker and decoder: the rerun equals an undisturbed run; on two cores."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from helpers_curate import (
    FRAMES,
    command,
    contents,
    curate,
    decoders_of,
    kill_tree,
    ray_workers,
    table,
    wait_for,
)
from helpers_media import ffmpeg

NAMES = 6  # longer videos, each with bytes of its own


@pytest.fixture(scope="module")
def raw(samples, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for video in samples.glob("*.mp4"):
        shutil.copy(video, folder)
    shutil.copy(samples / "bikes.mp4", folder / "twin.mp4")
    (folder / "broken.mp4").write_bytes(b"nothing")
    for number in range(NAMES):
        ffmpeg(
            "-stream_loop",
            "4",
            "-i",
            samples / "bikes.mp4",
            "-c",
            "copy",
            "-metadata",
            f"title={number}",
            folder / f"long{number}.mp4",
        )
    return folder


@pytest.fixture(scope="module")
def undisturbed(raw, tmp_path_factory) -> dict:
    output = tmp_path_factory.mktemp("undisturbed") / "dataset"
    curate(raw, output, "ray.workers=2")
    return contents(output)


def start(raw: Path, output: Path) -> subprocess.Popen[str]:
    settings = ("report.enabled=false", "ray.workers=2", f"input={raw}", f"output={output}")
    return subprocess.Popen(
        command("curate", FRAMES, *settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )


def committed(output: Path) -> int:
    return len(list((output / "scan").glob("*.parquet"))) if (output / "scan").exists() else 0


def finish(raw: Path, output: Path, undisturbed: dict) -> None:
    curate(raw, output, "ray.workers=2")
    assert contents(output) == undisturbed
    assert not list(output.glob(".tmp/*"))
    known = {row["media"] for row in table(output, "clips")} - {None}
    assert {str(path.relative_to(output)) for path in (output / "media").rglob("*.mp4")} == known


def test_driver_killed_in_the_middle(raw, undisturbed, tmp_path):
    output = tmp_path / "dataset"
    process = start(raw, output)
    wait_for(lambda: committed(output) >= 3)
    kill_tree(process)
    before = committed(output)
    assert 3 <= before < 13
    # A worker whose decoder died first may have left a row that the next run takes again: that video is not finished.
    finished = [path for path in (output / "scan").iterdir() if not any(pq.read_table(path)["retry"].to_pylist())]
    stamps = {path.name: path.stat().st_mtime_ns for path in finished}
    finish(raw, output, undisturbed)
    after = {path.name: path.stat().st_mtime_ns for path in (output / "scan").iterdir()}
    assert {name: after[name] for name in stamps} == stamps, "finished videos were done again"


@pytest.mark.slow
def test_worker_and_decoder_killed_in_the_middle(raw, undisturbed, tmp_path):
    output = tmp_path / "dataset"
    process = start(raw, output)
    wait_for(lambda: decoders_of("long0.mp4") or decoders_of("long1.mp4"))
    for worker in ray_workers(process)[:1]:
        worker.kill()
    assert process.wait(timeout=240) == 0
    assert contents(output) == undisturbed
    finish(raw, output, undisturbed)


def test_interrupt_stops_cleanly_and_the_next_run_goes_on(raw, undisturbed, tmp_path):
    output = tmp_path / "dataset"
    settings = ("report.enabled=false", "ray.workers=2", f"input={raw}", f"output={output}")
    process = subprocess.Popen(
        command("curate", FRAMES, *settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: committed(output) >= 2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(2)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run the same command again" in text
    assert "Traceback" not in text
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert not (output / "runs" / "writer.lock").exists()
    finish(raw, output, undisturbed)
