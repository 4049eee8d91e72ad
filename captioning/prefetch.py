"""Frames read ahead: guarded child processes decode while a model works, so that it does not wait for them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Self

import numpy as np
from pydantic import Field

from captioning.frames import seconds_of
from captioning.job import FramePlan, Pictures, Row
from curation import read
from curation.fetch import FetchFailed, fetched, is_remote, shown
from curation.sandbox import JobFailed, Sandbox, SandboxBroken
from orchestration.config import Config
from orchestration.storage import Storage

PREFIX = "rushes-frames-"
MEMORY = Path("/dev/shm")  # where frames lie if there is room
CLIPS_AHEAD = 32  # a reader: what needs no memory is not taken without end either
ABANDONED_S = 60.0  # a folder so old that nobody has locked was left by a process that was killed
CLOSING_S = 10.0  # for a store that does not answer; what decodes ends at once


class PrefetchConfig(Config):
    """How clips' frames are read ahead while a model works. Nothing here changes a caption."""

    readers: int = Field(default=2, ge=1)  # processes that decode
    ahead_mb: int = Field(default=512, ge=1)  # of decoded frames that are ahead at most; one larger clip may be, alone
    memory_gb: float = Field(default=4.0, gt=0)  # address space of a process that decodes
    stall_s: float = Field(default=60.0, gt=0)  # one that decodes nothing for so long is ended


class _Closed(Exception):
    """The prefetcher was closed meanwhile."""


class _NotHere(Exception):
    """The clip's frames are on no disk of this machine; the message says what to do."""


@dataclass(frozen=True)
class _Reading:
    row: Row
    plan: FramePlan
    outcome: Future[tuple[Pictures, float]] = field(default_factory=Future)  # and the seconds that reading took


