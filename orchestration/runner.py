"""Ray Data as the engine: rows in, receipts out; every row is accounted for, whatever dies.

A worker commits each row itself before it returns the receipt, and committing twice is harmless, so a row that Ray tries
again costs one look at the ledger. (Ray Data's own checkpoints commit a block at a time, hold every id in the driver, and
add a filter stage that takes a CPU of its own; a dataset of parts named by their key needs none of that.)

First pass: Ray Data streams the listing through a pool of actors, with bounded retries. Second pass: what is still not
committed runs alone, a task a row. What dies there as well is given to `crashed`.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.config import Config
from orchestration.errors import RushesError
from orchestration.runs import log

BEAT_S = 1.0


class RayConfig(Config):
    """Where the work runs."""

    address: str | None = None  # of a running cluster ("auto", "ray://host:10001"); null starts Ray on this machine
    workers: int | None = None  # videos at once; null: one a CPU
    worker_cpus: float = 1.0  # CPUs that Ray reserves for each worker
    worker_memory_gb: float = 1.5  # that a worker and its decoder usually need; bounds how many run at once
    stall_s: float = 900.0  # a run in which no worker reports anything for so long is stopped


class Worker(Protocol):
    """Made once in an actor; called for one row, it commits the row and returns a receipt (JSON values).

    `beat(frames, label)` reports progress inside a row; it may be called at any rate.
    """

    def __call__(self, row: dict[str, Any], beat: Callable[[int, str], None]) -> dict[str, Any]: ...


class Stopped(RushesError):
    """The user asked the run to stop."""


class CannotStart(RushesError):
    """Workers fail before they see a row: a fault of the installation or of access, not of a video."""


class Stalled(RushesError):
    """Nothing moved for `stall_s`."""


@dataclass
class Engine:
    """A Ray session for one run."""

    config: RayConfig
    workers: int


@contextlib.contextmanager
def engine(config: RayConfig, chatter: Path) -> Iterator[Engine]:
    """Start Ray here, or connect to `config.address`; end it afterwards. SIGTERM and Ctrl-C raise Stopped inside.

    What Ray and its C++ core print on standard error goes to the file `chatter` meanwhile.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    if config.address is None:
        _use_token()
    import ray

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    previous = signal.getsignal(signal.SIGTERM)
    home = None
    terminal = os.dup(2)
    with chatter.open("a") as file:
        os.dup2(file.fileno(), 2)
    try:
        if config.address is None:
            memory = psutil.virtual_memory().available
            fitting = max(1, int(memory * 0.8 / (config.worker_memory_gb * 2**30)))
            workers = config.workers or min(cpus, fitting)
            # More logical CPUs than there are: Ray Data's own tasks must never wait for the actors to end.
            logical = int(workers * config.worker_cpus) + 2
            home = _own_folder("ray")
            ray.init(
                num_cpus=logical,
                include_dashboard=False,
                object_store_memory=int(min(2**29, memory // 8)),
                _temp_dir=str(home),
                **quiet,
            )
        else:
            ray.init(address=config.address, ignore_reinit_error=True, **quiet)
            total = ray.cluster_resources().get("CPU", 1)
            workers = config.workers or max(1, int((total - 1) / config.worker_cpus))
        signal.signal(signal.SIGTERM, _stop)  # Ray has set a handler of its own
        yield Engine(config, workers)
    except (KeyboardInterrupt, SystemExit) as error:
        raise Stopped("stopped. Finished videos are kept; run the same command again to go on.") from error
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ray.shutdown()
        if home is not None:
            shutil.rmtree(home, ignore_errors=True)
        os.dup2(terminal, 2)
        os.close(terminal)
        signal.signal(signal.SIGTERM, previous)


def run_rows(
    engine: Engine,
    listing: Sequence[str],
    worker: Callable[[], Worker],
    *,
    key: str,
    is_committed: Callable[[str], bool],
    crashed: Callable[[dict[str, Any], str], dict[str, Any]],
    filesystem: Any = None,
    on_progress: Callable[[int, list[str]], None],
) -> Iterator[dict[str, Any]]:
    """Run `worker` on every row of the Parquet files `listing`; yields the receipts as they come.

    `key` names a row. `is_committed(key)` is asked after the first pass; `crashed(row, reason)` commits a row that killed its worker twice and returns its receipt.
    `on_progress(frames, busy)` is called about once a second.
    """
    import ray

    board = ray.remote(num_cpus=0)(_Board).remote()
    seen: set[str] = set()
    with _Watch(board, engine.config.stall_s, on_progress):
        for receipt in _first_pass(engine, listing, worker, board, filesystem):
            seen.add(receipt["key"])
            yield receipt
        left = [row for row in _rows(listing, filesystem) if row[key] not in seen]
        if left:
            log.warning("%d rows were not finished in the first pass; each runs alone now", len(left))
        single = ray.remote(max_retries=0, num_cpus=engine.config.worker_cpus)(_alone)
        for row in left:
            try:
                receipt = ray.get(single.remote(worker, board, row))
            except ray.exceptions.RaySystemError as error:
                raise CannotStart(f"workers cannot start: {error}") from error
            except ray.exceptions.RayError as error:
                if is_committed(row[key]):
                    continue
                log.error("%s died twice: %s", row[key], error)
                receipt = crashed(row, _reason(error))
            if "cannot_start" in receipt:
                raise CannotStart(f"workers cannot start: {receipt['cannot_start']}")
            yield receipt


def _first_pass(
    engine: Engine, listing: Sequence[str], worker: Callable[[], Worker], board: Any, filesystem: Any
) -> Iterator[dict[str, Any]]:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a block that failed is found missing, and its row runs alone in the second pass
    for name in listing:
        # A row a block: what a dead worker repeats is one video. Made here and not read by Ray, the blocks need no stage
        # of their own that would compete with the workers for CPUs.
        table = pq.read_table(name, filesystem=filesystem)
        dataset = ray.data.from_arrow([table.slice(row, 1) for row in range(table.num_rows)])
        receipts = dataset.map_batches(
            _Actor,
            fn_constructor_args=(worker, board),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(engine.workers, table.num_rows), max_tasks_in_flight_per_actor=1),
            num_cpus=engine.config.worker_cpus,
            max_restarts=1000,
            max_task_retries=0,
        )
        try:
            for batch in receipts.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
                yield from (json.loads(text) for text in batch.column("receipt").to_pylist())
        except ray.exceptions.RayError as error:
            log.warning("the first pass ended early: %s", error)


def _alone(worker: Callable[[], Worker], board: Any, row: dict[str, Any]) -> dict[str, Any]:
    try:
        actor = _Actor(worker, board)
    except Exception as error:  # not the row's fault
        return {"cannot_start": f"{type(error).__name__}: {error}"}
    return actor.one(row)


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
                _thread.interrupt_main()  # the main thread waits inside Ray
                return


def _rows(listing: Sequence[str], filesystem: Any) -> Iterator[dict[str, Any]]:
    for name in listing:
        with pq.ParquetFile(name, filesystem=filesystem) as file:
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()


def _reason(error: Exception) -> str:
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        return f"crashed: {type(error.cause).__name__}: {error.cause}"
    return "crashed: its worker process died twice"


def _use_token() -> None:
    """A secret that only this user can read: other users of the machine cannot talk to this Ray.

    Ray reads mode and token once a process, when it is first imported, so both are set once and before that.
    """
    if os.environ.get("RAY_AUTH_MODE"):
        return
    folder = _own_folder("token")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "token"
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"] = "token", str(path)


def _own_folder(kind: str) -> Path:
    """A temporary folder that names its process; those of processes that were killed are removed on the way."""
    for old in Path(tempfile.gettempdir()).glob(f"rushes-{kind}-*"):
        pid = old.name.split("-")[2]
        if old.stat().st_uid == os.getuid() and pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"rushes-{kind}-{os.getpid()}-"))


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
