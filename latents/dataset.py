"""LatentDataset: the samples of a data set's shards, by number. What the trainer reads.

A sample is one range read, found by the index. Its bytes are checked before they are parsed; what is damaged is an
error that names shard and sample, never a sample less.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xxhash

from latents.cache import RangeCache
from latents.index import BUCKET, FOLDER, NAME, BucketIndex, LatentSet, buckets, place, read_index
from latents.shard import BLOCK, ShardError, parse_sample, parse_tensors, span
from orchestration.errors import ConfigError
from orchestration.storage import Storage

if TYPE_CHECKING:
    import torch

THREADS = 8  # that read from a store at once


@dataclass(frozen=True)
class LatentSample:
    """One window of one clip, encoded. The tensors lie over memory of their own, which may be written to."""

    key: str
    bucket: str  # frames x height x width
    facts: dict[str, Any]  # KEY.json: clip_id, caption, captions, fps, window, scores, ...
    mean: torch.Tensor  # [C, F, h, w]
    logvar: torch.Tensor | None  # [C, F, h, w]; None where only means were kept
    text: tuple[torch.Tensor, ...]  # [L, D] each, of facts["captions"]; empty where the text is left to the trainer
    text_tokens: tuple[int, ...]  # of the L rows, how many are real


class LatentDataset:
    """Map-style, for torch's DataLoader with any number of workers, or alone. Reads the indexes when it is made.

    Order: buckets by name, shards by name, samples as in the shard. It depends on the data only, and `manifest_hash`
    names it: a pure function of (seed, epoch, manifest_hash) can shuffle it.

    verify: "first" compares SHA-256 the first time that a sample is read, by this process or those that it forked, and
    a faster checksum, remembered from then, whenever it is read again. "always" compares SHA-256 every time.
    """

    def __init__(
        self,
        root: str | Path,
        buckets: Sequence[str] | None = None,
        set: str | None = None,
        *,
        cache: str | Path | None = None,
        cache_gb: float = 50.0,
        verify: Literal["first", "always"] = "first",
        text: Literal["all"] | None = "all",
    ):
        """`root`: the data set. `set`: a fingerprint; needed where there are several. `cache`: a local folder for
        samples of a remote data set, with at most `cache_gb` (10^9 bytes). `text`: None leaves the embeddings out.
        Raises ConfigError where nothing fits, ShardError for a damaged index.
        """
        if verify not in ("first", "always"):
            raise ConfigError(f"verify is {verify!r}: first and always are known")
        self.verify, self.text = verify, text
        storage = Storage(root)
        self._uri, self._local = storage.uri, storage.local
        self._cache = RangeCache(cache, int(cache_gb * 1e9)) if cache and not storage.local else None
        found = _indexes(storage, buckets)
        self.set = _only_set(storage, found, set)
        self._sets = {index.bucket: index.sets[self.set] for index in found if self.set in index.sets}
        shards = [(bucket, shard) for bucket, each in self._sets.items() for shard in each.shards]
        if not shards:
            raise ConfigError(f"{storage.uri} has no latents of the set {self.set} in the buckets that were asked for")
        self._files = [(bucket, place(bucket, shard.name), shard.bytes) for bucket, shard in shards]
        counts = [len(shard.keys) for _, shard in shards]
        self._file_of = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        self._keys = np.array([key for _, shard in shards for key in shard.keys], np.bytes_)
        self._starts = np.concatenate([shard.tensors_at for _, shard in shards]) - BLOCK
        self._tensors_bytes = np.concatenate([shard.tensors_bytes for _, shard in shards])
        self._facts_bytes = np.concatenate([shard.facts_bytes for _, shard in shards])
        self._digests = np.concatenate([shard.digests for _, shard in shards])
        self._marks = _shared_marks(len(self))
        lines = (f"{bucket} {shard.name} {shard.sha256} {len(shard.keys)}\n" for bucket, shard in shards)
        self.manifest_hash = hashlib.sha256("".join(lines).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, number: int) -> LatentSample:
        """Raises ShardError where its bytes are damaged or missing, IndexError past the end."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        number = int(number) % len(self)
        bucket, file, _ = self._files[self._file_of[number]]
        key = self._keys[number].decode()
        try:
            data = self._verified(number, file)
            tensors, facts = parse_sample(data, key, int(self._tensors_bytes[number]), int(self._facts_bytes[number]))
            return _sample(key, bucket, tensors, facts, self.text)
        except ValueError as error:
            raise ShardError(f"{self._uri}/{file}", key, str(error)) from None

    def __getitems__(self, numbers: Sequence[int]) -> list[LatentSample]:
        """A batch, as DataLoader asks for it: from a store all at once, not one after the other."""
        if self._local or len(numbers) < 2:
            return [self[number] for number in numbers]
        with ThreadPoolExecutor(min(THREADS, len(numbers))) as pool:
            return list(pool.map(self.__getitem__, numbers))

    def stream(self, order: Iterable[int], ahead: int = 16, threads: int | None = None) -> Iterator[LatentSample]:
        """The samples in that order, read ahead by threads (default: 2 from local shards, 8 from a store).

        At most `ahead` samples are in memory besides those given out. An error comes in its place in the order.
        """
        with ThreadPoolExecutor(threads or (2 if self._local else THREADS)) as pool:
            waiting: deque[Future[LatentSample]] = deque()
            try:
                for number in order:
                    waiting.append(pool.submit(self.__getitem__, number))
                    if len(waiting) >= ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    @property
    def buckets(self) -> dict[str, range]:
        """Numbers of the samples of each bucket: all of a batch have one shape."""
        ends = np.cumsum([sum(len(shard.keys) for shard in each.shards) for each in self._sets.values()]).tolist()
        return {bucket: range(start, end) for bucket, start, end in zip(self._sets, [0, *ends], ends, strict=False)}

    @property
    def encoder(self) -> Mapping[str, Any]:
        """What made the set: the same in every bucket."""
        return next(iter(self._sets.values())).encoder

    def key(self, number: int) -> str:
        return self._keys[number].decode()

    def find(self, key: str) -> int:
        """Number of the first sample with that key. Raises KeyError."""
        found = np.flatnonzero(self._keys == key.encode())
        if not len(found):
            raise KeyError(key)
        return int(found[0])

    def empty_text(self) -> tuple[torch.Tensor, int] | None:
        """The empty caption's embedding [L, D] and its count of real tokens; None where text is left to the trainer.

        Raises ShardError where the file is damaged or missing.
        """
        return read_empty(self._storage, next(iter(self._sets.values())))

    def _verified(self, number: int, file: str) -> bytearray:
        """The range of bytes of a sample. Raises ValueError."""
        size = int(span(self._tensors_bytes[number], self._facts_bytes[number]))
        start, digest = int(self._starts[number]), self._digests[number].tobytes()
        if self._local:
            data = _read_local(f"{self._uri_path}/{file}", start, size, self._files[self._file_of[number]][2])
        else:
            if self._cache is not None and (data := self._cache.get(digest.hex(), size)) is not None:
                if self._is_good(number, data, digest):
                    return data
                self._cache.drop(digest.hex())  # damaged here: the store has it still
            data = self._fetch(file, start, size)
        if not self._is_good(number, data, digest):
            raise ValueError("its bytes are not those that the index names (SHA-256)")
        if self._cache is not None:
            self._cache.put(digest.hex(), data)
        return data

    def _is_good(self, number: int, data: bytearray, digest: bytes) -> bool:
        mark = xxhash.xxh3_64_intdigest(data) | 1  # 0 stands for never read
        if self.verify == "first" and self._marks[number] == mark:
            return True
        good = hashlib.sha256(data).digest() == digest
        if good:
            self._marks[number] = mark
        return good

    def _fetch(self, file: str, start: int, size: int) -> bytearray:
        try:
            data = self._storage.fs.cat_file(self._storage.path(file), start=start, end=start + size)
        except FileNotFoundError:
            raise ValueError("the shard is missing") from None
        except OSError as error:
            raise ValueError(f"the shard cannot be read: {error}") from None
        if len(data) != size:
            raise ValueError(f"the shard is cut: {len(data)} of {size} bytes at {start}")
        return bytearray(data)

    @property
    def _storage(self) -> Storage:
        """One a process: a filesystem's threads and connections do not survive a fork."""
        held = self.__dict__.get("_held")
        if held is None or held[0] != os.getpid():
            held = self.__dict__["_held"] = (os.getpid(), Storage(self._uri))
        return held[1]

    @cached_property
    def _uri_path(self) -> str:
        return Storage(self._uri).root

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_held", "_marks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._marks = _shared_marks(len(self))


