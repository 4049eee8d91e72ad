"""Decides the whole dataset from its scores alone: no video is opened.

The clips table is streamed, once more for quantiles, which need all values first, and once more for near-duplicates,
which are decided among what everything else keeps. Memory depends on the size of a batch, the rules, the overrides and
the near-duplicates, not on the number of clips; a quantile takes 8 bytes a clip of temporary disk.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.duplicates.choose import choose, graph, ranked
from curation.duplicates.config import EMBEDDING, NearDuplicates
from curation.duplicates.pairs import ensure_pairs, read_pairs
from curation.rules.conditions import Condition
from curation.rules.decide import (
    BY_HAND,
    DUPLICATE_OF,
    Batch,
    Check,
    Damage,
    canonical,
    checks_of,
    decide,
    judge,
    read_columns,
)
from curation.rules.funnel import Funnel, Quantile, Tally
from curation.rules.overrides import Overrides, read_overrides
from curation.rules.quantiles import Spill
from curation.rules.selection import Selection
from curation.video import Column
from orchestration.errors import RushesError
from orchestration.storage import Storage

__all__ = ["SCHEMA", "SELECTION", "decide", "fingerprint", "read_funnel", "read_selection", "select_dataset"]

SELECTION = "selection.parquet"
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("kept", pa.bool_()),
        ("drop_reason", pa.string()),  # of the first rule that fails; null where kept
        ("drop_reasons", pa.list_(pa.string())),  # of all that fail, in order; empty where kept
        ("fingerprint", pa.string()),  # as in the funnel, the same in every row
        (DUPLICATE_OF, pa.string()),  # clip_id of the kept clip that a near-duplicate is dropped for; null otherwise
    ]
)
_FUNNEL, _RULES = b"rushes.funnel", b"rushes.select"
_BATCH = 1 << 17  # rows


def select_dataset(
    storage: Storage,
    selection: Selection,
    known: Iterable[Column],
    *,
    damage: Damage = "keep_clean",
    embedding: str | None = None,
    batch_rows: int = _BATCH,
) -> Funnel:
    """Decide every clip of `clips/*.parquet` and replace selection.parquet, rows in the order of the clips.

    `known` are the columns that the clips table can have. `embedding` names the scorer (records.token) by whose vectors
    near-duplicates are told; None: that of the last time, or the only one. Raises ConfigError before any work where the
    rules or the overrides are wrong, RushesError naming the file where the clips table is absent or damaged.
    """
    selection.check_columns(known)
    overrides = read_overrides(storage, selection.overrides) if selection.overrides else Overrides()
    files = storage.list("clips", ".parquet")
    if not files:
        raise RushesError(f"{storage.uri} has no clips table yet: run `rushes curate` first")
    checks = list(checks_of(selection, damage))
    columns = read_columns(selection, damage)
    quantiles = _resolve(_read(storage, files, columns, batch_rows, set()), selection.quantiles, checks)
    thresholds = {item.reason: item.threshold for item in quantiles if item.threshold is not None}

    columns = {"clip_id": pa.string(), "duration_s": pa.float64()} | columns
    duplicates = _NONE
    if near := selection.near_duplicates:
        batches = _read(storage, files, columns, batch_rows, set())
        duplicates = _near_duplicates(storage, near, batches, checks, thresholds, overrides, embedding)

    mark = fingerprint(selection, damage, overrides)
    tally = Tally([(BY_HAND, "hand"), *((check.reason, check.kind) for check in checks)])
    seen = np.zeros(len(overrides.keep), bool)
    present: set[str] = set()
    embedded = 0
    with storage.open_write(SELECTION) as file:
        with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            for batch in _read(storage, files, columns, batch_rows, present):
                favoured = duplicates.of(batch.column("clip_id"))
                if near:
                    embedded += batch.num_rows - batch.column(EMBEDDING).null_count
                    batch = batch.set_column(batch.schema.get_field_index(DUPLICATE_OF), DUPLICATE_OF, favoured)
                decision = judge(batch, checks, thresholds, overrides)
                tally.add(decision, batch.column("duration_s").to_numpy(zero_copy_only=False))
                hits = overrides.find(batch.column("clip_id"))
                seen[hits[hits >= 0]] = True
                marks = pa.repeat(pa.scalar(mark), batch.num_rows)
                arrays = [pa.array(decision.kept), decision.drop_reason, decision.drop_reasons, marks, favoured]
                writer.write_batch(pa.record_batch([batch.column("clip_id"), *arrays], schema=SCHEMA))
            absent = [f"no clip has {name}: it was never scored" for name in selection.required if name not in present]
            if embedded > duplicates.vectors:
                absent.append(f"{embedded - duplicates.vectors:,} clips have an embedding whose vector is not there")
            funnel = Funnel(
                fingerprint=mark,
                damage=damage,
                clips=tally.clips,
                kept=tally.kept,
                kept_by_hand=tally.kept_by_hand,
                unscored=tally.unscored,
                seconds=tally.seconds,
                kept_seconds=tally.kept_seconds,
                stages=tally.stages(),
                quantiles=quantiles,
                warnings=(*absent, *overrides.unknown(seen)),
            )
            if funnel.clips != funnel.kept + sum(stage.dropped for stage in funnel.stages):
                raise RushesError(f"the clips do not add up, nothing was written: {funnel.to_dict()}")
            # The footer is written last: the table and its funnel can never disagree.
            writer.add_key_value_metadata({_FUNNEL: funnel.model_dump_json(), _RULES: selection.model_dump_json()})
    return funnel


def read_funnel(storage: Storage) -> Funnel | None:
    """The funnel of the last select, or None before the first one."""
    metadata = _footer(storage)
    return Funnel.model_validate_json(metadata[_FUNNEL]) if metadata else None


def kept_clips(storage: Storage) -> set[str]:
    """Ids of the clips that the selection keeps."""
    kept: set[str] = set()
    with storage.open_read(SELECTION) as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=["clip_id", "kept"]):
            kept.update(batch.filter(batch.column(1)).column(0).to_pylist())
    return kept


def read_selection(storage: Storage) -> Selection | None:
    """The rules of the last select, or None before the first one."""
    metadata = _footer(storage)
    return Selection.model_validate(json.loads(metadata[_RULES])) if metadata else None


def fingerprint(selection: Selection, damage: Damage, overrides: Overrides) -> str:
    """16 hex digits that change whenever the rules or the decisions by hand do."""
    text = f"{selection.fingerprint({'overrides'})} {damage} {overrides.digest}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _footer(storage: Storage) -> dict[bytes, bytes] | None:
    if not storage.exists(SELECTION):
        return None
    try:
        with storage.open_read(SELECTION) as file:
            metadata = pq.read_metadata(file).metadata or {}
    except pa.ArrowException as error:
        raise RushesError(f"{storage.path(SELECTION)} is damaged ({error}): run `rushes select` again") from error
    if _FUNNEL not in metadata:
        raise RushesError(f"{storage.path(SELECTION)} was not written by `rushes select`: run it again")
    return metadata


def _read(
    storage: Storage, files: list[str], columns: Mapping[str, pa.DataType], rows: int, present: set[str]
) -> Iterator[pa.RecordBatch]:
    """The columns of all files in batches of at least `rows` (below twice that), the last one smaller; adds those that
    some file has to `present`."""
    pending: list[pa.RecordBatch] = []
    count = 0
    for name in files:
        try:
            with pq.ParquetFile(storage.path(name), filesystem=storage.fs) as file:
                there = [column for column in columns if column in file.schema_arrow.names]
                if "clip_id" in columns and "clip_id" not in there:
                    raise RushesError(f"{storage.path(name)} is not a clips table: it has no clip_id")
                present.update(there)
                for batch in file.iter_batches(rows, columns=there):
                    pending.append(canonical(batch, columns))
                    count += batch.num_rows
                    if count >= rows:
                        yield _concatenate(pending)
                        pending, count = [], 0
        except (pa.ArrowException, OSError) as error:
            raise RushesError(f"{storage.path(name)} cannot be read: {error}") from error
    if count:
        yield _concatenate(pending)


def _concatenate(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _resolve(
    batches: Iterable[pa.RecordBatch], quantiles: tuple[Condition, ...], checks: list[Check]
) -> tuple[Quantile, ...]:
    """The limit of each quantile, exactly, among the clips that pass every row-wise rule and have a value.

    Other quantiles and overrides do not change who is in that population, so neither moves anyone else's decision.
    """
    if not quantiles:
        return ()
    row_wise = [check for check in checks if not check.late]
    with ExitStack() as stack:
        spills = {rule.column: Spill(stack.enter_context(tempfile.TemporaryFile())) for rule in quantiles}
        for batch in batches:
            columns = Batch(batch)
            passes = np.ones(batch.num_rows, bool)
            for check in row_wise:
                passes &= ~check.fails(columns, {})
            for column, spill in spills.items():
                value = columns.numbers(column)
                spill.add(value[passes & ~np.isnan(value) & ~columns.exempt(column)])
        found = []
        for rule in quantiles:
            spill = spills[rule.column]
            limit = spill.nth(rule.rank(spill.count)) if spill.count else None
            found.append(Quantile(reason=rule.text(False), column=rule.column, population=spill.count, threshold=limit))
    return tuple(found)


@dataclass(frozen=True)
class _Duplicates:
    """Near-duplicates that are dropped, and the clips that stay in their place."""

    clip_ids: pa.Array  # [K] string
    favoured: pa.Array  # [K] string
    vectors: int  # that were compared

    def of(self, clip_ids: pa.Array) -> pa.Array:
        """[n] string: the clip that each one is dropped for; null where there is none."""
        return self.favoured.take(pc.index_in(clip_ids, value_set=self.clip_ids))


_NONE = _Duplicates(pa.array([], pa.string()), pa.array([], pa.string()), 0)


def _near_duplicates(
    storage: Storage,
    near: NearDuplicates,
    batches: Iterable[pa.RecordBatch],
    checks: list[Check],
    thresholds: Mapping[str, float],
    overrides: Overrides,
    embedding: str | None,
) -> _Duplicates:
    """Those among the clips that everything else keeps."""
    vectors = ensure_pairs(storage, near.threshold, embedding).vectors
    alike = graph(read_pairs(storage), near.threshold)
    size = len(alike.clip_ids)
    there, forced = np.zeros(size, bool), np.zeros(size, bool)
    values = [np.full(size, np.nan) for _ in near.order]
    for batch in batches if size else ():
        found = pc.fill_null(pc.index_in(batch.column("clip_id"), value_set=alike.clip_ids), -1)
        batch = batch.filter(pc.greater_equal(found, 0))
        places = found.to_numpy(zero_copy_only=False)
        places = places[places >= 0]
        there[places] = judge(batch, checks, thresholds, overrides).kept
        hits = overrides.find(batch.column("clip_id"))
        forced[places[hits >= 0]] = overrides.keep[hits[hits >= 0]]
        for value, name in zip(values, near.columns, strict=True):
            value[places] = batch.column(name).to_numpy(zero_copy_only=False)
    best = ranked(values, [higher for _, higher in near.order], forced)
    dropped_for = choose(alike, there, forced, best)
    dropped = dropped_for >= 0
    favoured = alike.clip_ids.take(pa.array(dropped_for[dropped]))
    return _Duplicates(alike.clip_ids.filter(pa.array(dropped)), favoured, vectors)
