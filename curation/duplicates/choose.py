"""Which clips of each group of near-duplicates stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicates.search import rounded
from curation.duplicates.vectors import unit


@dataclass(frozen=True)
class Graph:
    """The N clips that have a near-duplicate at a threshold, P pairs of them, and the C crowded ones (search.Pairs)."""

    clip_ids: pa.Array  # [N] string, ascending
    a: np.ndarray  # [P] places in clip_ids
    b: np.ndarray  # [P]
    similarity: np.ndarray  # [P] float32, all at the threshold or above
    crowded: np.ndarray  # [C] places in clip_ids
    vectors: np.ndarray  # [C, D] float16, theirs
    threshold: np.float32


def graph(batches: Iterable[pa.RecordBatch], threshold: float) -> Graph:
    """Of the rows of pairs.parquet."""
    limit = np.float32(rounded(threshold))
    pairs, crowded = [], []
    for batch in batches:
        near = batch.filter(pa.array(batch.column("similarity").to_numpy() >= limit))
        is_pair = near.column("clip_b").is_valid()
        pairs.append(near.filter(is_pair).select(["clip_a", "clip_b", "similarity"]))
        crowded.append(near.filter(pc.invert(is_pair)).select(["clip_a", "vector"]))
    rows = pa.Table.from_batches(pairs, _PAIR)
    dense = pa.Table.from_batches(crowded, _CROWDED)
    a, b, names = (_one(column) for column in (rows.column("clip_a"), rows.column("clip_b"), dense.column("clip_a")))
    clip_ids = pc.unique(pa.concat_arrays([a, b, names]))
    clip_ids = clip_ids.take(pc.sort_indices(clip_ids))
    vectors = _one(dense.column("vector"))
    width = len(vectors.flatten()) // len(names) if len(names) else 0
    return Graph(
        clip_ids=clip_ids,
        a=_places(a, clip_ids),
        b=_places(b, clip_ids),
        similarity=_one(rows.column("similarity")).to_numpy(),
        crowded=_places(names, clip_ids),
        vectors=vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(names), width),
        threshold=limit,
    )


def ranked(values: Sequence[np.ndarray], higher: Sequence[bool], forced: np.ndarray) -> np.ndarray:
    """[N] places from the best clip to the worst: `forced` ones first, then by `values` ([N] each, the first counts
    most; NaN is the worst), then by place."""
    keys: list[np.ndarray] = [~forced]
    for value, up in zip(values, higher, strict=True):
        keys += [np.isnan(value), np.nan_to_num(-value if up else value, nan=0.0)]
    return np.lexsort(keys[::-1])


def choose(graph: Graph, there: np.ndarray, forced: np.ndarray, best: np.ndarray) -> np.ndarray:
    """[N] int64: the clip that each one is dropped for, -1 where it stays.

    Goes through the clips that are `there` ([N] bool) in the order `best`, see `ranked`. A clip that is alike to one
    that stays already is dropped; one that is dropped drops nobody. `forced` ones ([N] bool) stay always. Of several
    clips that it could be dropped for the most similar one is named.
    """
    position = np.empty(len(best), np.int64)
    position[best] = np.arange(len(best))
    both = there[graph.a] & there[graph.b]
    first = position[graph.a] < position[graph.b]
    better = np.where(first, graph.a, graph.b)[both]
    worse = np.where(first, graph.b, graph.a)[both]
    order = np.argsort(better, kind="stable")
    ends = np.searchsorted(better[order], np.arange(len(best) + 1))
    below = worse[order]

    found = np.full(len(best), -1)
    gone = np.zeros(len(best), bool)
    crowd = _Crowd(graph)
    for place in best[there[best]].tolist():
        if not forced[place] and gone[place]:
            continue
        if not forced[place] and (alike := crowd.nearest(place)) >= 0:
            gone[place] = True
            found[place] = alike
            continue
        crowd.stay(place)
        gone[below[ends[place] : ends[place + 1]]] = True
    stays = there & (~gone | forced)
    # Of the pairs with one that stays the most similar one, ties by order; a missing pair is never more similar.
    similarity = graph.similarity[both]
    useful = stays[better] & ~stays[worse]
    better, worse, similarity = better[useful], worse[useful], similarity[useful]
    order = np.lexsort((position[better], -similarity, worse))
    worse, places = np.unique(worse[order], return_index=True)
    found[worse] = better[order][places]
    return found


class _Crowd:
    """The crowded clips that stay, to compare others with: pairs of such clips may not be stored."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._row = {int(place): row for row, place in enumerate(graph.crowded)}
        self._places: list[int] = []
        self._vectors = np.zeros((16, graph.vectors.shape[1]), np.float32)

    def nearest(self, place: int) -> int:
        """For a crowded clip the most similar one that stays if it is similar enough, else -1."""
        if not self._places or place not in self._row:
            return -1
        cosine = rounded(self._vectors[: len(self._places)] @ self._vector(place))
        row = int(np.argmax(cosine))
        return self._places[row] if cosine[row] >= self._graph.threshold else -1

    def stay(self, place: int) -> None:
        if place not in self._row:
            return
        if len(self._places) == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
        self._vectors[len(self._places)] = self._vector(place)
        self._places.append(place)

    def _vector(self, place: int) -> np.ndarray:
        return unit(self._graph.vectors[self._row[place]][None])[0]


_PAIR = pa.schema([("clip_a", pa.string()), ("clip_b", pa.string()), ("similarity", pa.float32())])
_CROWDED = pa.schema([("clip_a", pa.string()), ("vector", pa.list_(pa.float16()))])


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _places(names: pa.Array, clip_ids: pa.Array) -> np.ndarray:
    return pc.index_in(names, value_set=clip_ids).to_numpy(zero_copy_only=False).astype(np.int64)
