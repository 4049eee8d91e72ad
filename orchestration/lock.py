"""One writer a dataset. The lock file names its holder; a holder that died is noticed and replaced."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid

import psutil

from orchestration.errors import RushesError
from orchestration.storage import Storage

NAME = "runs/writer.lock"
BEAT_S = 10.0
STALE_S = 60.0


class Locked(RushesError):
    """Another run is writing to the dataset."""


class WriterLock:
    """Context manager. The holder renews the lock every 10 s; one not renewed for 60 s, or whose process on this host is
    gone, is taken over. Where the store has conditional writes, two runs that start at once cannot both get it; elsewhere
    the later writer wins and the earlier one sees it at once."""

    def __init__(self, storage: Storage, command: str):
        self._storage = storage
        self._mine = {
            "id": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _process_start(os.getpid()),
            "command": command,
        }
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> WriterLock:
        holder = self._holder()
        if holder is not None:
            if not _is_gone(holder):
                raise Locked(
                    f"{self._storage.uri} is being written by `rushes {holder.get('command')}` "
                    f"(process {holder.get('pid')} on {holder.get('host')}). Wait for it or stop it; "
                    f"a lock whose holder died is taken over after {STALE_S:g} s."
                )
            self._storage.remove(NAME)
        self._create()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="writer-lock")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if (self._holder() or {}).get("id") == self._mine["id"]:
            self._storage.remove(NAME)

    def _create(self) -> None:
        data = self._data()
        path = self._storage.path(NAME)
        if self._storage.local:
            target = self._storage.local_path(NAME)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with target.open("xb") as file:
                    file.write(data)
            except FileExistsError as error:
                raise Locked(f"{self._storage.uri}: another run took the lock at the same moment; try again") from error
            return
        try:
            self._storage.fs.pipe_file(path, data, mode="create")
        except FileExistsError as error:
            raise Locked(f"{self._storage.uri}: another run took the lock at the same moment; try again") from error
        if (self._holder() or {}).get("id") != self._mine["id"]:
            raise Locked(f"{self._storage.uri}: another run took the lock at the same moment; try again")

    def _data(self) -> bytes:
        return json.dumps({**self._mine, "renewed": time.time()}).encode()

    def _holder(self) -> dict | None:
        try:
            return json.loads(self._storage.read_bytes(NAME))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}  # half-written by a holder that died

    def _renew(self) -> None:
        while not self._stop.wait(BEAT_S):
            self._storage.write_bytes(NAME, self._data())


def _is_gone(holder: dict) -> bool:
    if holder.get("host") == socket.gethostname() and "pid" in holder:
        return _process_start(holder["pid"]) != holder.get("started")
    return time.time() - holder.get("renewed", 0) > STALE_S


def _process_start(pid: int) -> float | None:
    """When the process started, so that a number that was given out again is not taken for the old one."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
