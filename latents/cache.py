"""Samples of remote shards in a local folder: bounded, least recently used out first, shared by processes.

A sample's range of bytes is a file named by its SHA-256, so that it cannot be taken for another. Files appear whole.
The bytes in the folder are counted in one place, under a lock: no number of processes exceeds the limit together.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from pathlib import Path

KEEP = 0.9  # of the limit is left by a clean-up: the next one is not due at once


class RangeCache:
    """Constructing touches no disk. A folder belongs to caches with one limit; the last that wrote says which."""

    def __init__(self, folder: str | Path, limit_bytes: int):
        self.folder, self.limit = Path(folder), limit_bytes

    def get(self, digest: str, size: int) -> bytearray | None:
        """The bytes, as they lie there (the caller verifies), or None."""
        try:
            descriptor = os.open(self._path(digest), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            data = bytearray(size)
            if os.fstat(descriptor).st_size != size or os.readv(descriptor, [data]) != size:
                self.drop(digest)
                return None
            os.utime(descriptor)  # used now: access times are often switched off
            return data
        finally:
            os.close(descriptor)

    def put(self, digest: str, data: bytes | bytearray) -> None:
        """Keep them, unless they alone are more than the limit."""
        if len(data) > self.limit:
            return
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{uuid.uuid4().hex}")
        with (self.folder / "used").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed; also while it writes, or others would miscount
            if path.exists():
                return
            file.seek(0)
            text = file.read()
            used = int(text) if text.isascii() and text.isdigit() else self._trim(self.limit)
            if used + len(data) > self.limit:
                used = self._trim(max(0, int(KEEP * self.limit) - len(data)))
            file.truncate(0)
            file.write(str(used + len(data)))
            file.flush()  # counted before it is there: a kill in between makes the count too high, never too low
            try:
                temporary.write_bytes(data)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def drop(self, digest: str) -> None:
        """Forget one that turned out to be damaged."""
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    def _trim(self, most: int) -> int:
        """Remove the least recently used until at most `most` bytes are left (under the lock); returns what is left."""
        found = []
        for folder in os.scandir(self.folder):
            for entry in os.scandir(folder) if folder.is_dir() else ():
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        used = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if used <= most:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            used -= size
        return used
