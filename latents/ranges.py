"""The bytes of samples: read from a local shard, a store, or the cache of a store, and verified."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash

from latents.cache import RangeCache
from latents.shard import BLOCK, ShardEntry, span
from orchestration.storage import Storage

PIECE = 2**19  # bytes
ANNOUNCED = 2**20  # bytes a call: Linux reads no more ahead at a time than the device takes at once


class VerifiedRanges:
    """Ranges of bytes of the samples of shards (file in the data set, entry), numbered through.

    A range is verified by SHA-256 when it is read first; a faster checksum of what was found good is remembered and
    compared from then on, unless it is `always` SHA-256. Goes to other processes by pickle or fork.
    """

    def __init__(
        self, storage: Storage, shards: Sequence[tuple[str, ShardEntry]], cache: RangeCache | None, *, always: bool
    ):
        self.local = storage.local
        self._uri, self._root, self._cache, self._always = storage.uri, storage.root, cache, always
        self._files = [(file, entry.bytes) for file, entry in shards]
        self.file_of = np.repeat(np.arange(len(shards), dtype=np.int32), [len(entry.keys) for _, entry in shards])
        self._starts = np.concatenate([entry.tensors_at for _, entry in shards]) - BLOCK
        self._tensors_bytes = np.concatenate([entry.tensors_bytes for _, entry in shards])
        self._facts_bytes = np.concatenate([entry.facts_bytes for _, entry in shards])
        self._digests = np.concatenate([entry.digests for _, entry in shards])
        self._marks = _shared_marks(len(self.file_of))

    @property
    def storage(self) -> Storage:
        """One a process: a filesystem's threads and connections do not survive a fork."""
        held = self.__dict__.get("_held")
        if held is None or held[0] != os.getpid():
            held = self.__dict__["_held"] = (os.getpid(), Storage(self._uri))
        return held[1]

    def file(self, number: int) -> str:
        """The shard, for people."""
        return f"{self._uri}/{self._files[self.file_of[number]][0]}"

    def contents(self, number: int) -> tuple[int, int]:
        """Bytes of KEY.safetensors and KEY.json."""
        return int(self._tensors_bytes[number]), int(self._facts_bytes[number])

    def size(self, number: int) -> int:
        return span(*self.contents(number))

    def read(self, number: int) -> bytearray | memoryview:
        """Raises ValueError where the bytes are missing or not those that the index names."""
        if self.local:
            data, mark = self._read_local(number)
            self._check(number, data, mark)
            return data
        size, digest = self.size(number), self._digests[number].tobytes().hex()
        if self._cache is not None and (data := self._cache.get(digest, size)) is not None:
            if self._is_good(number, data, xxhash.xxh3_64_intdigest(data)):
                return data
            self._cache.drop(digest)  # damaged here: the store has it still
        data = self._fetch(number, size)
        self._check(number, data, xxhash.xxh3_64_intdigest(data))
        if self._cache is not None:
            self._cache.put(digest, data)
        return data

    def _check(self, number: int, data: bytearray | memoryview, mark: int) -> None:
        """Raises ValueError."""
        if not self._is_good(number, data, mark):
            raise ValueError("its bytes are not those that the index names (SHA-256)")

    def _is_good(self, number: int, data: bytearray | memoryview, mark: int) -> bool:
        """`mark` is the XXH3 of the data."""
        mark |= 1  # 0 stands for never read
        if not self._always and self._marks[number] == mark:
            return True
        good = hashlib.sha256(data).digest() == self._digests[number].tobytes()
        if good:
            self._marks[number] = mark
        return good

    def announce(self, numbers: Sequence[int]) -> None:
        """Have the kernel read these samples of local shards from disk, while others are worked on."""
        numbers = numbers if self.local else ()
        for file, some in itertools.groupby(numbers, key=lambda number: self._files[self.file_of[number]][0]):
            with contextlib.suppress(OSError):  # whoever reads it says what is wrong
                descriptor = os.open(f"{self._root}/{file}", os.O_RDONLY)
                try:
                    for number in some:
                        start, end = int(self._starts[number]), int(self._starts[number]) + self.size(number)
                        for at in range(start, end, ANNOUNCED):
                            os.posix_fadvise(descriptor, at, min(ANNOUNCED, end - at), os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(descriptor)

    def _read_local(self, number: int) -> tuple[memoryview, int]:
        """The bytes and their XXH3, computed piece by piece, while a piece is in the processor's cache."""
        file, expected = self._files[self.file_of[number]]
        start, size, checksum = int(self._starts[number]), self.size(number), xxhash.xxh3_64()
        try:
            descriptor = os.open(f"{self._root}/{file}", os.O_RDONLY)
        except FileNotFoundError:
            raise ValueError("the shard is missing") from None
        try:
            there = os.fstat(descriptor).st_size
            if there != expected:
                raise ValueError(f"the shard is cut or another: it has {there} bytes, the index says {expected}")
            data = np.empty(size, np.uint8).data  # a bytearray would be zeroed first
            for at in range(0, size, PIECE):
                piece = data[at : at + PIECE]
                if os.preadv(descriptor, [piece], start + at) != len(piece):
                    raise ValueError(f"its bytes from {start + at} on could not be read")
                checksum.update(piece)
        except OSError as error:
            raise ValueError(f"the shard cannot be read: {error}") from None
        finally:
            os.close(descriptor)
        return data, checksum.intdigest()

    def _fetch(self, number: int, size: int) -> bytearray:
        start, path = int(self._starts[number]), self.storage.path(self._files[self.file_of[number]][0])
        try:
            data = self.storage.fs.cat_file(path, start=start, end=start + size)
        except FileNotFoundError:
            raise ValueError("the shard is missing") from None
        except OSError as error:
            raise ValueError(f"the shard cannot be read: {error}") from None
        if len(data) != size:
            raise ValueError(f"the shard is cut: {len(data)} of {size} bytes at {start}")
        return bytearray(data)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_held", "_marks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._marks = _shared_marks(len(self.file_of))


def _shared_marks(count: int) -> np.ndarray:
    """[samples] checksum of what was read and found good, 0 before that; one memory with processes forked later."""
    return np.frombuffer(mmap.mmap(-1, 8 * count), np.uint64)
