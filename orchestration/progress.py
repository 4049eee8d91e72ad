"""One live view of a run: counts, rates, time left. Plain lines, at most one in 30 s, where there is no terminal."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 30.0
RATE_WINDOW_S = 60.0


class Progress:
    """Context manager. `total` items, of which `update` tells how many are done; `frames` counts work inside them."""

    def __init__(self, title: str, total: int, unit: str, total_bytes: int, console: Console):
        self._title, self._total, self._unit, self._total_bytes = title, total, unit, total_bytes
        self._console = console
        self._plain = not self._console.is_terminal
        self._started = self._last_plain = time.monotonic()
        self._done = self._bytes = self._frames = 0
        self._counts: dict[str, int] = {}
        self._busy: list[str] = []
        self._history: deque[tuple[float, int, int]] = deque([(self._started, 0, 0)])
        # Standard error is not the view's: a session sends it to a file.
        self._live = Live(
            console=self._console,
            refresh_per_second=4,
            transient=True,
            get_renderable=self._view,
            redirect_stderr=False,
        )

    def __enter__(self) -> Progress:
        if not self._plain:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._plain:
            self._live.stop()
        if self._total:
            took = _clock(time.monotonic() - self._started)
            word = "stopped at" if kind else "done:"
            self._console.print(f"{self._title} {word} {self._done:,} of {self._total:,} {self._unit} in {took}")

    def update(self, done: int, done_bytes: int, frames: int, counts: dict[str, int], busy: list[str]) -> None:
        """Absolute numbers; `busy` names what is being worked on now."""
        self._done, self._bytes, self._frames, self._counts, self._busy = done, done_bytes, frames, counts, busy
        now = time.monotonic()
        self._history.append((now, frames, done_bytes))
        while len(self._history) > 2 and now - self._history[0][0] > RATE_WINDOW_S:
            self._history.popleft()
        if self._plain and now - self._last_plain >= PLAIN_EVERY_S:
            self._last_plain = now
            self._console.print(f"{self._title}: {self._done:,}/{self._total:,} {self._unit}, {self._facts()}")

    def _facts(self) -> str:
        parts = [f"{count:,} {name}" for name, count in self._counts.items() if count]
        (then, frames, size), now = self._history[0], time.monotonic()
        passed = max(now - then, 1e-3)
        if self._frames > frames:
            parts.append(f"{(self._frames - frames) / passed:,.0f} frames/s")
        if self._bytes > size:
            parts.append(f"{(self._bytes - size) / passed / 1e6:,.1f} MB/s")
        left = self._left()
        if left is not None:
            parts.append(f"about {_clock(left)} left")
        return ", ".join(parts)

    def _left(self) -> float | None:
        """By bytes where sizes are known: one film weighs more than ten snippets."""
        done, total = (self._bytes, self._total_bytes) if self._total_bytes else (self._done, self._total)
        if not done or done >= total:
            return None
        return (time.monotonic() - self._started) / done * (total - done)

    def _view(self) -> Table:
        table = Table.grid(padding=(0, 1))
        share = self._bytes / self._total_bytes if self._total_bytes else self._done / max(1, self._total)
        elapsed = _clock(time.monotonic() - self._started)
        table.add_row(
            Text(self._title, style="bold"),
            ProgressBar(total=1.0, completed=min(1.0, share), width=30),
            f"{self._done:,}/{self._total:,} {self._unit}",
            f"{elapsed}",
        )
        outer = Table.grid()
        outer.add_row(table)
        outer.add_row(Text("  " + self._facts(), style="dim"))
        for name in self._busy[:4]:
            outer.add_row(Text(f"  · {name[-100:]}", style="dim"))
        return outer


def _clock(seconds: float) -> str:
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


@contextlib.contextmanager
def alive(beat: Callable[[], None]) -> Iterator[None]:
    """Reports every few seconds while the block computes what cannot report by itself."""
    stop = threading.Event()

    def report() -> None:
        while not stop.wait(5.0):
            beat()

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
