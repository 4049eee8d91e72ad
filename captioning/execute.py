"""A job over many clips: rows of chunks through Ray's workers, then, clip by clip, what killed its worker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from captioning.backends.vllm import VllmConfig
from captioning.config import CaptionConfig
from captioning.engine import run_staged
from captioning.job import Job, Row
from captioning.make import makers
from captioning.work import Workers, chunked
from orchestration.progress import Progress
from orchestration.runner import run_rows
from orchestration.runs import RunFolder, log
from orchestration.session import Engine, LazyEngine

CHUNK, ROW = 32, 8  # clips that are committed together, and chunks of a row of the runner
CHUNK_BYTES = 512 * 2**20  # of frames
SPREAD = 4  # rows a worker, where there are so few clips
ROWS_PER_FILE = 500  # of a listing
LISTING = pa.schema([("key", pa.string()), ("uri", pa.string()), ("chunks", pa.string())])


def execute(
    ray: LazyEngine,
    config: CaptionConfig,
    job: Job,
    rows: Iterable[Row],
    total: int,
    what: str,
    scratch: Path,
    run: RunFolder,
    console: Console,
) -> None:
    """Every clip of `rows`, `total` of them, gets a committed row.

    what: names what is made in this run; part of the names of what is committed. Raises RushesError where it cannot
    complete: nobody answers, workers raise errors.
    """
    if not total:
        return
    view = _View(run, console)
    if isinstance(config.captions, VllmConfig):
        view.follow("Captioning", total, lambda moved: run_staged(ray.engine, job, config, rows, what, str(scratch)))
        return
    running = ray.engine
    batch = getattr(config.captions, "batch_size", max(CHUNK, getattr(config.captions, "concurrency", 0)))
    workers = Workers(job, makers(config, job.roles), batch, config.prefetch, config.dataset, str(scratch))
    size = max(1, min(max(CHUNK, batch), math.ceil(total / running.workers)))
    chunks = chunked(rows, lambda row: _bytes(job, row), size, CHUNK_BYTES)
    rows_each = SPREAD if running.workers > 1 else 1  # one alone waits least with all of them in a row
    each = max(1, min(ROW, math.ceil(total / size / (running.workers * rows_each))))
    files = _listing(chunks, each, what, scratch, "together")
    dead: list[Row] = []

    def later(row: dict[str, Any], reason: str) -> dict[str, Any]:
        for chunk in json.loads(row["chunks"]):
            if not job.is_committed(chunk["key"]):
                dead.extend(chunk["clips"])
        return {"key": row["key"], "uri": row["uri"], "status": "crashed", "reason": reason}

    def crashed(row: dict[str, Any], reason: str) -> dict[str, Any]:
        for chunk in json.loads(row["chunks"]):
            if not job.is_committed(chunk["key"]):
                job.commit(chunk["key"], [job.crashed(clip, reason) for clip in chunk["clips"]])
        return {"key": row["key"], "uri": row["uri"], "status": "crashed", "frames": 1, "failed": 1}

    job.setup()  # here as well: what crashed is committed by the driver
    view.follow("Captioning", total, lambda moved: _pass(running, files, workers, later, moved))
    if dead:
        log.warning("%d clips were in chunks whose worker died twice; each is asked alone now", len(dead))
        files = _listing(([clip] for clip in dead), 1, what, scratch, "alone")
        view.follow("Captioning alone", len(dead), lambda moved: _pass(running, files, workers, crashed, moved))


def _pass(
    running: Engine,
    files: Sequence[str],
    workers: Workers,
    crashed: Callable[[dict[str, Any], str], dict[str, Any]],
    moved: Callable[[int, list[str]], None],
) -> Iterator[dict[str, Any]]:
    return run_rows(
        running, files, workers, key="key", is_committed=lambda key: False, crashed=crashed, on_progress=moved
    )


def _bytes(job: Job, row: Row) -> int:
    try:
        plan = job.plan(row)
    except ValueError:  # the worker makes a failed row of it
        return 0
    return plan.bytes if plan is not None else 0


def _listing(chunks: Iterable[Sequence[Row]], each: int, what: str, scratch: Path, name: str) -> list[str]:
    """Parquet files for the runner: `each` chunks a row."""
    files: list[str] = []
    rows: list[dict[str, Any]] = []

    def flush() -> None:
        files.append(str(scratch / f"{name}-{len(files):06d}.parquet"))
        pq.write_table(pa.Table.from_pylist(rows, LISTING), files[-1])
        rows.clear()

    for several in _batched(chunks, each):
        parts = [{"key": chunk_key(what, chunk), "clips": list(chunk)} for chunk in several]
        first = several[0][0]
        rows.append({"key": parts[0]["key"], "uri": str(first["clip_id"]), "chunks": json.dumps(parts)})
        if len(rows) >= ROWS_PER_FILE:
            flush()
    if rows:
        flush()
    return files


def chunk_key(what: str, chunk: Sequence[Row]) -> str:
    """The same clips in the same run have the same name."""
    names = "\0".join([what, *(str(row["clip_id"]) for row in chunk)])
    return hashlib.sha256(names.encode()).hexdigest()[:24]


def _batched(chunks: Iterable[Sequence[Row]], size: int) -> Iterator[list[Sequence[Row]]]:
    pending: list[Sequence[Row]] = []
    for chunk in chunks:
        pending.append(chunk)
        if len(pending) >= size:
            yield pending
            pending = []
    if pending:
        yield pending


class _View:
    """Shows how far a pass is, and keeps its receipts as metrics."""

    def __init__(self, run: RunFolder, console: Console):
        self._run, self._console = run, console

    def follow(self, title: str, total: int, start: Callable[[Callable[[int, list[str]], None]], Any]) -> None:
        """`start(moved)` gives the receipts; it calls `moved(clips, labels)` meanwhile."""
        counts: Counter[str] = Counter()
        done = 0
        with Progress(title, total, "clips", 0, self._console) as view:

            def moved(now: int, labels: list[str]) -> None:
                view.update(min(now, total), 0, 0, counts, labels)

            with contextlib.closing(start(moved)) as receipts:
                for receipt in receipts:
                    done += receipt.get("frames", 0)
                    counts.update({name: receipt.get(name, 0) for name in ("ok", "flagged", "failed")})
                    self._run.metric(stage=title.lower(), **receipt)
                    view.update(done, 0, 0, counts, [])