def read_empty(storage: Storage, of: LatentSet) -> tuple[torch.Tensor, int] | None:
    """LatentDataset.empty_text, for a set of an index."""
    if of.empty is None:
        return None
    name = f"{FOLDER}/{of.empty.name}"
    try:
        data = bytearray(storage.read_bytes(name))
        if len(data) != of.empty.bytes or hashlib.sha256(data).hexdigest() != of.empty.sha256:
            raise ValueError("the empty caption's embedding is not what the index names (SHA-256)")
        tensors = parse_tensors(data)
        text, tokens = _texts(tensors)
        if set(tensors) != {"text.0", "text.0.tokens"}:
            raise ValueError(f"it holds {sorted(tensors)}, not one text")
    except FileNotFoundError:
        raise ShardError(storage.path(name), None, "the empty caption's embedding is missing") from None
    except ValueError as error:
        raise ShardError(storage.path(name), None, str(error)) from None
    return text[0], tokens[0]


def _indexes(storage: Storage, wanted: Sequence[str] | None) -> list[BucketIndex]:
    for bucket in wanted or ():
        if not BUCKET.fullmatch(bucket):
            raise ConfigError(f"{bucket!r} is no bucket: 17x256x384 is one, frames x height x width")
    found = []
    for bucket in sorted(set(wanted)) if wanted is not None else buckets(storage):
        try:
            found.append(read_index(storage, bucket))
        except FileNotFoundError:
            if wanted is not None:
                raise ConfigError(f"{storage.path(place(bucket))} is not there; buckets: {buckets(storage)}") from None
    if not found:
        raise ConfigError(f"{storage.path(FOLDER)} has no {NAME} of any bucket; `rushes latents` makes them")
    return found


