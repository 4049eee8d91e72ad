"""Trainings of a tiny VAE, as users run them."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml
from helpers_curate import command, wait_for

TINY: dict[str, Any] = {
    "network": {"channels": [8, 8, 8, 8], "groups": 4, "latent_channels": 4},
    "windows": {"count": 100, "frames": 9, "size": 32, "short_sides": [64, 96], "squares": 2, "held_out": 0.5},
    "stages": [
        {"steps": 4, "frames": 1, "size": 32, "images": 1.0, "image_batch": 2},
        {"steps": 6, "frames": 9, "size": 32, "batch": 1, "images": 0.3, "image_batch": 2, "normalise": True},
    ],
    "loss": {
        "perceptual": 0.01,
        "network": "efficientnet",
        "every": 4,
        "adversarial_start": 6,
        "discriminator_width": 8,
        "r1": 0.1,
    },
    "optimizer": {"warmup": 2},
    "measure": {"windows": 2, "frames": 9, "short_side": 64, "every": 5, "held_out": 2, "interpolations": 1},
    "device": "cpu",
    "threads": 1,
    "log_every": 1,
    "save_minutes": 1e-6,  # after each step
    "prefetch": {"readers": 1},
}
STEPS = 10


def vae_config(path: Path, dataset: Path, output: Path, **settings: Any) -> Path:
    """A configuration file; a mapping in `settings` is laid over the one of TINY."""
    content: dict[str, Any] = {"dataset": str(dataset), "output": str(output), **TINY}
    for name, value in settings.items():
        content[name] = {**content.get(name, {}), **value} if isinstance(value, Mapping) else value
    path.write_text(yaml.safe_dump(content))
    return path


def logged(output: Path) -> dict[int, dict[str, Any]]:
    """What was said of each step, but for the time; later lines count. A line that a kill cut off is none."""
    found: dict[int, dict[str, Any]] = {}
    for line in (output / "metrics.jsonl").read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found.setdefault(row["step"], {}).update({name: value for name, value in row.items() if name != "t"})
    return found


def exact(rows: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """With every bit of its numbers."""
    return {
        step: {name: value.hex() if isinstance(value, float) else value for name, value in row.items()}
        for step, row in rows.items()
    }


def steps_saved(output: Path) -> list[int]:
    """Steps whose checkpoint is there under its name."""
    return sorted(int(path.parent.name[5:]) for path in (output / "checkpoints").glob("step-????????/COMPLETE.json"))


def stopped(path: Path, number: signal.Signals, when: Callable[[], bool], *overrides: str) -> tuple[int, str]:
    """Exit code and output of a training that gets a signal as soon as `when`."""
    with subprocess.Popen(
        command("train-vae", path, *overrides), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/"
    ) as process:
        try:
            wait_for(lambda: when() or process.poll() is not None)
            assert process.poll() is None, f"ended too early:\n{process.communicate()[0]}"
            process.send_signal(number)
            text, _ = process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
    return process.returncode, text
