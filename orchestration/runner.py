"""Ray Data as the engine: rows in, receipts out; every row is accounted for, whatever dies.

A worker commits each row itself before it returns the receipt, and committing twice is harmless, so a row that Ray
tries again costs one look at the ledger. Ray Data's own checkpoints are not needed for that: they commit a block at a
time and filter the input in a stage of their own, which takes CPUs from the workers.

First pass: Ray Data streams the rows through a pool of actors, without retries. Second pass: what is still not finished
runs again, a task a row. What kills its worker there as well is given to `crashed`.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.errors import RushesError
from orchestration.interrupt import interrupt_main
from orchestration.runs import log
from orchestration.session import Engine

BEAT_S = 1.0


class Worker(Protocol):
    """Made once in an actor; called for one row, it commits the row and returns a receipt (JSON values).

    `beat(frames, label)` reports progress inside a row; it may be called at any rate.
    """

    def __call__(self, row: dict[str, Any], beat: Callable[[int, str], None]) -> dict[str, Any]: ...


class WorkerFailed(RushesError):
    """Workers raise errors: a fault of the installation, the storage or of ours, not of a video."""


class Stalled(RushesError):
    """Nothing moved for `stall_s`."""


def run_rows(
    engine: Engine,
    listing: Sequence[str],
    worker: Callable[[], Worker],
    *,
    key: str,
    is_committed: Callable[[str], bool],
    crashed: Callable[[dict[str, Any], str], dict[str, Any]],
    on_progress: Callable[[int, list[str]], None],
) -> Generator[dict[str, Any]]:
    """Run `worker` on every row of the Parquet files `listing`; yields the receipts as they come.

    `key` names a row. `crashed(row, reason)` commits a row that killed its worker twice, unless `is_committed(key)`,
    and returns its receipt. `on_progress(frames, busy)` is called about once a second. Raises WorkerFailed where a
    worker raises an error in both passes, Stalled where nothing moves.
    """
    import ray

    board = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(_Board).remote()
    with _Watch(board, engine.config.stall_s, on_progress):
        for name in listing:
            rows = pq.read_table(name)
            seen: set[str] = set()
            for receipt in _first_pass(engine, rows, worker, board):
                seen.add(receipt["key"])
                yield receipt
            left = [row for row in rows.to_pylist() if row[key] not in seen]
            if left:
                log.warning("%d rows were not finished in the first pass; each runs alone now", len(left))
                yield from _second_pass(engine, left, worker, board, key, is_committed, crashed)


def _first_pass(engine: Engine, rows: pa.Table, worker: Callable[[], Worker], board: Any) -> Iterator[dict[str, Any]]:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a block that failed is found missing, and its row runs alone in the second pass
    # A row a block: what a dead worker repeats is one video. Made here and not read by Ray, the blocks need no stage of
    # their own that would compete with the workers for CPUs.
    dataset = ray.data.from_arrow([rows.slice(row, 1) for row in range(rows.num_rows)])
    receipts = dataset.map_batches(
        _Actor,
        fn_constructor_args=(worker, board),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(engine.workers, rows.num_rows), max_tasks_in_flight_per_actor=1),
        num_cpus=engine.config.worker_cpus,
        num_gpus=engine.config.worker_gpus or None,
        max_restarts=1000,
        max_task_retries=0,
    )
    try:
        for batch in receipts.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            yield from (json.loads(text) for text in batch.column("receipt").to_pylist())
    except ray.exceptions.RayError as error:
        log.warning("the first pass ended early: %s", error)


def _second_pass(
    engine: Engine,
    rows: list[dict[str, Any]],
    worker: Callable[[], Worker],
    board: Any,
    key: str,
    is_committed: Callable[[str], bool],
    crashed: Callable[[dict[str, Any], str], dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    import ray

    config = engine.config
    single = ray.remote(max_retries=0, num_cpus=config.worker_cpus, num_gpus=config.worker_gpus)(_alone)
    waiting = iter(rows)
    running: dict[Any, dict[str, Any]] = {}
    while True:
        while len(running) < engine.workers and (row := next(waiting, None)) is not None:
            running[single.remote(worker, board, row)] = row
        if not running:
            return
        (done,), _ = ray.wait(list(running))
        row = running.pop(done)
        try:
            receipt = ray.get(done)
        except (ray.exceptions.RaySystemError, ray.exceptions.RayTaskError) as error:
            # Workers turn what is wrong with a video into its row; what they raise is wrong with us or the storage.
            raise WorkerFailed(f"a worker failed on {row.get('uri', row[key])}: {_cause(error)}") from error
        except ray.exceptions.RayError as error:
            if is_committed(row[key]):
                continue
            log.error("%s died twice: %s", row[key], error)
            receipt = crashed(row, "crashed: its worker process died twice")
        yield receipt


def _alone(worker: Callable[[], Worker], board: Any, row: dict[str, Any]) -> dict[str, Any]:
    return _Actor(worker, board).one(row)


def _cause(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"


class _Actor:
    """Holds one worker; passes rows in and receipts out."""

    def __init__(self, worker: Callable[[], Worker], board: Any):
        self._worker, self._board = worker(), board
        self._name = uuid.uuid4().hex
        self._last = 0.0

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        return {"receipt": [json.dumps(self.one(row)) for row in batch.to_pylist()]}

    def one(self, row: dict[str, Any]) -> dict[str, Any]:
        receipt = self._worker(row, self._beat)
        self._board.done.remote(self._name, receipt.get("frames", 0))
        return receipt

    def _beat(self, frames: int, label: str) -> None:
        if time.monotonic() - self._last >= BEAT_S:
            self._last = time.monotonic()
            self._board.beat.remote(self._name, frames, label)


class _Board:
    """A Ray actor on which workers write what they are doing."""

    def __init__(self) -> None:
        self._busy: dict[str, tuple[int, str]] = {}
        self._frames = self._messages = 0

    def beat(self, worker: str, frames: int, label: str) -> None:
        self._messages += 1
        self._busy[worker] = (frames, label)

    def done(self, worker: str, frames: int) -> None:
        self._messages += 1
        self._frames += frames
        self._busy.pop(worker, None)

    def look(self) -> tuple[int, int, list[str]]:
        """(messages so far, frames so far, what is being worked on)"""
        frames = self._frames + sum(count for count, _ in self._busy.values())
        return self._messages, frames, [label for _, label in self._busy.values()]


class _Watch:
    """A thread that looks at the board about once a second, and interrupts a run that does not move."""

    def __init__(self, board: Any, stall_s: float, on_progress: Callable[[int, list[str]], None]):
        self._board, self._stall, self._report = board, stall_s, on_progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watch")
        self.stalled: Stalled | None = None

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.stalled is not None and kind is KeyboardInterrupt:
            raise self.stalled

    def _watch(self) -> None:
        import ray

        last, moved = -1, time.monotonic()
        while not self._stop.wait(BEAT_S):
            try:
                messages, frames, busy = ray.get(self._board.look.remote(), timeout=BEAT_S * 10)
            except ray.exceptions.RayError:
                messages, frames, busy = last, 0, []
            if messages != last:
                last, moved = messages, time.monotonic()
                self._report(frames, busy)
            elif time.monotonic() - moved > self._stall:
                stage = f"while working on {', '.join(busy[:3])}" if busy else "and no worker has started a row"
                self.stalled = Stalled(
                    f"nothing moved for {self._stall:g} s {stage}. Is the machine out of CPUs or memory?"
                )
                interrupt_main()
                return
