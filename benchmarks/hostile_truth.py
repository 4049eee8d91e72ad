"""What is known of a made file, by which whatever reads it is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Expected = Literal["ok", "failed", "either", "duplicate"]


@dataclass(frozen=True)
class Made:
    """One file of the set. `numbers` are those that its frames would carry, in order, were nothing broken."""

    name: str  # inside the folder of the set; may be a name that is no UTF-8 (surrogates, as of os.fsdecode)
    kind: str  # row of the table
    source: str  # what it was made of
    expect: Expected
    numbers: tuple[int, ...] = ()
    whole: bool = False  # every one of the frames has to be decoded
    reference: str = ""  # name of the undamaged file that has these frames; empty: the file itself
    other: str = ""  # name of another undamaged file of which there may be frames
    touched: tuple[int, int] | None = None  # bytes [from, to) that were changed or are gone
    rotation: int = 0  # degrees clockwise that players turn it
    size: tuple[int, int] | None = None  # (width, height) as coded
    seconds: float | None = None  # from the first frame's start to the last one's end
    unseen: bool = False  # nothing in the file's format has to give the damage away
    note: str = ""  # what was done


Item = tuple[Made, Callable[[Path], object]]  # a file, and what makes it at a path


def written(made: Made, data: bytes) -> Item:
    """A file of these bytes."""
    return made, lambda path: path.write_bytes(data)
