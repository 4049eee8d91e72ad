"""One writer a dataset. The lock file names its holder; a holder that died is noticed and replaced.

In a local folder the kernel keeps the lock (flock on the lock file): of all processes of a machine, whatever container
they are in, exactly one has it, and it is free the moment that process dies. Machines that share the folder respect
each other's text as they would a lease. In a bucket the lock is a lease; lease.py says what holds there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from typing import Any

from orchestration.errors import ConfigError, RushesError
from orchestration.interrupt import interrupt_main
from orchestration.lease import STALE_S, Lease, identity, is_fresh, parse, text
from orchestration.storage import Storage

NAME = "runs/writer.lock"
BEAT_S = 10.0


class Locked(RushesError):
    """Another run is writing to the dataset."""


class LockLost(RushesError):
    """Somebody else may be writing to the dataset now; this run had to stop."""


class WriterLock:
    """Context manager. When the lock is lost, the main thread is interrupted and the block ends with LockLost."""

    def __init__(self, storage: Storage, command: str):
        self._uri = storage.uri
        self._place = _LockFile(storage) if storage.local else Lease(storage, NAME)
        self._mine = {**identity(), "command": command}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="writer-lock")
        self._lost = ""

    def __enter__(self) -> WriterLock:
        holder = self._place.take(self._mine)
        if holder is not None:
            who = "process {pid} on {host}".format(**{"pid": "?", "host": "?", **holder})
            raise Locked(
                f"{self._uri} is being written by `rushes {holder.get('command', '?')}` ({who}). "
                f"Wait for it or stop it; if it died, the lock is free {STALE_S:g} s later."
            )
        self._thread.start()
        return self

    def check(self) -> None:
        """Raises LockLost if the lock is no longer ours."""
        if self._lost:
            raise LockLost(f"{self._uri}: the writer lock was lost ({self._lost}). Run the same command again")

    def __exit__(self, *_: object) -> None:
        try:
            self._stop.set()
            self._thread.join()
        except KeyboardInterrupt:
            if not self._lost:
                raise
        self.check()
        self._place.release(self._mine)

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(BEAT_S):
            asked = time.monotonic()
            try:
                if self._place.renew(self._mine):
                    renewed = asked
                    continue
                self._lost = "it was taken over or removed"
            except Exception as error:  # the store is away for a moment: asked again, while the lease lasts
                if time.monotonic() - renewed < STALE_S - 2 * BEAT_S:
                    continue
                self._lost = f"it could not be renewed: {error}"
            if not self._stop.is_set():
                interrupt_main()
            return


class _LockFile:
    """A local lock file, under flock as long as its holder lives. Its text speaks to people and to other machines."""

    def __init__(self, storage: Storage):
        self._path = storage.local_path(NAME)
        self._file = -1

    def take(self, mine: dict[str, Any]) -> dict[str, Any] | None:
        """None, or who has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while self._file < 0:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not self._is(file):  # the last holder has just removed it
                    os.close(file)
                    continue
            except OSError as error:
                holder = parse(os.pread(file, 4096, 0))
                os.close(file)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return holder
                raise ConfigError(
                    f"{self._path.parent} is on a filesystem without file locks ({error.strerror})"
                ) from error
            self._file = file
        holder = parse(os.pread(self._file, 4096, 0))
        if holder.get("machine", mine["machine"]) != mine["machine"] and is_fresh(holder):
            os.close(self._file)
            return holder
        self._write(mine)
        return None

    def renew(self, mine: dict[str, Any]) -> bool:
        self._write(mine)  # through the open file: if the name means another file now, that one is not touched
        return self._is(self._file)

    def release(self, mine: dict[str, Any]) -> None:
        if self._is(self._file):
            self._path.unlink()
        os.close(self._file)

    def _is(self, file: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        return False

    def _write(self, mine: dict[str, Any]) -> None:
        data = text(mine)
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))
