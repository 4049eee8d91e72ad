"""Whole runs of `rushes curate` whose processes are killed at named points, and what may be left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers_curate import FRAMES, ROOT, command, table
from helpers_media import ffmpeg

Point = tuple[str, str, str]  # role, event, place: see kill_points.py

DECODED = ("worker", "os.mkdir", "tracks")  # a decode begins


@dataclass(frozen=True)
class Done:
    """How a run ended, and all that it said."""

    code: int
    text: str


class Place:
    """A run's folders, and the hook that all its processes load."""

    def __init__(self, base: Path, raw: Path):
        self.raw, self.output, self.scratch, self.hook = raw, base / "dataset", base / "scratch", base / "hook"
        self.hook.mkdir(parents=True)
        shutil.copy(ROOT / "tests" / "kill_points.py", self.hook / "sitecustomize.py")
        self.config = base / "config.yaml"
        self.config.write_text(FRAMES.read_text().replace("select:", "  - kind: embedding\nselect:"))

    def start(self, **plan: object) -> subprocess.Popen[str]:
        roots = {"dataset": str(self.output), "scratch": str(self.scratch)}
        (self.hook / "plan.json").write_text(json.dumps({"roots": roots, **plan}))
        settings = (f"input={self.raw}", f"output={self.output}", f"scratch={self.scratch}", "ray.workers=2")
        return subprocess.Popen(
            command("curate", self.config, "report.enabled=false", *settings),
            env={**os.environ, "PYTHONPATH": f"{self.hook}{os.pathsep}{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **plan: object) -> Done:
        return self.end(self.start(**plan))

    def end(self, process: subprocess.Popen[str]) -> Done:
        out, error = process.communicate(timeout=280)
        return Done(process.returncode, out + error)

    @property
    def committed(self) -> int:
        return len(list((self.output / "scan").glob("*.parquet"))) if (self.output / "scan").exists() else 0

    @property
    def killed(self) -> bool:
        return (self.hook / "killed").exists()

    def changes(self) -> Iterator[tuple[Point, int]]:
        """Each change, and which of its kind it was in its process."""
        for line in (self.hook / "changes.txt").read_text().splitlines():
            role, _, event, name, count = json.loads(line)
            yield (role, event, name), count

    def decodes(self) -> int:
        role, event, name = DECODED
        return sum(p[0] == role and p[1] == event and p[2].endswith(name) for p, _ in self.changes())

    def assert_tidy(self) -> None:
        known = {row["media"] for row in table(self.output, "clips")} - {None}
        media = {str(path.relative_to(self.output)) for path in (self.output / "media").rglob("*.mp4")}
        assert media == known
        assert not list(self.output.glob(".tmp/*"))
        assert not list(self.scratch.iterdir())
        assert not (self.output / "runs" / "writer.lock").exists()


def make_raw(folder: Path, samples: Path) -> Path:
    """22 videos with bytes of their own, a copy, and something that is none."""
    for number in range(22):
        name = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")[number % 3]
        metadata = ("-t", 4, "-c", "copy", "-metadata", f"title={number}")
        ffmpeg("-i", samples / name, *metadata, folder / f"video{number:02}.mp4")
    shutil.copy(folder / "video00.mp4", folder / "twin.mp4")
    (folder / "broken.mp4").write_bytes(b"nothing")
    return folder
