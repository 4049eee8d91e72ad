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

from rich.console import Console

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
    write(begin(root, step))
    return finish(root, step, facts)


def begin(root: Path, step: int) -> Path:
    """An empty folder for the files of a step's checkpoint, which several processes may write."""
    made = writing(root, step)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    return made


def writing(root: Path, step: int) -> Path:
    """Where a step's checkpoint is until it is whole."""
    return root / f"step-{step:08d}{_WRITING}"


def finish(root: Path, step: int, facts: Mapping[str, Any]) -> Checkpoint:
    """What lies in `writing` is all: it becomes the checkpoint of the step. One process calls this."""
    made, folder = writing(root, step), root / f"step-{step:08d}"
    paths = sorted(path for path in made.rglob("*") if path.is_file())
    files = {
        path.relative_to(made).as_posix(): {"bytes": _stored(path), "sha256": hash_files([path])} for path in paths
    }
    complete = made / COMPLETE
    complete.write_text(json.dumps({"step": step, "files": files, "facts": dict(facts)}, indent=1))
    _stored(complete)
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)
    _stored(root)
    return Checkpoint(folder, step, facts)


def newest(root: Path, console: Console) -> Checkpoint | None:
    """The last checkpoint that is whole; later ones that are not are named, to the user and in the log."""
    for folder in sorted(root.glob("step-*"), reverse=True):
        if not _NAME.fullmatch(folder.name):
            continue
        found = read(folder)
        if isinstance(found, Checkpoint):
            return found
        log.warning("checkpoint %s is passed over: %s", folder, found)
        console.print(f"checkpoint {folder} is passed over: {found}", soft_wrap=True, highlight=False)
    return None


def read(folder: Path) -> Checkpoint | str:
    """The checkpoint in a folder, or what is wrong with it."""
    try:
        content = json.loads((folder / COMPLETE).read_text())
        step, files, facts = content["step"], content["files"], content["facts"]
        for name, file in files.items():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                return f"{name} is not in its folder"
            if path.stat().st_size != file["bytes"]:
                return f"{name} has {path.stat().st_size:,} bytes in place of {file['bytes']:,}"
            if hash_files([path]) != file["sha256"]:
                return f"{name} is damaged: its SHA-256 is another"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing, it was cut off"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{COMPLETE} cannot be read: {error}"
    return Checkpoint(folder, step, facts)


def prune(root: Path, step: int, last: int, every: int | None, used: int | None = None) -> None:
    """Keep the `last` newest checkpoints up to that of `step`, which was just saved, those of steps that `every`
    divides, and that of the step `used`. Half-written ones go, and later ones: they were passed over."""
    for folder in root.glob(f"step-*{_WRITING}"):
        shutil.rmtree(folder, ignore_errors=True)
    steps = sorted(int(found[1]) for path in root.glob("step-*") if (found := _NAME.fullmatch(path.name)))
    kept = {at for at in steps if (at == used or (every and at % every == 0)) and at <= step}
    kept |= set([at for at in steps if at <= step][-last:])
    for at in set(steps) - kept:
        shutil.rmtree(root / f"step-{at:08d}", ignore_errors=True)


def _stored(path: Path) -> int:
    """Bytes of a file that is on the disk now, not only in memory; of a folder, of no meaning."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return path.stat().st_size


def changes(was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested configurations, by dotted names."""
    found = []
    for name in sorted({*was, *now}):
        before, after = (_named(side.get(name)) for side in (was, now))
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += changes(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name} was {json.dumps(before)}, is {json.dumps(after)}")
    return found


def _named(value: Any) -> Any:
    """A list by its places."""
    return {str(place): item for place, item in enumerate(value)} if isinstance(value, list) else value
