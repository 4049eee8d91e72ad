"""One streamed pass over the clips and one over the videos: counts, histograms and which clips the report shows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.report.data import DROPPED, KEPT, UNDECIDED, Decisions, Part, Place, Tables, hashes
from curation.report.histograms import Bound, Histogram, histogram
from curation.rules.decide import IMAGE
from curation.video import Column

SAMPLE = 50_000  # values that a histogram's range is chosen by
SPANS = 250  # clips of one video that its timeline shows
CATEGORIES = 1000  # distinct texts that are told apart in one column
LENGTH = Column("duration_s", pa.float64(), "s", "length of the clip", temporal=True)


@dataclass
class Smallest:
    """The `size` clips with the smallest priorities that were offered."""

    size: int
    items: list[tuple[float, int, str, Place]] = field(default_factory=list)

    def offer(self, priorities: np.ndarray, keys: np.ndarray, ids: pa.Array, rows: np.ndarray, file: int) -> None:
        """`keys`: [n] uint64 hashes of the ids; of equal priorities the smallest key comes first."""
        limit = self.items[-1][0] if len(self.items) == self.size else np.inf
        (fitting,) = np.nonzero(priorities <= limit)
        if len(fitting) > self.size:
            last = np.partition(priorities[fitting], self.size - 1)[self.size - 1]
            fitting = fitting[priorities[fitting] <= last]  # ties with the last one are many where values are whole
            fitting = fitting[np.lexsort((keys[fitting], priorities[fitting]))[: self.size]]
        new = [
            (float(priorities[i]), int(keys[i]), ids[int(i)].as_py() or "", Place(file, int(rows[i]))) for i in fitting
        ]
        self.items = sorted([*self.items, *new])[: self.size]

    @property
    def places(self) -> list[Place]:
        return [place for *_, place in self.items]


@dataclass
class ClipSurvey:
    """What the report says of all clips, and the places of those that it shows one by one."""

    clips: Counter[int] = field(default_factory=Counter)  # by state
    seconds: dict[int, float] = field(default_factory=lambda: dict.fromkeys((KEPT, DROPPED, UNDECIDED), 0.0))
    reasons: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    categories: dict[str, dict[int, Counter[str]]] = field(default_factory=dict)
    kept: Smallest = field(default_factory=lambda: Smallest(0))
    undecided: Smallest = field(default_factory=lambda: Smallest(0))
    dropped: dict[str, Smallest] = field(default_factory=dict)
    near: dict[Bound, dict[bool, Smallest]] = field(default_factory=dict)  # by bound, then: does it pass
    highest: dict[str, Smallest] = field(default_factory=dict)  # by column, values above 0 only
    marked: Counter[str] = field(default_factory=Counter)  # by column of `highest`, clips at its mark or above
    found: dict[int, Place] = field(default_factory=dict)  # of the clips that were asked for by their hashes
    pictures: Counter[int] = field(default_factory=Counter)  # clips that are still pictures, by state
    spans: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    spans_of: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(self.clips.values())

    def places(self, clip_ids: Sequence[str]) -> list[Place]:
        """Of those among the clips that were asked for which are there."""
        keys = hashes(pa.array(clip_ids, pa.string())).tolist()
        return [self.found[key] for key in keys if key in self.found]


def is_number(column: Column) -> bool:
    return pa.types.is_integer(column.type) or pa.types.is_floating(column.type)


def is_category(column: Column) -> bool:
    return pa.types.is_string(column.type) or pa.types.is_boolean(column.type) or pa.types.is_dictionary(column.type)


def survey_clips(
    tables: Tables,
    decisions: Decisions,
    columns: Sequence[Column],
    thresholds: Mapping[str, Sequence[tuple[float | None, float | None]]],
    timelines: Iterable[str],
    *,
    kept_tiles: int,
    reason_tiles: int,
    max_reasons: int,
    near_pool: int,
    highest: Mapping[str, float | None] | None = None,
    wanted: np.ndarray | None = None,
) -> ClipSurvey:
    """`timelines`: the video_ids whose clips' spans are wanted. `highest`: columns whose `near_pool` highest clips are,
    and a mark from which on clips are counted. `wanted`: [n] uint64, the hashes of clips whose places are wanted."""
    survey = ClipSurvey(kept=Smallest(kept_tiles), undecided=Smallest(kept_tiles))
    counted = np.bincount(decisions.codes[decisions.states == DROPPED], minlength=len(decisions.reasons))
    survey.reasons = Counter({text: int(n) for text, n in zip(decisions.reasons, counted, strict=True) if n})
    common = [text for text, _ in sorted(survey.reasons.items(), key=lambda item: (-item[1], item[0]))[:max_reasons]]
    survey.dropped = {text: Smallest(reason_tiles) for text in common}
    codes = {decisions.reasons.index(text): group for text, group in survey.dropped.items()}

    present = [LENGTH, *(column for column in columns if column.name in tables.schema.names)]
    present = [column for column in present if is_number(column) or is_category(column)]
    numbers = [column for column in present if is_number(column)]
    survey.histograms = _histograms(tables, numbers, thresholds)
    survey.categories = {column.name: defaultdict(Counter) for column in present if is_category(column)}
    for shape in survey.histograms.values():
        survey.near |= {bound: {True: Smallest(near_pool), False: Smallest(near_pool)} for bound in shape.bounds}

    marks = {name: mark for name, mark in (highest or {}).items() if name in tables.schema.names}
    survey.highest = {name: Smallest(near_pool) for name in marks}

    turns, videos = tables.tiers(), pa.array(list(timelines), pa.string())
    sought = np.unique(wanted if wanted is not None else np.zeros(0, np.uint64))
    names = (column.name for column in present)
    for part in tables.scan(["clip_id", "video_id", IMAGE, "start_s", "end_s", *names, *survey.highest]):
        ids = part.strings("clip_id")
        keys, stills = hashes(ids), part.flags(IMAGE)
        states, reasons = decisions.of(keys)
        rows = part.row + np.arange(len(keys))
        groups = np.searchsorted(tables.groups[part.file], rows, side="right") - 1
        priorities = turns[part.file][groups] + keys / 2.0**64  # row groups in turn, within a turn at random
        for state in (KEPT, DROPPED, UNDECIDED):
            survey.clips[state] += int((states == state).sum())
            survey.pictures[state] += int((stills & (states == state)).sum())
            survey.seconds[state] += float(np.nansum(part.numbers("duration_s")[states == state]))
        for index in np.flatnonzero(np.isin(keys, sought)).tolist():
            survey.found[int(keys[index])] = Place(part.file, int(rows[index]))
        for group, chosen in [
            (survey.kept, states == KEPT),
            (survey.undecided, states == UNDECIDED),
            *((group, (states == DROPPED) & (reasons == code)) for code, group in codes.items()),
        ]:
            (at,) = np.nonzero(chosen)
            group.offer(priorities[at], keys[at], ids.take(pa.array(at)), rows[at], part.file)
        for shape in survey.histograms.values():
            values = _measured(part, shape.column, stills)
            counted = ~stills if shape.column.temporal else slice(None)
            shape.add(values[counted], states[counted])
            for bound in shape.bounds:
                passes = bound.passes(values)
                for side, group in survey.near[bound].items():
                    (at,) = np.nonzero((passes == side) & np.isfinite(values))
                    distance = np.abs(values[at] - bound.value)
                    group.offer(distance, keys[at], ids.take(pa.array(at)), rows[at], part.file)
        for name, group in survey.highest.items():
            values = part.numbers(name)
            mark = marks[name]
            survey.marked[name] += 0 if mark is None else int((values >= mark).sum())
            (at,) = np.nonzero(values > 0)
            group.offer(-values[at], keys[at], ids.take(pa.array(at)), rows[at], part.file)
        for name, counts in survey.categories.items():
            _count(counts, part.strings(name), states)
        _collect_spans(survey, part.table, videos, states, reasons, decisions.reasons)
    return survey


def _measured(part: Part, column: Column, stills: np.ndarray) -> np.ndarray:
    """[n] float64, NaN where there is no value, and of still pictures where the column says nothing of them."""
    values = part.numbers(column.name)
    return np.where(stills, np.nan, values) if column.temporal else values


def _histograms(
    tables: Tables, columns: Sequence[Column], thresholds: Mapping[str, Sequence[tuple[float | None, float | None]]]
) -> dict[str, Histogram]:
    """Empty histograms; a first pass over the numbers finds their range."""
    names = [column.name for column in columns]
    stride = max(1, tables.rows // SAMPLE)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
    extremes = {name: [np.inf, -np.inf] for name in names}
    for part in tables.scan([IMAGE, *names]):
        stills = part.flags(IMAGE)
        for name, column in zip(names, columns, strict=True):
            values = _measured(part, column, stills)
            samples[name].append(values[-part.row % stride :: stride])
            finite = values[np.isfinite(values)]
            if len(finite):
                low, high = extremes[name]
                extremes[name] = [min(low, float(finite.min())), max(high, float(finite.max()))]
    shapes = {}
    for column in columns:
        sample = np.concatenate([np.zeros(0), *samples[column.name]])
        pairs = thresholds.get(column.name, ())
        bounds = [
            Bound(column.name, side, float(value))
            for pair in pairs
            for side, value in zip(("min", "max"), pair, strict=True)
            if value is not None
        ]
        finite = sample[np.isfinite(sample)]
        low, high = extremes[column.name]
        if not len(finite) and np.isfinite(low):
            finite = np.array([low, high])  # a column so sparse that the sample missed it
        shapes[column.name] = histogram(
            column, finite, low, high, list(dict.fromkeys(bounds)), pa.types.is_integer(column.type)
        )
    return shapes


def _count(counts: dict[int, Counter[str]], texts: pa.Array, states: np.ndarray) -> None:
    encoded = texts.fill_null("").dictionary_encode()
    names, indices = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
    for state in (KEPT, DROPPED, UNDECIDED):
        for name, n in zip(names, np.bincount(indices[states == state], minlength=len(names)), strict=True):
            if n:
                known = name in counts[state] or len(counts[state]) < CATEGORIES
                counts[state][name if known else "…"] += int(n)


def _collect_spans(
    survey: ClipSurvey,
    table: pa.RecordBatch,
    wanted: pa.Array,
    states: np.ndarray,
    codes: np.ndarray,
    reasons: Sequence[str],
) -> None:
    (at,) = np.nonzero(
        pc.is_in(table.column("video_id").cast(pa.string()), value_set=wanted).to_numpy(zero_copy_only=False)
    )
    rows = table.select(["clip_id", "video_id", "start_s", "end_s"]).take(pa.array(at)).to_pylist()
    for row, state, code in zip(rows, states[at], codes[at], strict=True):
        video = row["video_id"]
        survey.spans_of[video] += 1
        if len(survey.spans[video]) < SPANS:
            survey.spans[video].append({**row, "state": int(state), "reason": reasons[code]})
