"""The vectors of a dataset on local disk, in the order of their clips' names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestration.errors import RushesError

_BLOCK = 4096  # vectors moved at a time
_MAPPED = 1024  # vectors read through one mapping


@dataclass(frozen=True)
class Vectors:
    """n vectors of unit length, float16 in a file; memory holds the names only."""

    path: Path
    clip_ids: pa.Array  # [n] string, ascending
    width: int  # D

    def __len__(self) -> int:
        return len(self.clip_ids)

    def raw(self, rows: np.ndarray | slice) -> np.ndarray:
        """[len(rows), D] float16."""
        rows = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        found = np.empty((len(rows), self.width), np.float16)
        for start in range(0, len(rows), _MAPPED):
            # Mapped anew each time: what was read, and what the system reads around it, does not pile up in memory.
            file = np.memmap(self.path, np.float16, "r", shape=(len(self), self.width))
            found[start : start + _MAPPED] = file[rows[start : start + _MAPPED]]
        return found

    def rows(self, rows: np.ndarray | slice) -> np.ndarray:
        """[len(rows), D] float32 of unit length."""
        return unit(self.raw(rows))


def unit(vectors: np.ndarray) -> np.ndarray:
    """[n, D] float32 of length 1; NaN where a vector has no direction."""
    vectors = vectors.astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def gather(tables: Iterable[pa.Table], folder: Path) -> Vectors:
    """Write the vectors of `clips` (list of struct of clip_id and vector) to `folder`, sorted by clip_id.

    A clip that comes twice counts once; a vector without a direction (zero, not finite) is left out. Takes
    4 bytes x D x n of disk, half of it in the end, and about 60 bytes a clip of memory.
    """
    names: list[pa.Array] = []
    width = 0
    with (folder / "arrived").open("wb") as file:
        for clip_ids, matrix in _batches(tables):
            if width and matrix.shape[1] != width:
                raise RushesError(f"embeddings of {width} and of {matrix.shape[1]} numbers under the same settings")
            width = matrix.shape[1]
            vectors = unit(matrix)
            sound = np.isfinite(vectors).all(axis=1)
            names.append(clip_ids.filter(pa.array(sound)))
            file.write(vectors[sound].astype(np.float16).tobytes())
    arrived = pa.concat_arrays(names) if names else pa.array([], pa.string())
    order = pc.sort_indices(arrived).to_numpy()
    ordered = arrived.take(pa.array(order))
    if len(ordered):
        first = np.ones(len(ordered), bool)
        first[1:] = pc.not_equal(ordered.slice(1), ordered.slice(0, len(ordered) - 1)).to_numpy(zero_copy_only=False)
        order, ordered = order[first], ordered.filter(pa.array(first))
    source = Vectors(folder / "arrived", arrived, width)
    with (folder / "vectors").open("wb") as file:
        for start in range(0, len(order), _BLOCK):
            file.write(source.raw(order[start : start + _BLOCK]).tobytes())
    source.path.unlink()
    return Vectors(folder / "vectors", ordered, width)


def _batches(tables: Iterable[pa.Table]) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """(clip_ids, [n, D] of them) of the clips that have both."""
    for table in tables:
        for chunk in table.column("clips").chunks:
            clips = chunk.flatten()
            clip_ids, vectors = clips.field("clip_id"), clips.field("vector")
            there = pc.and_(clip_ids.is_valid(), pc.greater(pc.fill_null(pc.list_value_length(vectors), 0), 0))
            clip_ids, vectors = clip_ids.filter(there), vectors.filter(there)
            if not len(clip_ids):
                continue
            widths = pc.unique(pc.list_value_length(vectors)).to_pylist()
            if len(widths) > 1:
                raise RushesError(f"embeddings of {' and of '.join(map(str, widths))} numbers under the same settings")
            yield clip_ids, vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(clip_ids), widths[0])
