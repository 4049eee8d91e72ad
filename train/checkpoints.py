"""Checkpoints that count only when they are whole.

A checkpoint is a folder `step-NNNNNNNN/`. COMPLETE.json is written last, with the size and SHA-256 of every other file;
what lacks it, or differs from it, was cut off or damaged and is passed over with a warning.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latents.weights import hash_files
from orchestration.runs import log

COMPLETE = "COMPLETE.json"
_NAME = re.compile(r"step-(\d{8})")
_WRITING = ".writing"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint. facts: what `save` was given."""

    folder: Path
    step: int
    facts: Mapping[str, Any]


def save(root: Path, step: int, facts: Mapping[str, Any], write: Callable[[Path], None]) -> Checkpoint:
    """Write the checkpoint of a step: `write` puts its files into the folder it is given. One process calls this."""
    folder = root / f"step-{step:08d}"
    made = folder.with_name(folder.name + _WRITING)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    write(made)
    files = {path.name: {"bytes": _stored(path), "sha256": hash_files([path])} for path in sorted(made.iterdir())}
    complete = made / COMPLETE
    complete.write_text(json.dumps({"step": step, "files": files, "facts": dict(facts)}, indent=1))
    _stored(complete)
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)
    _stored(root)
    return Checkpoint(folder, step, facts)


def newest(root: Path) -> Checkpoint | None:
    """The last checkpoint that is whole; later ones that are not are named in a warning."""
    for folder in sorted(root.glob("step-*"), reverse=True):
        if not _NAME.fullmatch(folder.name):
            continue
        found = read(folder)
        if isinstance(found, Checkpoint):
            return found
        log.warning("checkpoint %s is passed over: %s", folder, found)
    return None


def read(folder: Path) -> Checkpoint | str:
    """The checkpoint in a folder, or what is wrong with it."""
    try:
        content = json.loads((folder / COMPLETE).read_text())
        step, files, facts = content["step"], content["files"], content["facts"]
        for name, file in files.items():
            path = folder / Path(name).name
            if path.stat().st_size != file["bytes"]:
                return f"{name} has {path.stat().st_size:,} bytes in place of {file['bytes']:,}"
            if hash_files([path]) != file["sha256"]:
                return f"{name} is damaged: its SHA-256 is another"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing, it was cut off"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{COMPLETE} cannot be read: {error}"
    return Checkpoint(folder, step, facts)


def prune(root: Path, last: int, every: int | None) -> None:
    """Keep the `last` newest checkpoints and those of steps that `every` divides; half-written ones go."""
    for folder in root.glob(f"step-*{_WRITING}"):
        shutil.rmtree(folder, ignore_errors=True)
    steps = sorted(int(found[1]) for path in root.glob("step-*") if (found := _NAME.fullmatch(path.name)))
    for step in steps[:-last] if last else steps:
        if not every or step % every:
            shutil.rmtree(root / f"step-{step:08d}", ignore_errors=True)


def _stored(path: Path) -> int:
    """Bytes of a file that is on the disk now, not only in memory; of a folder, of no meaning."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return path.stat().st_size
