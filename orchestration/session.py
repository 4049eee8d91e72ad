"""A Ray session for one run: started on this machine, or connected to a cluster; quiet, private, and ended cleanly."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestration.config import Config
from orchestration.errors import RushesError
from orchestration.machine import available_memory, usable_cpus

PACKAGES = ("orchestration", "curation", "captioning", "latents", "model", "train")


class RayConfig(Config):
    """Where the work runs."""

    address: str | None = None  # of a running cluster ("auto", "ray://host:10001"); null starts Ray on this machine
    workers: int | None = None  # videos at once; null: one a CPU
    worker_cpus: float = 1.0  # CPUs that Ray reserves for each worker
    worker_gpus: float = 0.0  # GPUs that Ray reserves for each worker's models, as in 0.5; 0: they run on the CPU
    worker_memory_gb: float = 2.0  # that a worker, its decoder and models usually need; bounds how many run at once
    stall_s: float = 900.0  # a run in which no worker reports anything for so long is stopped


class Stopped(RushesError):
    """The user asked the run to stop."""


class Unavailable(RushesError):
    """Ray does not start here, or the cluster cannot be reached."""


@dataclass(frozen=True)
class Engine:
    """A running Ray session, and how many workers fit into it."""

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
    with _diverted_stderr(chatter), _signals():
        import ray

        home = None
        try:
            try:
                if config.address is None:
                    home = _own_folder("ray")
                    workers = _start(config, home)
                else:
                    workers = _connect(config)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                where = f"reach Ray at {config.address}" if config.address else "start Ray"
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise Unavailable(f"cannot {where}: {lines[0]} (all of it: {chatter})") from error
            signal.signal(signal.SIGTERM, _stop)  # Ray has set a handler of its own
            yield Engine(config, workers)
        except (KeyboardInterrupt, SystemExit) as error:
            raise Stopped("stopped. Finished videos are kept; run the same command again to go on.") from error
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not leave processes behind
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            ray.shutdown()
            if home is not None:
                shutil.rmtree(home, ignore_errors=True)


class LazyEngine:
    """Context manager: Ray starts when `engine` is first asked for, which a run without work never does."""

    def __init__(self, config: RayConfig, chatter: Path):
        self._config, self._chatter = config, chatter
        self._context: Any = None
        self._engine: Engine | None = None

    def __enter__(self) -> LazyEngine:
        return self

    @property
    def engine(self) -> Engine:
        if self._context is None:
            self._context = engine(self._config, self._chatter)
            self._engine = self._context.__enter__()
        assert self._engine is not None
        return self._engine

    def __exit__(self, *details: Any) -> None:
        if self._context is not None:
            self._context.__exit__(*details)


def _start(config: RayConfig, home: Path) -> int:
    import ray

    memory = available_memory()
    fitting = max(1, int(memory * 0.8 / (config.worker_memory_gb * 2**30)))
    workers = config.workers or min(usable_cpus(), fitting)
    ray.init(
        # More logical CPUs than the workers take: Ray Data's own tasks must never wait for the workers to end.
        num_cpus=int(workers * config.worker_cpus) + 2,
        include_dashboard=False,
        object_store_memory=int(min(2**29, memory // 8)),
        _temp_dir=str(home),
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    return _with_gpus(config, workers)


def _connect(config: RayConfig) -> int:
    """The cluster's workers get this code as it is here."""
    import ray

    source = Path(__file__).resolve().parents[1]
    modules = [str(source / name) for name in PACKAGES]
    ray.init(
        address=config.address,
        runtime_env={"py_modules": modules},
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    total = ray.cluster_resources().get("CPU", 1)
    return _with_gpus(config, config.workers or max(1, int((total - 1) / config.worker_cpus)))


def _with_gpus(config: RayConfig, workers: int) -> int:
    """No more workers than there are GPUs for: those above it would wait for ever."""
    import ray

    if not config.worker_gpus:
        return workers
    gpus = ray.cluster_resources().get("GPU", 0)
    if gpus < config.worker_gpus:
        raise ValueError(f"ray.worker_gpus is {config.worker_gpus:g}, but Ray sees {gpus:g} GPUs")
    return min(workers, int(gpus / config.worker_gpus))


@contextlib.contextmanager
def _diverted_stderr(chatter: Path) -> Iterator[None]:
    terminal = os.dup(2)
    with chatter.open("a") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Puts the handlers of SIGINT and SIGTERM back."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
