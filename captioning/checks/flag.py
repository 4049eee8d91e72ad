"""What a check has to say about a caption."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """A mark on a caption; it deletes nothing.

    name: short and stable (`repetition`); filters and tables go by it.
    why: a sentence with the evidence ("4-gram 'a man in a' 7 times").
    """

    name: str
    why: str
