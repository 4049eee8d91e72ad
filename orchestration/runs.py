"""What every run leaves beside its output: resolved configuration, code revision, metrics and log."""

from __future__ import annotations

import contextlib
import datetime
import getpass
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orchestration.config import Config
from orchestration.lock import WriterLock
from orchestration.storage import Storage
from orchestration.tables import settle

log = logging.getLogger("rushes")


@contextlib.contextmanager
def scratch_folder(storage: Storage, place: str | None) -> Iterator[Path]:
    """A folder for this run only, below `place` or the system's temporary folder; what killed runs of this dataset left
    beside it goes (under the writer lock)."""
    name = hashlib.sha256(storage.path().encode()).hexdigest()[:16]
    ours = Path(place or tempfile.gettempdir()) / f"rushes-{getpass.getuser()}-{name}"
    shutil.rmtree(ours, ignore_errors=True)
    ours.mkdir(parents=True, mode=0o700)
    try:
        yield Path(tempfile.mkdtemp(dir=ours))
    finally:
        shutil.rmtree(ours, ignore_errors=True)


@contextlib.contextmanager
def writing(storage: Storage, config: Config, command: str, scratch: str | None) -> Iterator[tuple[Path, RunFolder]]:
    """What every command that writes a dataset works in: the writer lock, tables that are whole, a scratch folder, and
    the run's folder."""
    with WriterLock(storage, command):
        storage.remove_temporary()
        settle(storage)
        with scratch_folder(storage, scratch) as folder:
            run = RunFolder(storage, command, config, folder)
            try:
                yield folder, run
            except BaseException as error:
                log.error("%s: %s", type(error).__name__, error)
                raise
            finally:
                run.close()


class RunFolder:
    """`runs/RUN_ID/`. Written in place in a local dataset, so that a killed run leaves its log too; for a bucket kept
    in `scratch` and stored when the run ends."""

    def __init__(self, storage: Storage, command: str, config: Config, scratch: Path):
        self._storage = storage
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        self.run_id = f"{stamp}-{command}-{os.getpid()}"
        name = f"runs/{self.run_id}"
        self._folder = storage.local_path(name) if storage.local else scratch / self.run_id
        self._folder.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        self._metrics = (self._folder / "metrics.jsonl").open("a", buffering=1)
        self.ray_log = self._folder / "ray.txt"  # what Ray prints
        self.ray_log.touch()
        self._handler = logging.FileHandler(self._folder / "log.txt")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        storage.write_bytes(f"{name}/config.yaml", text.encode())
        storage.write_bytes(f"{name}/revision.json", json.dumps(_revision(), indent=1).encode())
        log.info("%s started", self.run_id)

    def metric(self, **values: Any) -> None:
        self._metrics.write(json.dumps({"t": round(time.monotonic() - self._started, 3), **values}) + "\n")

    def close(self) -> None:
        """Ends log and metrics; stores them where they are not in place. Safe to call twice."""
        if self._metrics.closed:
            return
        log.info("ended after %.1f s", time.monotonic() - self._started)
        log.removeHandler(self._handler)
        self._handler.close()
        self._metrics.close()
        if not self._storage.local:
            for path in sorted(self._folder.iterdir()):
                self._storage.write_bytes(f"runs/{self.run_id}/{path.name}", path.read_bytes())


def _revision() -> dict[str, str]:
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        revision = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = "unknown"
    return {
        "git": revision,
        "rushes": _version(),
        "python": platform.python_version(),
        "machine": platform.platform(),
    }


def _version() -> str:
    try:
        return importlib.metadata.version("rushes")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
