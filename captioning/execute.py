"""A job over many clips: rows of chunks through Ray's workers, then, clip by clip, what killed its worker."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from captioning.backends.vllm import VllmConfig
from captioning.config import CaptionConfig
from captioning.engine import run_staged
from captioning.job import Job, Row
from captioning.make import makers
from captioning.work import Workers, chunked
from orchestration.passes import Moved, Receipts, follow, write_listing
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
    title: str,
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

    def watched(title: str, count: int, start: Callable[[Moved], Receipts]) -> None:
        follow(title, count, "clips", start, run, console, counted=("ok", "flagged", "failed"))

    if isinstance(config.captions, VllmConfig):
        watched(title, total, lambda moved: run_staged(ray.engine, job, config, rows, what, str(scratch)))
        return
    running = ray.engine
    batch = getattr(config.captions, "batch_size", max(CHUNK, getattr(config.captions, "concurrency", 0)))
    workers = Workers(job, makers(config, job.roles), batch, config.prefetch, config.dataset, str(scratch))
    size = max(1, min(max(CHUNK, batch), math.ceil(total / running.workers)))
    chunks = chunked(rows, lambda row: _bytes(job, row), size, CHUNK_BYTES)
    rows_each = SPREAD if running.workers > 1 else 1  # one alone waits least with all of them in a row
    each = max(1, min(ROW, math.ceil(total / size / (running.workers * rows_each))))
    files, _ = write_listing(_rows(chunks, each, what), LISTING, scratch, "together", ROWS_PER_FILE)
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
    watched(title, total, lambda moved: _pass(running, files, workers, later, moved))
    if dead:
        log.warning("%d clips were in chunks whose worker died twice; each is asked alone now", len(dead))
        files, _ = write_listing(_rows(([clip] for clip in dead), 1, what), LISTING, scratch, "alone", ROWS_PER_FILE)
        watched(f"{title} alone", len(dead), lambda moved: _pass(running, files, workers, crashed, moved))


def _pass(
    running: Engine,
    files: Sequence[str],
    workers: Workers,
    crashed: Callable[[dict[str, Any], str], dict[str, Any]],
    moved: Moved,
) -> Receipts:
    return run_rows(
        running, files, workers, key="key", is_committed=lambda key: False, crashed=crashed, on_progress=moved
    )


def _bytes(job: Job, row: Row) -> int:
    try:
        plan = job.plan(row)
    except ValueError:  # the worker makes a failed row of it
        return 0
    return plan.bytes if plan is not None else 0


def _rows(chunks: Iterable[Sequence[Row]], each: int, what: str) -> Iterator[dict[str, Any]]:
    """Rows of LISTING: `each` chunks a row."""
    for several in _batched(chunks, each):
        parts = [{"key": chunk_key(what, chunk), "clips": list(chunk)} for chunk in several]
        first = several[0][0]
        yield {"key": parts[0]["key"], "uri": str(first["clip_id"]), "chunks": json.dumps(parts)}


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
