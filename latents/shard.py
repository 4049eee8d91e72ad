"""One shard of latents: a tar with KEY.safetensors and KEY.json of each sample, one behind the other.

A plain WebDataset: any tar reader opens it. Equal samples give equal bytes: ustar headers with mode 0644 and time,
owner and group 0, tensors by name, JSON with sorted keys. The two members of a sample lie side by side, so that one
range read gets both. What is read is never run: tensors and JSON, bounded in size; no pickle, no object arrays.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchestration.errors import RushesError

if TYPE_CHECKING:
    import torch

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")  # no dots: WebDataset splits names at the first
TENSOR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,63}")
BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)  # what closes a tar
MAX_FACTS = 2**20  # bytes of KEY.json
MAX_HEADER = 2**16  # bytes of the JSON at the head of KEY.safetensors
MAX_TENSORS = 8**11 - 1  # bytes of KEY.safetensors: what ustar can say
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I32": "int32"}
REMEDY = (
    "Copy the file again from where it is whole, or have it made again: `rushes latents verify DATASET --remove` "
    "removes what is damaged, and the next `rushes latents CONFIG` makes what is not there"
)


class ShardError(RushesError):
    """Latents that cannot be trusted; the message names the file and, where there is one, the sample."""

    def __init__(self, file: str, key: str | None, what: str):
        self.file, self.key, self.what = file, key, what
        super().__init__(f"{file}{f', sample {key}' if key else ''}: {what}. {REMEDY}")

    def __reduce__(self):
        return ShardError, (self.file, self.key, self.what)


@dataclass(frozen=True, eq=False)
class ShardEntry:
    """What an index says of a shard. All arrays have one entry a sample, in the order of the shard.

    `tensors_at` and `facts_at` are the offsets of the contents of KEY.safetensors and KEY.json, in bytes; `digests`
    [samples, 32] the SHA-256 of the sample's whole range: both members with their tar headers and padding.
    """

    name: str
    bytes: int
    sha256: str
    keys: tuple[str, ...]
    tensors_at: NDArray[np.int64]
    tensors_bytes: NDArray[np.int64]
    facts_at: NDArray[np.int64]
    facts_bytes: NDArray[np.int64]
    digests: NDArray[np.uint8]


def canonical(value: Any) -> bytes:
    """JSON whose bytes are the same for equal values. Raises ValueError for NaN and infinities."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def padded(size: Any) -> Any:
    """Bytes (an int or an array) up to the next tar block."""
    return -(-size // BLOCK) * BLOCK


def span(tensors_bytes: Any, facts_bytes: Any) -> Any:
    """Bytes of a sample's whole range."""
    return 2 * BLOCK + padded(tensors_bytes) + padded(facts_bytes)


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member's content."""
    member = tarfile.TarInfo(name)  # mode 0644; time, owner and group 0
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def write_shard(
    file: IO[bytes], name: str, samples: Iterable[tuple[str, Mapping[str, torch.Tensor], Mapping[str, Any]]]
) -> ShardEntry:
    """Write a shard of (key, tensors, facts), in that order, one at a time; `name` is the file's name in its folder.

    Tensors of any device and layout, of the types in DTYPES, not empty; `facts["key"]` is the key. Raises ValueError
    for what no reader would take.
    """
    whole = hashlib.sha256()
    at, keys, rows, digests = 0, [], [], []
    for key, tensors, facts in samples:
        packed = (pack_tensors(tensors), canonical(dict(facts)))
        if not KEY.fullmatch(key) or facts.get("key") != key:
            raise ValueError(f"{key!r} is no key: letters, digits, - and _, at most 80, and the same in the facts")
        if len(packed[0]) > MAX_TENSORS or len(packed[1]) > MAX_FACTS:
            raise ValueError(f"sample {key}: {len(packed[0])} bytes of tensors, {len(packed[1])} of facts are too much")
        data = b"".join(
            part
            for suffix, content in zip(("safetensors", "json"), packed, strict=True)
            for part in (header(f"{key}.{suffix}", len(content)), content, bytes(-len(content) % BLOCK))
        )
        file.write(data)
        whole.update(data)
        keys.append(key)
        digests.append(hashlib.sha256(data).digest())
        facts_at = at + 2 * BLOCK + padded(len(packed[0]))
        rows.append((at + BLOCK, len(packed[0]), facts_at, len(packed[1])))
        at += len(data)
    if not keys or len(set(keys)) < len(keys):
        raise ValueError(f"{name}: a shard has samples, each with a key of its own")
    file.write(END)
    whole.update(END)
    a, b, c, d = np.array(rows, np.int64).T
    found = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return ShardEntry(name, at + len(END), whole.hexdigest(), tuple(keys), a, b, c, d, found)


def pack_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors file, ordered by element size, then name. Raises ValueError for what is not in DTYPES."""
    from safetensors.torch import save

    for name, tensor in tensors.items():
        if not TENSOR.fullmatch(name) or str(tensor.dtype)[6:] not in DTYPES.values() or not tensor.numel():
            raise ValueError(f"tensor {name!r} of {tensor.dtype} {list(tensor.shape)} does not go into a shard")
    if not tensors:
        raise ValueError("a sample without tensors")
    # Copies: two halves of one tensor share memory, which the library refuses.
    copies = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    packed = save(copies, metadata={"format": "pt"})  # one entry: the order of several is not fixed
    if int.from_bytes(packed[:8], "little") > MAX_HEADER:
        raise ValueError(f"{len(copies)} tensors are more than a shard's sample takes")
    return packed


def parse_sample(
    data: bytearray | memoryview, key: str, tensors_bytes: int, facts_bytes: int
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors (over the memory of `data`, which holds a sample's whole range) and facts. Raises ValueError."""
    facts_at = 2 * BLOCK + padded(tensors_bytes)
    for suffix, at in (("safetensors", 0), ("json", facts_at - BLOCK)):
        name = f"{key}.{suffix}"
        if data[at : at + len(name) + 1] != name.encode() + b"\0":
            found = bytes(data[at : at + 100]).rstrip(b"\0").decode("ascii", "backslashreplace")
            raise ValueError(f"the index and the shard differ: {found!r} is where {name} should be")
    tensors = parse_tensors(memoryview(data)[BLOCK : BLOCK + tensors_bytes])
    return tensors, parse_facts(bytes(data[facts_at : facts_at + facts_bytes]), key)


def parse_facts(data: bytes, key: str) -> dict[str, Any]:
    """KEY.json. Raises ValueError."""
    if len(data) > MAX_FACTS:
        raise ValueError(f"{key}.json has {len(data)} bytes, more than {MAX_FACTS}")
    try:
        facts = _DECODER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key}.json is not JSON: {error}") from None
    if not isinstance(facts, dict) or facts.get("key") != key:
        raise ValueError(f"{key}.json is not about {key}")
    return facts