def _only_set(storage: Storage, indexes: list[BucketIndex], wanted: str | None) -> str:
    there = sorted({fingerprint for index in indexes for fingerprint in index.sets})
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted not in there:
        asked = "several sets of latents and none was chosen" if wanted is None else f"no set {wanted}"
        raise ConfigError(f"{storage.path(FOLDER)} has {asked}; there are: {', '.join(there) or 'none'}")
    return wanted


def _shared_marks(count: int) -> np.ndarray:
    """[samples] checksum of what was read and found good, 0 before that; one memory with processes forked later."""
    return np.frombuffer(mmap.mmap(-1, 8 * count), np.uint64)


def _read_local(path: str, start: int, size: int, of: int) -> bytearray:
    """Raises ValueError where the file is not there or not `of` bytes long."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise ValueError("the shard is missing") from None
    try:
        there = os.fstat(descriptor).st_size
        if there != of:
            raise ValueError(f"the shard is cut or another: it has {there} bytes, the index says {of}")
        data = bytearray(size)
        if os.preadv(descriptor, [data], start) != size:
            raise ValueError(f"the shard could not be read at {start}")
        return data
    finally:
        os.close(descriptor)


def _sample(
    key: str, bucket: str, tensors: dict[str, torch.Tensor], facts: dict[str, Any], text: str | None
) -> LatentSample:
    if "mean" not in tensors:
        raise ValueError(f"{key}.safetensors has no mean")
    texts, tokens = _texts(tensors) if text else ((), ())
    return LatentSample(key, bucket, facts, tensors["mean"], tensors.get("logvar"), texts, tokens)


def _texts(tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
    count = 0
    while f"text.{count}" in tensors:
        count += 1
    try:
        tokens = tuple(int(tensors[f"text.{number}.tokens"]) for number in range(count))
    except (KeyError, RuntimeError):
        raise ValueError("a text without its count of tokens") from None
    return tuple(tensors[f"text.{number}"] for number in range(count)), tokens
