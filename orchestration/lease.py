"""A lease on an object: its text names the holder, who renews it every few seconds; after 60 s without it is void.

What holds: where the store honours S3's conditional writes, of all runs that take a lease or take it over at once
exactly one gets it, and nobody renews a lease that is not theirs. On Google Cloud Storage and Azure that is certain for
a lease that is free; two takeovers at once are noticed by reading again a second later, if both writes came within it.

What does not: a holder that was frozen for over a minute may write for some seconds after it wakes, until its next
renewal finds the lease gone and stops the run. Giving it back checks and then removes, in two steps. And the clocks of
two machines must agree to some seconds.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from orchestration.storage import Storage

STALE_S = 60.0
SETTLE_S = 1.0  # after which a lease that was written is read again


class Lease:
    """The lease object `name`. `mine` in its methods is what `identity` returned, and anything else to tell people."""

    def __init__(self, storage: Storage, name: str):
        self._fs, self._path = storage.fs, storage.path(name)
        # How fsspec's drivers say: only if there is no such object.
        self._create = {"overwrite": False} if "abfs" in self._fs.protocol else {"mode": "create"}

    def take(self, mine: dict[str, Any]) -> dict[str, Any] | None:
        """None, or who has it."""
        holder, condition = self._read()
        if holder is not None and not _gone(holder, mine):
            return holder
        self._write(mine, condition)
        time.sleep(SETTLE_S)
        holder = self._read()[0] or {}
        return None if holder.get("id") == mine["id"] else holder

    def renew(self, mine: dict[str, Any]) -> bool:
        """False: somebody else has it, or nobody."""
        holder, condition = self._read()
        if (holder or {}).get("id") != mine["id"]:
            return False
        # A refused write may have been our own: drivers try again when an answer got lost.
        return self._write(mine, condition) or (self._read()[0] or {}).get("id") == mine["id"]

    def release(self, mine: dict[str, Any]) -> None:
        if (self._read()[0] or {}).get("id") == mine["id"]:
            self._fs.rm_file(self._path)

    def _read(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """(holder, arguments of a write that must fail if the lock is no longer as it was read)"""
        try:
            # The tag is asked for before the text: if the lock changes in between, the write does not match.
            tag = self._fs.info(self._path).get("ETag") if "s3" in self._fs.protocol else None
            return parse(self._fs.cat_file(self._path)), {"IfMatch": tag} if tag else {}
        except FileNotFoundError:
            return None, self._create

    def _write(self, mine: dict[str, Any], condition: dict[str, Any]) -> bool:
        try:
            self._fs.pipe_file(self._path, text(mine), **condition)
        except (FileExistsError, FileNotFoundError):
            return False
        except OSError as error:
            if error.errno != errno.EINVAL:  # how s3fs says that a condition did not hold
                raise
            return False
        return True


def identity() -> dict[str, Any]:
    """This process: `machine` names one boot of one kernel, `pids` the namespace that its process number is of."""
    machine, pids = socket.gethostname(), 0
    with contextlib.suppress(OSError):  # Linux; hosts and containers may share a name
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = os.stat("/proc/self/ns/pid").st_ino
    names = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "machine": machine, "pids": pids}
    return {**names, "pid": os.getpid(), "started": _started(os.getpid())}


def _gone(holder: dict[str, Any], mine: dict[str, Any]) -> bool:
    if all(name in holder and holder[name] == mine[name] for name in ("machine", "pids")):
        started = _started(holder["pid"])
        return started is None or abs(started - holder["started"]) > 5  # the clock may have been set
    return not is_fresh(holder)


def is_fresh(holder: dict[str, Any]) -> bool:
    return time.time() - holder.get("renewed", 0) <= STALE_S


def _started(pid: int) -> float | None:
    """When the process started: numbers are given out again."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def text(mine: dict[str, Any]) -> bytes:
    """The lease as it is stored, renewed now."""
    return json.dumps({**mine, "renewed": time.time()}).encode()


def parse(data: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError):
        return {}  # new, or half-written by a holder that died