def parse_tensors(data: memoryview | bytearray) -> dict[str, torch.Tensor]:
    """Tensors over the memory of a safetensors file, by name. Raises ValueError for anything that is not just that.

    The format: 8 bytes with the length of a JSON header, the header, the tensors' bytes. Parsed here because the
    library copies every tensor; the tests compare with it. Source: huggingface/safetensors, README, "Format".
    """
    import torch

    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(MAX_HEADER, len(data) - 8):
        raise ValueError("not a safetensors file: the length of its header is not sane")
    layout = _layout(bytes(data[8 : 8 + length]), len(data))
    return {
        name: torch.frombuffer(data, dtype=dtype, count=count, offset=at).view(shape)
        for name, dtype, count, at, shape in layout
    }


@functools.lru_cache(maxsize=256)  # the samples of a bucket share theirs
def _layout(described: bytes, total: int) -> list[tuple[str, torch.dtype, int, int, list[int]]]:
    """Name, type, count, offset and shape of each tensor of a file of `total` bytes with that header."""
    import torch

    try:
        entries = json.loads(described, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header of the tensors is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError("the header of the tensors is no object")
    entries.pop("__metadata__", None)
    start, layout, spans = 8 + len(described), [], []
    for name, entry in entries.items():
        try:
            shape, (begin, end) = entry["shape"], entry["data_offsets"]
            dtype = getattr(torch, DTYPES[entry["dtype"]])
            if not TENSOR.fullmatch(name) or len(entry) != 3 or len(shape) > 8 or not _sizes([*shape, begin + 1, end]):
                raise ValueError
            count = math.prod(shape)
            if (start + begin) % dtype.itemsize or count * dtype.itemsize != end - begin or start + end > total:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"tensor {name[:64]!r} is described as {str(entry)[:200]}: not acceptable") from None
        layout.append((name, dtype, count, start + begin, shape))
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError("the tensors overlap or leave gaps")
        at = end
    if start + at != total:
        raise ValueError("the tensors do not fill their file")
    return layout


def _sizes(values: list[Any]) -> bool:
    """All are positive integers that a file's size can have."""
    return all(type(value) is int and 0 < value < 2**48 for value in values)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
