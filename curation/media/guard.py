"""What a job owes the sandbox while it works on a file: signs of life, and pictures no larger than allowed."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from curation.container import MAX_PIXELS, open_video

# What libav, the muxer and odd timestamps raise; anything else is a fault of ours.
MEDIA_ERRORS = (FFmpegError, ValueError, OSError, ArithmeticError)
FULL = (errno.ENOSPC, errno.EDQUOT)
BEAT_S = 1.0
SPARE = 2**30  # bytes; no packet or picture is as large
SLOW_DISK = 10e6  # bytes a second

T = TypeVar("T")


def fault(error: BaseException) -> str:
    """The reason that a media error gives.

    What the machine lacks is not the clip's fault, and raised: MemoryError, and OSError for a full disk.
    """
    number = getattr(error, "errno", None)
    if number == errno.ENOMEM:  # libav says so, too, of a size that a broken file claims
        bytearray(SPARE)  # raises MemoryError
        return "damaged: it claims a size that nothing has"
    if number in FULL:
        raise OSError(number, "no space left for files in work") from error
    return getattr(error, "strerror", None) or str(error)


@dataclass
class Guard:
    """`send` takes the job's messages. Without a sandbox nobody listens."""

    send: Callable[[dict[str, Any]], None] = lambda message: None
    max_pixels: int = MAX_PIXELS
    _last: float = field(default_factory=time.monotonic)

    def open(self, path: Path) -> tuple[InputContainer, VideoStream]:
        """See container.open_video."""
        return open_video(path, self.max_pixels)

    def beat(self) -> None:
        """Say that the job is alive, about once a second."""
        if time.monotonic() - self._last > BEAT_S:
            self.patience(0)

    def patience(self, seconds: float) -> None:
        """Ask for more time than usual until the next sign of life."""
        self._last = time.monotonic()
        self.send({"patience_s": seconds})

    def rewrites(self, path: Path) -> None:
        """`path` is about to be rewritten in one go."""
        self.patience(path.stat().st_size / SLOW_DISK if path.exists() else 0)

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """The same items, with signs of life."""
        for item in items:
            self.beat()
            yield item
