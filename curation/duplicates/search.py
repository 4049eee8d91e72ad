"""All pairs of similar vectors, of more vectors than fit in memory.

Up to `BRUTE` vectors every pair is compared. Beyond, the vectors fall into cells (k-means by faiss on a sample): each
lives in its nearest cell and is compared with all that live in its `VISITS` nearest ones, exactly. A pair is missed
only if neither vector's home is among the other's visits; benchmarks/duplicates.py measures how often.

Everything runs in one order and with one thread: the same vectors give the same pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from curation.duplicates.vectors import Vectors

BRUTE = 50_000
VISITS = 8
MOST = 32  # pairs of one clip that are kept for certain, the most similar ones
_SAMPLE, _LARGEST = 40, 100_000  # vectors from which the cells are found: so many a cell, and in all
_HOMES, _GUESTS = 1024, 4096  # vectors compared at a time
_BUFFER = 4_000_000  # pairs


@dataclass(frozen=True)
class Pairs:
    """P pairs of rows, a < b, ordered, and the C rows that have more neighbours than these.

    A pair is left out only if each of its vectors has `most` others that are at least as similar to it.
    So a missing pair is one of two crowded rows, and no more similar than the `limit` of either.
    """

    a: np.ndarray  # [P] int32
    b: np.ndarray  # [P] int32
    similarity: np.ndarray  # [P] float32, cosine, see `rounded`
    crowded: np.ndarray  # [C] int32, ascending
    limit: np.ndarray  # [C] float32


def rounded(cosine: np.ndarray | float) -> np.ndarray:
    """float32 of four decimals: float16 vectors carry no more, and 0.9 is the same number everywhere."""
    return (np.rint(np.asarray(cosine, np.float64) * 1e4) / 1e4).astype(np.float32)


def similar_pairs(vectors: Vectors, floor: float, *, most: int = MOST, brute: int = BRUTE) -> Pairs:
    """The pairs with a cosine of `floor` or more."""
    found = _Collector(len(vectors), most)
    if len(vectors) <= brute:
        everyone = np.arange(len(vectors))
        for a, b, similarity in _within(vectors, everyone, floor):
            found.add(a, b, similarity)
        return found.finish()
    cells, sizes = _cells(vectors)
    guests = np.argsort(cells, axis=None, kind="stable")  # by cell, then by row
    ends = np.cumsum(sizes)
    for cell, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        visitors = guests[start:end] // VISITS
        at_home = cells[visitors, 0] == cell
        residents = visitors[at_home]
        for a, b, similarity in _within(vectors, residents, floor):
            found.add(a, b, similarity)
        for a, b, similarity in _between(vectors, residents, visitors[~at_home], floor):
            # The same two meet in the guest's home as well if the resident visits it: once counts.
            twice = (cells[a] == cells[b, :1]).any(axis=1)
            once = ~twice | (a < b)
            found.add(a[once], b[once], similarity[once])
    return found.finish()


def _cells(vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """([n, VISITS] int32: the nearest cells of each vector, the nearest first; [cells] how many visit each)"""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        # Comparing costs as much as assigning at this size.
        count = max(VISITS, round((len(vectors) * VISITS / 2) ** 0.5))
        size = min(len(vectors), _SAMPLE * count, _LARGEST)
        sample = np.random.default_rng(0).choice(len(vectors), size, replace=False)
        kmeans = faiss.Kmeans(vectors.width, count, niter=8, seed=0, spherical=True, min_points_per_centroid=1)
        kmeans.train(vectors.rows(np.sort(sample)))
        cells = np.empty((len(vectors), VISITS), np.int32)
        sizes = np.zeros(count, np.int64)
        for start in range(0, len(vectors), _GUESTS):
            block = slice(start, start + _GUESTS)
            cells[block] = kmeans.index.search(vectors.rows(block), VISITS)[1]
            sizes += np.bincount(cells[block].ravel(), minlength=count)
        return cells, sizes
    finally:
        faiss.omp_set_num_threads(threads)


_Hits = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, rows, similarity


def _within(vectors: Vectors, rows: np.ndarray, floor: float) -> Iterator[_Hits]:
    """Similar pairs among ascending `rows`, the lower row first."""
    for start in range(0, len(rows), _HOMES):
        some = rows[start : start + _HOMES]
        left = vectors.rows(some)
        a, b, similarity = _hits(left, some, left, some, floor)
        lower = a < b
        yield a[lower], b[lower], similarity[lower]
        yield from _between(vectors, some, rows[start + _HOMES :], floor, left)


def _between(
    vectors: Vectors, rows: np.ndarray, others: np.ndarray, floor: float, left: np.ndarray | None = None
) -> Iterator[_Hits]:
    """Similar pairs of one of `rows` with one of `others`; `left` are the vectors of `rows` if they are at hand."""
    for begin in range(0, len(others), _GUESTS):
        guests = others[begin : begin + _GUESTS]
        right = vectors.rows(guests)
        for start in range(0, len(rows), _HOMES):
            some = rows[start : start + _HOMES]
            near = vectors.rows(some) if left is None else left[start : start + _HOMES]
            yield _hits(near, some, right, guests, floor)


def _hits(left: np.ndarray, rows: np.ndarray, right: np.ndarray, others: np.ndarray, floor: float) -> _Hits:
    cosine = left @ right.T
    i, j = np.nonzero(cosine >= floor - 1e-4)
    similarity = rounded(cosine[i, j])
    enough = similarity >= rounded(floor)
    return rows[i[enough]].astype(np.int32), others[j[enough]].astype(np.int32), similarity[enough]


class _Collector:
    """Keeps the pairs that are among the `most` best of either row, however many come."""

    def __init__(self, rows: int, most: int):
        self._most = most
        self._count = np.zeros(rows, np.int64)  # neighbours that were seen
        self._limit = np.full(rows, -np.inf, np.float32)  # the similarity of the last of the `most` best
        self._pairs: list[_Hits] = []
        self._held = self._settled = 0

    def add(self, a: np.ndarray, b: np.ndarray, similarity: np.ndarray) -> None:
        if not len(a):
            return
        np.add.at(self._count, a, 1)
        np.add.at(self._count, b, 1)
        wanted = (similarity > self._limit[a]) | (similarity > self._limit[b])
        self._pairs.append((a[wanted], b[wanted], similarity[wanted]))
        self._held += int(wanted.sum())
        if self._held > 2 * self._settled + _BUFFER:
            self._compact()

    def _compact(self) -> _Hits:
        a, b, similarity = (np.concatenate(part) for part in zip(*self._pairs, strict=True)) if self._pairs else _NONE
        kept = np.ones(len(a), bool)
        full = self._count > self._most
        pairs = np.flatnonzero(full[a] | full[b])
        if len(pairs):
            rows = np.concatenate([a[pairs], b[pairs]])
            order = np.lexsort((-np.tile(similarity[pairs], 2), rows))
            rows = rows[order]
            starts = np.flatnonzero(np.diff(rows, prepend=-1))
            place = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
            best = place < self._most
            best |= ~full[rows]
            kept[pairs] = False
            kept[pairs[order[best] % len(pairs)]] = True
            last = (place == self._most - 1) & full[rows]
            self._limit[rows[last]] = similarity[pairs[order[last] % len(pairs)]]
        a, b, similarity = a[kept], b[kept], similarity[kept]
        self._pairs = [(a, b, similarity)]
        self._held = self._settled = len(a)
        return a, b, similarity

    def finish(self) -> Pairs:
        a, b, similarity = self._compact()
        a, b = np.minimum(a, b), np.maximum(a, b)
        order = np.lexsort((b, a))
        a, b, similarity = a[order], b[order], similarity[order]
        stored = np.bincount(np.concatenate([a, b]), minlength=len(self._count))
        crowded = np.flatnonzero(self._count > stored).astype(np.int32)
        return Pairs(a, b, similarity, crowded, self._limit[crowded])


_NONE = (np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
