"""How alike clips are is a score: the similar pairs are stored, and a moved threshold only reads them.

`pairs.parquet` is written whole. A row is a pair of clips. Where `clip_b` is null, the clip has more neighbours than
are stored: none that is left out is more similar than `similarity`, and the clip's vector is there, so that such clips
can be compared with each other when one of them is chosen (see search.Pairs).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.dataset.records import embeddings
from curation.duplicates.search import MOST, Pairs, similar_pairs
from curation.duplicates.vectors import Vectors, gather
from orchestration.errors import RushesError
from orchestration.storage import Storage

PAIRS = "pairs.parquet"
SCHEMA = pa.schema(
    [
        ("clip_a", pa.string()),
        ("clip_b", pa.string()),  # greater than clip_a; null where clip_a has more neighbours than are stored
        ("similarity", pa.float32()),  # cosine, four decimals
        ("vector", pa.list_(pa.float16())),  # of clip_a where clip_b is null
    ]
)
_FOOTER = b"rushes.pairs"
_VERSION = 1  # raised where the same vectors give other pairs
_MARGIN = 0.05  # pairs are stored down to so far below the threshold, so that it can move
_PAIR_ROWS, _CROWDED_ROWS = 1 << 18, 1 << 13  # of a row group


@dataclass(frozen=True)
class Stored:
    """What the footer of pairs.parquet says."""

    floor: float  # every pair that is at least so similar is in it
    vectors: int
    measured: str  # the embedding's token
    fingerprint: str  # of the set of vectors


def stored(storage: Storage) -> Stored | None:
    """What is there, or None."""
    if not storage.exists(PAIRS):
        return None
    try:
        with storage.open_read(PAIRS) as file:
            metadata = pq.read_metadata(file).metadata or {}
        return Stored(**json.loads(metadata[_FOOTER]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise RushesError(
            f"{storage.path(PAIRS)} is damaged ({error}): remove it, `rushes select` makes it anew"
        ) from error


def ensure_pairs(storage: Storage, threshold: float, measured: str | None = None) -> Stored:
    """Make pairs.parquet serve `threshold`: compute it unless it is there, of these vectors and down to the threshold.

    `measured` is the token of the embedding scorer; None: that of the stored pairs, or of the only embeddings that
    there are. Opens no video. Takes about 160 bytes of memory a clip and 12 a pair; the vectors are on temporary disk.
    """
    keys = _keys(storage)
    there = stored(storage)
    if measured is None:
        known = sorted(keys)
        if len(known) > 1 and (there is None or there.measured not in keys):
            raise RushesError(f"{storage.uri} has embeddings of several kinds ({', '.join(known)}): name one")
        measured = there.measured if there and there.measured in keys else known[0] if known else ""
    mark = _fingerprint(measured, keys.get(measured, []))
    if there and there.fingerprint == mark and there.floor <= threshold:
        return there
    floor = max(round(threshold - _MARGIN, 4), 0.0)
    if there and there.fingerprint == mark:
        floor = min(floor, there.floor)
    with tempfile.TemporaryDirectory(prefix="rushes-pairs-") as folder:
        vectors = gather(_rows(storage, measured), Path(folder))
        made = Stored(floor, len(vectors), measured, mark)
        _write(storage, vectors, similar_pairs(vectors, floor, most=MOST), made)
    return made


def read_pairs(storage: Storage) -> Iterator[pa.RecordBatch]:
    """The rows of pairs.parquet in batches."""
    try:
        with storage.open_read(PAIRS) as file, pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(1 << 17)
    except (pa.ArrowException, OSError) as error:
        raise RushesError(
            f"{storage.path(PAIRS)} is damaged ({error}): remove it, `rushes select` makes it anew"
        ) from error


def _keys(storage: Storage) -> dict[str, list[str]]:
    """Token of each embedding -> the keys of its rows."""
    found: dict[str, list[str]] = {}
    for table in embeddings(storage).read(["key", "measured"]):
        for key, measured in zip(*(column.to_pylist() for column in table.columns), strict=True):
            found.setdefault(measured, []).append(key)
    return found


def _fingerprint(measured: str, keys: list[str]) -> str:
    """Of the set of vectors. A key names video, settings and clips: the same keys are the same vectors."""
    digest = hashlib.sha256(f"{_VERSION} {measured}".encode())
    for key in sorted(keys):
        digest.update(b"\0" + key.encode())
    return digest.hexdigest()[:16]


def _rows(storage: Storage, measured: str) -> Iterator[pa.Table]:
    for table in embeddings(storage).read(["measured", "clips"]):
        yield table.filter(pc.equal(table.column("measured"), measured))


def _write(storage: Storage, vectors: Vectors, found: Pairs, footer: Stored) -> None:
    """The pairs, then the crowded clips."""
    names = vectors.clip_ids
    with storage.open_write(PAIRS) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for start in range(0, len(found.a), _PAIR_ROWS):
            part = slice(start, start + _PAIR_ROWS)
            a, b = names.take(pa.array(found.a[part])), names.take(pa.array(found.b[part]))
            columns = [a, b, pa.array(found.similarity[part]), pa.nulls(len(a), SCHEMA.field("vector").type)]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        for start in range(0, len(found.crowded), _CROWDED_ROWS):
            part = slice(start, start + _CROWDED_ROWS)
            rows = found.crowded[part]
            offsets = np.arange(len(rows) + 1, dtype=np.int32) * vectors.width
            matrix = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.raw(rows).ravel()))
            columns = [
                names.take(pa.array(rows)),
                pa.nulls(len(rows), pa.string()),
                pa.array(found.limit[part]),
                matrix,
            ]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        writer.add_key_value_metadata({_FOOTER: json.dumps(asdict(footer)).encode()})
