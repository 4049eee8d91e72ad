"""LatentDataset: the samples of a data set's shards, by number. What the trainer reads.

A sample is one range read, found by the index. Its bytes are checked before they are parsed; what is damaged is an
error that names shard and sample, never a sample less.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from latents.cache import RangeCache
from latents.index import BUCKET, FOLDER, NAME, BucketIndex, LatentSet, buckets, place, read_index
from latents.ranges import VerifiedRanges
from latents.shard import ShardError, parse_sample, parse_tensors
from orchestration.errors import ConfigError
from orchestration.storage import Storage

if TYPE_CHECKING:
    import torch

THREADS = 8  # that read from a store at once


@dataclass(slots=True)
class LatentSample:
    """One window of one clip, encoded. The tensors lie over memory of their own, which may be written to."""

    key: str
    bucket: str  # frames x height x width
    facts: dict[str, Any]  # KEY.json: clip_id, caption, captions, fps, frames, scores, ...
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
        self.text = text
        storage = Storage(root)
        found = _indexes(storage, buckets)
        self.set = _only_set(storage, found, set)
        self._sets = {index.bucket: index.sets[self.set] for index in found if self.set in index.sets}
        shards = [(bucket, shard) for bucket, each in self._sets.items() for shard in each.shards]
        if not shards:
            raise ConfigError(f"{storage.uri} has no latents of the set {self.set} in the buckets that were asked for")
        self._bucket_of = [bucket for bucket, _ in shards]
        self._keys = np.array([key for _, shard in shards for key in shard.keys], np.bytes_)
        kept = RangeCache(cache, int(cache_gb * 1e9)) if cache and not storage.local else None
        self._ranges = VerifiedRanges(
            storage, [(place(bucket, shard.name), shard) for bucket, shard in shards], kept, always=verify == "always"
        )
        lines = (f"{bucket} {shard.name} {shard.sha256} {len(shard.keys)}\n" for bucket, shard in shards)
        self.manifest_hash = hashlib.sha256("".join(lines).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, number: int) -> LatentSample:
        """Raises ShardError where its bytes are damaged or missing, IndexError past the end."""
        number = self._checked(number)
        key, ranges = self.key(number), self._ranges
        try:
            tensors, facts = parse_sample(ranges.read(number), key, *ranges.contents(number))
            return _sample(key, self._bucket_of[ranges.file_of[number]], tensors, facts, self.text)
        except ValueError as error:
            raise ShardError(ranges.file(number), key, str(error)) from None

    def __getitems__(self, numbers: Sequence[int]) -> list[LatentSample]:
        """A batch, as DataLoader asks for it: from a store all at once, not one after the other."""
        if self._ranges.local or len(numbers) < 2:
            return [self[number] for number in numbers]
        with ThreadPoolExecutor(min(THREADS, len(numbers))) as pool:
            return list(pool.map(self.__getitem__, numbers))

    def stream(self, order: Iterable[int], ahead: int = 32, threads: int | None = None) -> Iterator[LatentSample]:
        """The samples in that order, with at most `ahead` of the next ones on their way.

        From a store, 8 `threads` fetch, verify and parse them ahead. From local shards the kernel reads ahead, and
        samples are parsed when they are taken; with `threads`, by those: worth it where a core is idle. An error comes
        in its place in the order.
        """
        threads = (0 if self._ranges.local else THREADS) if threads is None else threads
        numbers = map(self._checked, order)
        if not threads:
            taken: list[int] = []
            while following := list(itertools.islice(numbers, max(1, ahead // 2))):
                self._ranges.announce(following)
                yield from map(self.__getitem__, taken)
                taken = following
            yield from map(self.__getitem__, taken)
            return
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[LatentSample]] = deque()
            try:
                for number in numbers:
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
        return read_empty(self._ranges.storage, next(iter(self._sets.values())))

    def _checked(self, number: int) -> int:
        """Counted from the beginning. Raises IndexError."""
        count = len(self._keys)
        if not -count <= number < count:
            raise IndexError(f"sample {number} of {count}")
        return int(number) % count


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
        raise ShardError(f"{storage.uri}/{name}", None, "the empty caption's embedding is missing") from None
    except ValueError as error:
        raise ShardError(f"{storage.uri}/{name}", None, str(error)) from None
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
                raise ConfigError(f"{storage.uri}/{place(bucket)} is not there; buckets: {buckets(storage)}") from None
    if not found:
        raise ConfigError(f"{storage.uri}/{FOLDER} has no {NAME} of any bucket; `rushes latents` makes them")
    return found


def _only_set(storage: Storage, indexes: list[BucketIndex], wanted: str | None) -> str:
    there = sorted({fingerprint for index in indexes for fingerprint in index.sets})
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted not in there:
        asked = "several sets of latents and none was chosen" if wanted is None else f"no set {wanted}"
        raise ConfigError(f"{storage.uri}/{FOLDER} has {asked}; there are: {', '.join(there) or 'none'}")
    return wanted


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
