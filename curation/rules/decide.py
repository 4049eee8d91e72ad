"""Keep or drop, row by row: what the rules and a person's overrides say of each clip, with every reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.duplicates.config import EMBEDDING, UNSCORED
from curation.rules.conditions import Columns, Condition, RuleBase
from curation.rules.overrides import Overrides
from curation.rules.selection import Selection
from curation.schema import CLIPS
from curation.scorers import score_columns

Damage = Literal["keep_clean", "reject", "keep"]  # drop clips with decoder errors, all clips of such videos, or none
BY_HAND = "dropped by hand"
DUPLICATE_OF = "duplicate_of"  # of a batch: the clip in whose favour a near-duplicate goes; null without one
IMAGE = "image"
_DAMAGE = {
    "keep_clean": ("decode_errors", "decoder errors"),
    "reject": ("video_errors", "decoder errors in its video"),
}


@dataclass(frozen=True)
class Decision:
    """What becomes of n clips."""

    kept: np.ndarray  # [n] bool
    drop_reason: pa.Array  # [n] string, of the first rule that fails; null where kept
    drop_reasons: pa.Array  # [n] list of string, of all that fail, in order; empty where kept
    unscored: np.ndarray  # [n] bool: dropped for nothing but a missing score
    by_hand: np.ndarray  # [n] bool: kept by a person although a rule fails
    first: np.ndarray  # [n] which reason is the first (0 is a person, 1 the first check), -1 where kept
    failing: np.ndarray  # [n, 1 + checks] bool, false where kept


@dataclass(frozen=True)
class Check:
    """One reason to drop a clip."""

    reason: str
    kind: Literal["rule", "unscored", "quantile", "duplicate"]
    fails: Callable[[Columns, Mapping[str, float]], np.ndarray]  # (columns, quantile thresholds) -> [n] bool
    late: bool  # quantiles and near-duplicates, missing scores for them included: no part of a quantile's population


class Batch:
    """The columns of a record batch as conditions ask for them, see conditions.Columns."""

    def __init__(self, batch: pa.RecordBatch):
        self._batch = batch
        self._numbers: dict[str, np.ndarray] = {}

    def numbers(self, column: str) -> np.ndarray:
        if column not in self._numbers:
            self._numbers[column] = self._batch.column(column).to_numpy(zero_copy_only=False)
        return self._numbers[column]

    def among(self, column: str, values: tuple[bool | str, ...]) -> tuple[np.ndarray, np.ndarray]:
        array = self._batch.column(column)
        found = pc.is_in(array, value_set=pa.array(values, array.type))
        return found.to_numpy(zero_copy_only=False), array.is_null().to_numpy(zero_copy_only=False)

    def exempt(self, column: str) -> np.ndarray:
        if column not in temporal_columns():
            return np.zeros(self._batch.num_rows, bool)
        return self._batch.column(IMAGE).fill_null(False).to_numpy(zero_copy_only=False)


@cache
def temporal_columns() -> frozenset[str]:
    """Columns that say nothing of a still picture."""
    return frozenset(column.name for column in (*CLIPS, *score_columns()) if column.temporal)


def decide(
    clips: pa.RecordBatch | pa.Table,
    selection: Selection,
    *,
    damage: Damage = "keep_clean",
    thresholds: Mapping[str, float] | None = None,
    overrides: Overrides | None = None,
) -> pa.RecordBatch:
    """Decide the n rows of `clips` one by one; a column that is not there counts as not scored.

    Returns n rows: `kept` bool, `drop_reason` (of the first rule that fails, null where kept), `drop_reasons` (of all
    that fail, in order, empty where kept) and `unscored` bool (dropped for nothing but a missing score).
    `thresholds` are what the quantiles came to (`Funnel.thresholds`). Without them a quantile drops only what has no
    value, so where `selection.row_wise` is false, kept means: nothing in the clip's own row is against it. Of
    near-duplicates only a clip without an embedding is dropped.
    """
    batch = canonical(clips, read_columns(selection, damage) | ({"clip_id": pa.string()} if overrides else {}))
    found = judge(batch, list(checks_of(selection, damage)), thresholds or {}, overrides)
    arrays = [pa.array(found.kept), found.drop_reason, found.drop_reasons, pa.array(found.unscored)]
    return pa.record_batch(arrays, names=["kept", "drop_reason", "drop_reasons", "unscored"])


def read_columns(selection: Selection, damage: Damage) -> dict[str, pa.DataType]:
    """Columns that the decision depends on -> the type they are read as."""
    found = {IMAGE: pa.bool_()} | selection.columns
    found |= {_DAMAGE[damage][0]: pa.float64()} if damage != "keep" else {}
    return found | ({DUPLICATE_OF: pa.string()} if selection.near_duplicates else {})


def canonical(clips: pa.RecordBatch | pa.Table, columns: Mapping[str, pa.DataType]) -> pa.RecordBatch:
    """`columns` of `clips` in those types; nulls where there is no such column."""
    arrays = [pa.nulls(clips.num_rows)]  # a batch without any column would forget its number of rows
    for name, kind in columns.items():
        if name not in clips.schema.names:
            arrays.append(pa.nulls(clips.num_rows, kind))
            continue
        array = clips.column(name)
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        arrays.append(array if array.type == kind else array.cast(kind, safe=False))
    return pa.record_batch(arrays, names=["", *columns])


def checks_of(selection: Selection, damage: Damage) -> Iterator[Check]:
    """The damage rule, then the rules in order, then near-duplicates."""
    if damage != "keep":
        column, reason = _DAMAGE[damage]
        clean = Condition(column=column, max=0)
        yield Check(f"{column}: not scored", "unscored", _unscored(clean), False)
        yield Check(reason, "rule", _fails(clean), False)
    for rule in selection.flat:
        conditions = list(rule.conditions())
        names = " or ".join(dict.fromkeys(condition.column for condition in conditions))
        quantile = isinstance(rule, Condition) and rule.best is not None
        if any(condition.missing == "drop" for condition in conditions):
            yield Check(f"{names}: not scored", "unscored", _unscored(rule), quantile)
        if isinstance(rule, Condition) and rule.best is not None:
            yield Check(rule.text(False), "quantile", _beyond(rule), True)
        else:
            for part in _parts(rule):
                yield Check(part.text(False), "rule", _fails(part), False)
    if near := selection.near_duplicates:
        if near.missing == "drop":
            yield Check(UNSCORED, "unscored", lambda columns, _: columns.among(EMBEDDING, ("",))[1], True)
        yield Check(near.reason, "duplicate", lambda columns, _: ~columns.among(DUPLICATE_OF, ("",))[1], True)


def judge(
    batch: pa.RecordBatch, checks: list[Check], thresholds: Mapping[str, float], overrides: Overrides | None
) -> Decision:
    """Decide the rows of a canonical batch (with clip_id where there are overrides)."""
    failing = _failing(Batch(batch), batch.num_rows, checks, thresholds)
    names = pa.array([BY_HAND, *(check.reason for check in checks)], pa.string())
    by_hand = np.zeros(batch.num_rows, bool)
    notes = pa.array([], pa.string())  # of the rows that a person dropped, in their order
    if overrides is not None and len(overrides.keep):
        hits = overrides.find(batch.column("clip_id"))
        keep = hits >= 0
        keep[keep] = overrides.keep[hits[keep]]
        by_hand = keep & failing.any(axis=1)
        failing[keep] = False
        failing[:, 0] = (hits >= 0) & ~keep
        notes = overrides.reasons.take(pa.array(hits[failing[:, 0]]))

    rows, which = np.nonzero(failing)  # by row, then in the order of the checks
    counts = np.bincount(rows, minlength=batch.num_rows)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    kept = counts == 0
    first = np.full(batch.num_rows, -1)
    first[~kept] = which[offsets[:-1][~kept]]
    text = which.copy()
    text[which == 0] = len(names) + np.arange(len(notes))
    reasons = pa.concat_arrays([names, notes]).take(pa.array(text))
    missing = np.array([False, *(check.kind == "unscored" for check in checks)])
    return Decision(
        kept=kept,
        drop_reason=reasons.take(pa.array(np.where(kept, 0, offsets[:-1]), mask=kept)),
        drop_reasons=pa.ListArray.from_arrays(pa.array(offsets), reasons),
        unscored=~kept & ~failing[:, ~missing].any(axis=1),
        by_hand=by_hand,
        first=first,
        failing=failing,
    )


def _failing(columns: Columns, rows: int, checks: list[Check], thresholds: Mapping[str, float]) -> np.ndarray:
    """[rows, 1 + checks] bool; the first column is a person's. A reason counts once, where it stands first."""
    failing = np.zeros((rows, 1 + len(checks)), bool)
    position: dict[str, int] = {}
    for index, check in enumerate(checks, 1):
        fails = check.fails(columns, thresholds)
        earlier = position.setdefault(check.reason, index)
        failing[:, index] = fails if earlier == index else fails & ~failing[:, earlier]
    return failing


def _parts(rule: RuleBase) -> tuple[RuleBase, ...]:
    """A range has a reason for either end."""
    if isinstance(rule, Condition) and rule.min is not None and rule.max is not None:
        return rule.model_copy(update={"max": None}), rule.model_copy(update={"min": None})
    return (rule,)


def _unscored(rule: RuleBase) -> Callable[[Columns, Mapping[str, float]], np.ndarray]:
    """The rule would hold if the missing values spoke for the clip, and would not if they spoke against it."""
    return lambda columns, _: rule.truth(columns, True) & ~rule.truth(columns, False)


def _fails(rule: RuleBase) -> Callable[[Columns, Mapping[str, float]], np.ndarray]:
    """Whatever the missing values are, the rule does not hold."""
    return lambda columns, _: ~rule.truth(columns, True)


def _beyond(rule: Condition) -> Callable[[Columns, Mapping[str, float]], np.ndarray]:
    reason = rule.text(False)

    def fails(columns: Columns, thresholds: Mapping[str, float]) -> np.ndarray:
        value, limit = columns.numbers(rule.column), thresholds.get(reason)
        if limit is None:
            return np.zeros(len(value), bool)
        return (value > limit if rule.lowest else value < limit) & ~columns.exempt(rule.column)

    return fails
