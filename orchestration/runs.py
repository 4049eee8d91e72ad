"""What every run leaves beside its output: resolved configuration, code revision, metrics and log."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from orchestration.config import Config
from orchestration.storage import Storage

log = logging.getLogger("rushes")


class RunFolder:
    """`runs/RUN_ID/`. Log and metrics are kept locally while the run goes on and stored when it ends."""

    def __init__(self, storage: Storage, command: str, config: Config, scratch: Path):
        self._storage = storage
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        self.run_id = f"{stamp}-{command}-{os.getpid()}"
        self._scratch = scratch / self.run_id
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        self._metrics = (self._scratch / "metrics.jsonl").open("a")
        self.ray_log = self._scratch / "ray.txt"  # what Ray prints
        self.ray_log.touch()
        self._handler = logging.FileHandler(self._scratch / "log.txt")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        self._write("config.yaml", text.encode())
        self._write("revision.json", json.dumps(_revision(), indent=1).encode())

    def metric(self, **values: Any) -> None:
        self._metrics.write(json.dumps({"t": round(time.monotonic() - self._started, 3), **values}) + "\n")

    def close(self) -> None:
        """Stores metrics and log; safe to call twice."""
        if self._metrics.closed:
            return
        log.removeHandler(self._handler)
        self._handler.close()
        self._metrics.close()
        for name in ("metrics.jsonl", "log.txt", "ray.txt"):
            self._write(name, (self._scratch / name).read_bytes())

    def _write(self, name: str, data: bytes) -> None:
        self._storage.write_bytes(f"runs/{self.run_id}/{name}", data)


def _revision() -> dict[str, str]:
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        revision = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = "unknown"
    return {
        "git": revision,
        "rushes": importlib.metadata.version("rushes") if _installed() else "not installed",
        "python": platform.python_version(),
        "machine": platform.platform(),
    }


def _installed() -> bool:
    return any(True for _ in importlib.metadata.Distribution.discover(name="rushes"))
