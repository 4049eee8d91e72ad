"""Checkpoints count only when they are whole: cut off, damaged and half-written ones are passed over by name."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from train import checkpoints
from train.checkpoints import Checkpoint


def write(folder: Path) -> None:
    (folder / "state.pt").write_bytes(bytes(range(256)) * 40)
    (folder / "more.bin").write_bytes(folder.name.encode())


def saved(root: Path, *steps: int) -> Path:
    for step in steps:
        checkpoints.save(root, step, {"seconds": step / 2}, write)
    return root


def newest(root: Path) -> tuple[int | None, str]:
    """Its step, and what is said of others."""
    console = Console(file=io.StringIO(), record=True, width=300)
    found = checkpoints.newest(root, console)
    return (found.step if found else None), console.export_text()


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def flip(folder: Path) -> None:
    content = bytearray((folder / "state.pt").read_bytes())
    content[5000] ^= 8
    (folder / "state.pt").write_bytes(content)


def test_what_is_saved_is_found_with_its_facts(tmp_path: Path):
    assert newest(tmp_path / "none") == (None, "")
    root = saved(tmp_path / "checkpoints", 9, 10, 100)
    found = checkpoints.newest(root, Console(quiet=True))
    assert found == Checkpoint(root / "step-00000100", 100, {"seconds": 50.0})
    assert (root / "step-00000100" / "state.pt").stat().st_size == 10240
    complete = json.loads((root / "step-00000100" / "COMPLETE.json").read_text())
    assert set(complete["files"]) == {"state.pt", "more.bin"}
    assert newest(root) == (100, "")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: os.truncate(folder / "state.pt", 10_000), "state.pt has 10,000 bytes in place of 10,240"),
        (lambda folder: os.truncate(folder / "more.bin", 0), "more.bin has 0 bytes in place of 21"),
        (flip, "state.pt is damaged: its SHA-256 is another"),
        (lambda folder: (folder / "more.bin").unlink(), "more.bin is missing"),
        (lambda folder: (folder / "COMPLETE.json").unlink(), "COMPLETE.json is missing, it was cut off"),
        (lambda folder: os.truncate(folder / "COMPLETE.json", 40), "COMPLETE.json cannot be read"),
        (lambda folder: (folder / "COMPLETE.json").write_text("[]"), "COMPLETE.json cannot be read"),
        (lambda folder: (folder / "COMPLETE.json").write_text('{"step": 3}'), "COMPLETE.json cannot be read"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "COMPLETE.json is missing"),
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_it_taken(tmp_path: Path, damage, said: str):
    root = saved(tmp_path, 10, 20, 30)
    damage(root / "step-00000030")
    step, text = newest(root)
    assert step == 20
    assert text.count("passed over") == 1
    assert f"{root / 'step-00000030'} is passed over: {said}" in text
    flip(root / "step-00000020")
    step, text = newest(root)
    assert step == 10
    assert text.count("passed over") == 2
    shutil.rmtree(root / "step-00000010")
    assert newest(root)[0] is None


def test_a_half_written_one_is_none(tmp_path: Path):
    root = saved(tmp_path, 10)

    def killed(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(root, 20, {}, killed)
    assert names(root) == ["step-00000010", "step-00000020.writing"]
    assert newest(root) == (10, "")
    saved(root, 20)  # over what the kill left
    assert newest(root) == (20, "")
    assert names(root) == ["step-00000010", "step-00000020"]


def test_saving_again_replaces_a_damaged_one(tmp_path: Path):
    root = saved(tmp_path, 10, 20)
    flip(root / "step-00000020")
    saved(root, 20)
    assert newest(root) == (20, "")


@pytest.mark.parametrize(
    ("last", "every", "kept"),
    [(1, None, [90]), (2, None, [80, 90]), (2, 30, [30, 60, 80, 90]), (1, 45, [90]), (20, None, range(10, 100, 10))],
)
def test_the_last_ones_stay_and_each_kth(tmp_path: Path, last: int, every: int | None, kept):
    root = saved(tmp_path, *range(10, 100, 10))
    (root / "step-00000095.writing").mkdir()
    (root / "notes").mkdir()
    checkpoints.prune(root, 90, last, every)
    assert names(root) == ["notes", *(f"step-{step:08d}" for step in kept)]


@pytest.mark.parametrize("last", [1, 2])
def test_what_was_just_saved_stays_where_later_ones_are_damaged(tmp_path: Path, last: int):
    """A run that went on from step 10 saves 15 beside damaged 20 and 30: these are no reason to remove it."""
    root = saved(tmp_path, 10, 20, 30)
    for step in (20, 30):
        flip(root / f"step-{step:08d}")
    assert newest(root)[0] == 10
    saved(root, 15)
    checkpoints.prune(root, 15, last, None)
    assert newest(root) == (15, "")
    assert names(root) == [f"step-{step:08d}" for step in ([15] if last == 1 else [10, 15])]