class Prefetcher:
    """Frames of a dataset's clips, in the order asked for, decoded ahead in sandboxes. To be used in a `with` block.

    `root`: the dataset that `media` is relative to, a folder or a bucket address. `scratch`: a folder for what is
    fetched out of a bucket, and for frames where memory has no room for them. `waited_s`: seconds that the taker of the
    frames waited. `read_s`: seconds that the readers worked for what was taken, all together.
    """

    def __init__(self, root: str, config: PrefetchConfig, scratch: str | Path):
        self.waited_s = self.read_s = 0.0
        self._root, self._config, self._scratch = root, config, Path(scratch)
        self._tasks: SimpleQueue[_Reading | None] = SimpleQueue()
        self._sandboxes = [Sandbox(config.memory_gb, config.stall_s) for _ in range(config.readers)]
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self._storage = Storage(self._root)
        with contextlib.ExitStack() as folders:
            self._disk = folders.enter_context(_own_folder(self._scratch))
            self._memory = folders.enter_context(_own_folder(MEMORY)) if os.access(MEMORY, os.W_OK) else self._disk
            self._folders = folders.pop_all()
        for sandbox in self._sandboxes:
            # A thread holds on to its sandbox: helpers die with the thread that started them.
            self._threads.append(threading.Thread(target=self._work, args=(sandbox,), name="frames", daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what is being read and removes every file."""
        self._closed.set()
        for _thread in self._threads:
            self._tasks.put(None)
        ends = time.monotonic() + CLOSING_S
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < ends:
            for sandbox in self._sandboxes:  # again and again: one may be about to begin
                sandbox.kill()
            for thread in self._threads:
                thread.join(0.05)
        self._folders.close()

    def __call__(self, clips: Iterable[tuple[Row, FramePlan | Pictures | None]]) -> Iterator[tuple[Row, Pictures]]:
        """Each row with its frames as planned; Pictures are handed on, None gives none.

        `clips` is advanced by the thread that takes the frames, only as far as there is room: what is read ahead and
        the clip given last are `ahead_mb` at most. A clip that cannot be read gives Pictures with the reason. Raises
        SandboxBroken where this machine cannot decode at all.
        """
        source = iter(clips)
        most = self._config.ahead_mb * 2**20
        waiting: deque[tuple[Row, int, Pictures | _Reading]] = deque()
        held = 0  # bytes of what waits, and of what was given last
        following = next(source, None)
        try:
            while following is not None or waiting:
                while following is not None and len(waiting) < CLIPS_AHEAD * self._config.readers:
                    row, plan = following
                    size = plan.bytes if isinstance(plan, FramePlan) else 0
                    if held and held + size > most:
                        break
                    waiting.append((row, size, self._begin(row, plan)))
                    held += size
                    following = next(source, None)
                row, size, reading = waiting.popleft()
                yield row, self._taken(reading)
                held -= size
                del reading  # it holds the frames
        finally:
            for _, _, reading in waiting:
                if isinstance(reading, _Reading):
                    reading.outcome.cancel()

    def _begin(self, row: Row, plan: FramePlan | Pictures | None) -> Pictures | _Reading:
        if not isinstance(plan, FramePlan):
            return plan or Pictures()
        reading = _Reading(row, plan)
        self._tasks.put(reading)
        return reading

    def _taken(self, reading: Pictures | _Reading) -> Pictures:
        if isinstance(reading, Pictures):
            return reading
        begun = time.perf_counter()
        try:
            pictures, seconds = reading.outcome.result()
        finally:
            self.waited_s += time.perf_counter() - begun
        self.read_s += seconds
        return pictures

    def _work(self, sandbox: Sandbox) -> None:
        """A reader's thread."""
        try:
            while (reading := self._tasks.get()) is not None:
                if self._closed.is_set():
                    reading.outcome.cancel()
                elif reading.outcome.set_running_or_notify_cancel():
                    self._answer(reading, sandbox)
                del reading  # it holds the frames
        finally:
            sandbox.close()

    def _answer(self, reading: _Reading, sandbox: Sandbox) -> None:
        row, begun = reading.row, time.perf_counter()
        try:
            pictures = self._read(row, reading.plan, sandbox)
        except (SandboxBroken, _Closed) as error:
            reading.outcome.set_exception(error)
            return
        except _NotHere as error:
            pictures = _none(row, str(error))
        except JobFailed as error:
            pictures = _none(row, str(error), error.retryable)
        except FetchFailed as error:
            pictures = _none(row, f"{row['media']} in {shown(self._storage.uri)} {error}", error.retryable)
        except OSError as error:  # scratch is full, or its disk fails
            pictures = _none(row, str(error), True)
        except Exception as error:  # whatever a row holds, the next one is read
            pictures = _none(row, f"{type(error).__name__}: {error}")
        reading.outcome.set_result((pictures, time.perf_counter() - begun))

    def _read(self, row: Row, plan: FramePlan, sandbox: Sandbox) -> Pictures:
        clip = {name: row.get(name) for name in read.FIELDS}
        with self._located(clip) as (root, media):
            target = self._room(plan.bytes) / uuid.uuid4().hex
            wanted = {"indices": list(plan.indices), "keys": plan.keyframes, "size": list(plan.size)}
            try:
                indices = sandbox.run("frames", row=clip | {"media": media}, root=root, target=str(target), **wanted)
                frames = np.memmap(target, np.uint8, "c", shape=(len(indices), *plan.size, 3))
            finally:
                target.unlink(missing_ok=True)
        seconds = seconds_of(row, indices) if plan.keyframes else plan.seconds
        return Pictures(tuple(indices), seconds, list(np.asarray(frames)))

    @contextlib.contextmanager
    def _located(self, clip: Row) -> Iterator[tuple[str, str | None]]:
        """(root, media) where a sandbox finds the clip's file; it has no credentials, so that objects are fetched."""
        media = clip["media"]
        if not media and clip["uri"] and is_remote(str(clip["uri"])):
            raise _NotHere("not cut, and its source is not on this machine: run `rushes curate` to cut it")
        if not media or self._storage.local:
            yield self._root, media
            return
        with tempfile.TemporaryDirectory(dir=self._disk) as folder:
            with fetched(f"{self._storage.uri}/{media}", Path(folder), self._go_on) as (path, _):
                yield folder, path.name

    def _go_on(self) -> None:
        if self._closed.is_set():
            raise _Closed

    def _room(self, size: int) -> Path:
        """Memory, unless what may be ahead would fill it: others (Ray's objects, loaders) live there too."""
        need = 2 * self._config.ahead_mb * 2**20 + size
        return self._memory if shutil.disk_usage(self._memory).free > need else self._disk


def _none(row: Row, reason: str, passing: bool = False) -> Pictures:
    return Pictures(
        reason=reason if reason.startswith("clip ") else f"clip {row.get('clip_id')}: {reason}", passing=passing
    )


@contextlib.contextmanager
def _own_folder(parent: Path) -> Iterator[Path]:
    """A folder that is gone afterwards. What processes that were killed left beside it goes at once."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            _remove_abandoned(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks, where nothing is ever taken for abandoned
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    if time.time() - folder.stat().st_mtime < ABANDONED_S:  # its owner may be about to lock it
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(lock)
