"""A pass of the engine over many rows, as stages run it: a listing, the progress view, receipts kept as metrics."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from orchestration.progress import Progress
from orchestration.runs import RunFolder

Receipts = Generator[dict[str, Any], None, None]
Moved = Callable[[int, list[str]], None]


def write_listing(
    rows: Iterable[dict[str, Any]], schema: pa.Schema, folder: Path, name: str, per_file: int
) -> tuple[list[str], int]:
    """Parquet files for the runner, and how many rows they hold."""
    files: list[str] = []
    pending: list[dict[str, Any]] = []
    count = 0

    def flush() -> None:
        files.append(str(folder / f"{name}-{len(files):06d}.parquet"))
        pq.write_table(pa.Table.from_pylist(pending, schema), files[-1])
        pending.clear()

    for row in rows:
        pending.append(row)
        count += 1
        if len(pending) >= per_file:
            flush()
    if pending:
        flush()
    return files, count


def follow(
    title: str,
    total: int,
    unit: str,
    start: Callable[[Moved], Receipts],
    run: RunFolder,
    console: Console,
    counted: Sequence[str] = ("ok", "failed"),
) -> None:
    """Take all receipts of a pass. `start(moved)` gives them, and calls `moved(units, labels)` meanwhile.

    A receipt's `frames` are the units that it finishes; the numbers under the names in `counted` are summed and shown.
    """
    counts: Counter[str] = Counter()
    done = 0
    with Progress(title, total, unit, 0, console) as view:

        def moved(now: int, labels: list[str]) -> None:
            view.update(min(now, total), 0, 0, counts, labels)

        with contextlib.closing(start(moved)) as receipts:
            for receipt in receipts:
                done += receipt.get("frames", 0)
                counts.update({name: receipt.get(name, 0) for name in counted})
                run.metric(stage=title.lower(), **receipt)
                view.update(done, 0, 0, counts, [])
