"""Running `rushes` as its users do, and comparing what it leaves."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "default.yaml"
FRAMES = ROOT / "tests" / "frames.yaml"  # what is not about picture scorers does without loading models
VOLATILE = {"uri", "duplicate_of"}  # where the data lies is not what it is


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "orchestration.cli", *map(str, arguments)]


def rushes(*arguments: object, code: int = 0, **environment: str) -> str:
    """Output of a command that must end with `code`."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=280,
        check=False,
        cwd="/",
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def curate(
    source: object, output: object, *overrides: str, config: Path = FRAMES, code: int = 0, **environment: str
) -> str:
    settings = ("report.enabled=false", f"input={source}", f"output={output}", *overrides)
    return rushes("curate", config, *settings, code=code, **environment)


def table(output: Path, name: str) -> list[dict[str, Any]]:
    """Rows of a published table, sorted by their text."""
    rows = ds.dataset(output / name, format="parquet").to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row.get("clip_id") or row.get("uri")))


def contents(output: Path) -> dict[str, Any]:
    """What two runs over the same input must share: sorted tables, vectors, and the hash of every file below media/."""
    found: dict[str, Any] = {}
    for name in ("videos", "clips", "selection.parquet"):
        rows = [{key: value for key, value in row.items() if key not in VOLATILE} for row in table(output, name)]
        found[name] = sorted(rows, key=str)
    if (output / "embeddings").exists():
        for row in table(output, "embeddings"):
            found |= {f"vector of {clip['clip_id']}": clip["vector"] for clip in row["clips"]}
    for path in sorted((output / "media").rglob("*")):
        if path.is_file():
            found[str(path.relative_to(output))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def decoders_of(name: str) -> list[psutil.Process]:
    """Guarded child processes that have a file of that name open."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if "sandbox._serve" not in " ".join(process.info["cmdline"] or []):
            continue
        with contextlib.suppress(psutil.Error):
            if any(Path(file.path).name == name for file in process.open_files()):
                found.append(process)
    return found


@contextlib.contextmanager
def signalled(victims: dict[str, signal.Signals]) -> Iterator[set[str]]:
    """While the block runs, decoders that open a file named in `victims` get its signal. Yields those that were hit."""
    hit: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for name, number in victims.items():
                for process in decoders_of(name):
                    with contextlib.suppress(psutil.Error):
                        process.send_signal(number)
                        hit.add(name)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield hit
    finally:
        stop.set()
        thread.join()


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the driver alone; what it started must follow by itself.

    Ray's own agents take up to two minutes to notice; they hold nothing of a dataset.
    """
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    left = [name for child in alive if "Agent" not in (name := " ".join(_cmdline(child)))]
    assert not left, f"left behind: {left}"


def ray_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Ray's actor processes that hold our workers."""
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if re.search(r"MapWorker|_alone", " ".join(_cmdline(child)))]
    return []


def _cmdline(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def wait_for(condition: Any, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
