"""What is done with a clip: questions about it, round by round, until there is a row to commit.

A job says which frames it wants, asks, and makes a row of the answers. How requests travel is not its business: workers
ask their own backend (work.py), a vLLM engine gets the requests of all clips at once (engine.py).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from captioning.backend import Answer, Request

Row = Mapping[str, Any]  # of the clips table, with its video's columns that reading needs
Role = Literal["pictures", "text"]  # who is asked: the model that sees frames, or the one that only rewrites words


@dataclass(frozen=True)
class FramePlan:
    """Which frames of a clip are wanted. indices: ascending, within the clip. size: (height, width)."""

    indices: tuple[int, ...]
    seconds: tuple[float, ...]  # when each is shown, from the clip's start
    size: tuple[int, int]
    # Rather than `indices` at most as many of the frames that the codec stored whole, which show when the clip is read.
    keyframes: bool = False

    @property
    def bytes(self) -> int:
        return len(self.indices) * self.size[0] * self.size[1] * 3


@dataclass(frozen=True)
class Pictures:
    """A clip's frames as they were planned, or why there are none. frames: [H, W, 3] uint8 RGB each."""

    indices: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    frames: Sequence[np.ndarray] = ()
    reason: str = ""
    passing: bool = False  # the reason may be gone when it is tried again

    def at(self, indices: Sequence[int]) -> Pictures:
        """Those frames only; each of `indices` must be there."""
        places = [self.indices.index(index) for index in indices]
        return Pictures(
            tuple(indices), tuple(self.seconds[place] for place in places), [self.frames[place] for place in places]
        )


@dataclass(frozen=True)
class Round:
    """Questions that can be asked together. Their keys differ, and begin with the clip's id."""

    requests: Sequence[Request]
    by: Role = "pictures"


# Yields rounds, is sent their answers in the order of the requests, returns the row to commit.
Steps = Generator[Round, Sequence[Answer], dict[str, Any]]


class Job(Protocol):
    """Picklable and cheap to make; `setup` is called once in the process that works."""

    @property
    def roles(self) -> Sequence[Role]:
        """Who is asked."""
        ...

    def setup(self) -> None: ...

    def plan(self, row: Row) -> FramePlan | None:
        """The frames wanted of this clip; None: none at all."""
        ...

    def steps(self, row: Row, pictures: Pictures) -> Steps:
        """Never raises for what clip or answers hold: what went wrong is said in the row, as `status` and `reason`."""
        ...

    def crashed(self, row: Row, reason: str) -> dict[str, Any]:
        """The row of a clip that killed its worker each time."""
        ...

    def commit(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        """Store rows under the name `key`; doing so twice does no harm."""
        ...

    def is_committed(self, key: str) -> bool: ...
