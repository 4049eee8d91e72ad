"""Groups of near-duplicates as `select` decided them: a kept clip and those that were dropped for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.duplicates.pairs import PAIRS
from curation.report.data import BATCH, hashes, read_selection
from curation.report.survey import Smallest
from curation.rules.decide import DUPLICATE_OF
from orchestration.storage import Storage


@dataclass
class Group:
    """A kept clip and some of its near-duplicates, the most similar ones first."""

    kept: str
    count: int  # of all near-duplicates
    members: list[str] = field(default_factory=list)
    similarity: dict[str, float] = field(default_factory=dict)  # of members, cosine; where it is known

    @property
    def clip_ids(self) -> list[str]:
        return [self.kept, *self.members]


@dataclass(frozen=True)
class Duplicates:
    """The largest groups, and counts of all."""

    groups: tuple[Group, ...] = ()
    clips: int = 0  # dropped as near-duplicates
    kept: int = 0  # that they were dropped for

    @property
    def clip_ids(self) -> list[str]:
        return [name for group in self.groups for name in group.clip_ids]


def read_duplicates(storage: Storage, *, groups: int, members: int) -> Duplicates:
    """The `groups` largest groups with up to `members` near-duplicates, drawn at random but always the same ones.

    Streams the selection twice, and the pairs of similar clips once: 8 bytes a near-duplicate.
    """
    keys = [hashes(favoured) for _, favoured in _dropped(storage)]
    kept, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *keys]), return_counts=True)
    largest = np.lexsort((kept, -counts))[:groups]
    drawn = {int(kept[index]): Smallest(members) for index in largest}
    found = {int(kept[index]): Group("", int(counts[index])) for index in largest}
    for clip_ids, favoured in _dropped(storage) if found else ():
        of = hashes(favoured)
        (at,) = np.nonzero(np.isin(of, kept[largest]))
        own = hashes(clip_ids.take(pa.array(at)))
        for key in np.unique(of[at]).tolist():
            (mine,) = np.nonzero(of[at] == key)
            found[key].kept = favoured[int(at[mine[0]])].as_py()
            names = clip_ids.take(pa.array(at[mine]))
            drawn[key].offer(own[mine] / 2.0**64, own[mine], names, np.zeros(len(mine), int), 0)
    for key, group in found.items():
        group.members = [name for _, _, name, _ in drawn[key].items]
    _compare(storage, found.values())
    return Duplicates(tuple(found.values()), int(counts.sum()), len(kept))


def _dropped(storage: Storage) -> Iterable[tuple[pa.Array, pa.Array]]:
    """clip_ids of near-duplicates and of the clips that they were dropped for."""
    for batch in read_selection(storage, ["clip_id", DUPLICATE_OF]):
        if DUPLICATE_OF in batch.schema.names:
            batch = batch.filter(batch.column(DUPLICATE_OF).is_valid())
            yield batch.column("clip_id").cast(pa.string()), batch.column(DUPLICATE_OF).cast(pa.string())


def _compare(storage: Storage, groups: Iterable[Group]) -> None:
    """Fill in how similar each member is to the kept clip, and order the members by that."""
    of = {name: group for group in groups for name in group.members}
    wanted = pa.array({name for group in groups for name in group.clip_ids}, pa.string())
    if of and storage.exists(PAIRS):
        with storage.open_read(PAIRS) as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(BATCH, columns=["clip_a", "clip_b", "similarity"]):
                a, b = (pc.is_in(batch.column(name), value_set=wanted) for name in ("clip_a", "clip_b"))
                for row in batch.filter(pc.and_(a, b)).to_pylist():
                    for name, other in ((row["clip_a"], row["clip_b"]), (row["clip_b"], row["clip_a"])):
                        if name in of and of[name].kept == other:
                            of[name].similarity[name] = row["similarity"]
    for group in groups:
        group.members.sort(key=lambda name: (-group.similarity.get(name, 0.0), name))
