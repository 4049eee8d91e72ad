"""What lies in the shards, and what became of the clips: out of the indexes and one pass over the samples table."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captioning.publish import TABLE as CAPTIONS
from captioning.todo import clip_rows
from curation.report.data import KEPT, Decisions, hashes, read_decisions
from latents.buckets import Bucket, BucketsConfig, assign
from latents.derive import Tally
from latents.index import buckets as bucket_names
from latents.index import place, read_index
from latents.records import SetFacts, kind_of, sets
from latents.samples import FAILED, OK, SKIPPED, TABLE
from latents.shard import ShardError
from latents.windows import Row
from orchestration.storage import Storage
from orchestration.tables import snapshot

DISTINCT = 200  # reasons that are told apart
STATES = OK, FAILED, SKIPPED


@dataclass
class Holding:
    """A bucket's shards of one set."""

    samples: int = 0
    shards: int = 0
    bytes: int = 0

    def __add__(self, other: Holding) -> Holding:
        return Holding(self.samples + other.samples, self.shards + other.shards, self.bytes + other.bytes)


@dataclass
class Account:
    """Kept clips with a caption to train with: each counts once, where it got furthest."""

    ok: int = 0  # have a sample
    failed: int = 0  # have failed samples only
    skipped: int = 0  # are in no bucket
    rest: int = 0  # were not asked for: a limit, or they came later
    beyond: int = 0  # clips with samples that are not kept now, or have no such caption; counted nowhere else
    failures: Counter[str] = field(default_factory=Counter)  # samples by reason
    left: Counter[str] = field(default_factory=Counter)  # clips in no bucket, by reason

    @property
    def clips(self) -> int:
        return self.ok + self.failed + self.skipped + self.rest


@dataclass(order=True, frozen=True)
class Candidate:
    """A sample that may be shown."""

    priority: int  # a hash of its key
    key: str
    clip_id: str


@dataclass
class SetSurvey:
    """All samples of one fingerprint."""

    fingerprint: str
    encoder: Mapping[str, Any]
    facts: SetFacts | None  # None: only an index names it
    buckets: dict[str, Holding] = field(default_factory=dict)
    account: Account = field(default_factory=Account)
    candidates: dict[str, list[Candidate]] = field(default_factory=dict)  # by bucket, of the smallest hashes
    empty_bytes: int = 0  # of the empty caption's embedding

    @property
    def total(self) -> Holding:
        return sum(self.buckets.values(), Holding())

    @property
    def vae(self) -> Mapping[str, Any]:
        """What made the latents; empty where that is not written down."""
        found = self.encoder.get("vae")
        return found if isinstance(found, Mapping) else {}


@dataclass
class Survey:
    """What the page says of all latents. sets: in the order in which they were made first."""

    sets: dict[str, SetSurvey]
    kept: int | None  # clips; None where nothing was selected yet
    captioned: int  # of them, with a caption to train with
    damaged: list[str] = field(default_factory=list)  # what is wrong with indexes


def survey_latents(storage: Storage, pool: int) -> Survey:
    """`pool`: candidates to be shown, a bucket of a set. Held in memory: 12 bytes a sample, and the indexes."""
    found = {name: SetSurvey(name, facts.encoder, facts) for name, facts in sets(storage).items()}
    decisions = read_decisions(storage)
    captioned = _captioned(storage, decisions)
    kept = int((decisions.states == KEPT).sum()) if len(decisions.keys) else None
    survey = Survey(found, kept, len(captioned))
    _add_indexes(storage, survey)
    outcomes: dict[str, dict[str, _Rows]] = defaultdict(lambda: defaultdict(_Rows))
    for table in snapshot(storage, TABLE, ["key", "clip_id", "set", "bucket", "status", "reason"]):
        clips = hashes(table.column("clip_id").combine_chunks())
        for (fingerprint, state), rows in _groups(table, ("set", "status")):
            outcomes[fingerprint][state].add(clips[rows], table.column("reason").take(pa.array(rows)))
        made = table.filter(pc.equal(table.column("status"), OK))
        for (fingerprint, bucket), rows in _groups(made, ("set", "bucket")):
            if fingerprint in found:
                _offer(found[fingerprint].candidates, bucket, made.take(pa.array(rows)), pool)
    for fingerprint, one in found.items():
        one.account = _account(captioned, outcomes[fingerprint])
    return survey


def choose(one: SetSurvey, count: int) -> list[Candidate]:
    """Samples to show: each bucket in turn, those with most samples first, and of each the videos that had none yet.

    Always the same ones.
    """
    waiting = {name: sorted(pool) for name, pool in one.candidates.items()}
    order = sorted(waiting, key=lambda name: (-one.buckets.get(name, Holding()).samples, name))
    chosen: list[Candidate] = []
    videos: set[str] = set()
    while len(chosen) < count and any(waiting.values()):
        for name in order:
            if waiting[name] and len(chosen) < count:
                # A clip_id begins with its video's.
                best = min(waiting[name], key=lambda candidate: (candidate.clip_id[:16] in videos, candidate))
                waiting[name].remove(best)
                videos.add(best.clip_id[:16])
                chosen.append(best)
    return chosen


def tally_of(
    storage: Storage, one: SetSurvey | None, config: BucketsConfig, also: Collection[str]
) -> tuple[Tally | None, dict[str, Row]]:
    """How the clips of a set's samples lie in its buckets, by their rows; and the rows of the clips `also`.

    None where the set was made with other settings of buckets: then nobody knows.
    """
    there: set[tuple[str, str]] = set()
    clips: set[str] = set()
    tally = None
    if one is not None and one.facts is not None and one.facts.settings == config.fingerprint():
        tally = Tally([Bucket(*shape) for shape in one.facts.buckets])
        for table in snapshot(storage, TABLE, ["key", "clip_id", "set", "bucket", "status"]):
            own = pc.and_(pc.equal(table.column("set"), one.fingerprint), pc.equal(table.column("status"), OK))
            for row in table.filter(own).to_pylist():
                there.add((row["bucket"], row["key"]))
                clips.add(row["clip_id"])
    rows: dict[str, Row] = {}
    for row in clip_rows(storage, clips | set(also)) if clips or also else ():
        clip_id = row["clip_id"]
        if clip_id in also:
            rows[clip_id] = row
        if tally is not None and clip_id in clips:
            windows = assign(row, list(tally.lines), config)
            if not isinstance(windows, str):
                windows = [window for window in windows if (window.bucket.name, window.key(clip_id)) in there]
                if windows:
                    tally.add(row, windows)
    return tally, rows


class _Rows:
    """Clips of the rows in one state, and why."""

    def __init__(self) -> None:
        self._clips: list[np.ndarray] = []
        self._codes: list[np.ndarray] = []
        self._reasons: dict[str, int] = {}

    def add(self, clips: np.ndarray, reasons: pa.ChunkedArray) -> None:
        encoded = reasons.fill_null("").combine_chunks().dictionary_encode()
        codes = []
        for text in encoded.dictionary.to_pylist():
            kind = kind_of(text)
            kind = kind if kind in self._reasons or len(self._reasons) < DISTINCT else "other reasons"
            codes.append(self._reasons.setdefault(kind, len(self._reasons)))
        self._clips.append(clips)
        self._codes.append(np.array(codes, np.int32)[encoded.indices.to_numpy(zero_copy_only=False)])

    @property
    def clips(self) -> np.ndarray:
        """[n] uint64."""
        return np.concatenate(self._clips) if self._clips else np.zeros(0, np.uint64)

    def reasons(self, clips: np.ndarray) -> Counter[str]:
        """Of the rows of these clips."""
        codes = np.concatenate(self._codes) if self._codes else np.zeros(0, np.int32)
        counts = np.bincount(codes[np.isin(self.clips, clips)], minlength=len(self._reasons))
        return Counter({name: int(counts[code]) for name, code in self._reasons.items() if counts[code]})


def _account(captioned: np.ndarray, outcomes: Mapping[str, _Rows]) -> Account:
    left, parts = captioned, {}
    every = {state: np.unique(outcomes[state].clips) for state in STATES}
    for state in STATES:
        parts[state] = np.intersect1d(left, every[state], assume_unique=True)
        left = np.setdiff1d(left, parts[state], assume_unique=True)
    return Account(
        *(len(parts[state]) for state in STATES),
        rest=len(left),
        beyond=len(np.setdiff1d(every[OK], captioned, assume_unique=True)),
        failures=outcomes[FAILED].reasons(captioned),
        left=outcomes[SKIPPED].reasons(parts[SKIPPED]),
    )


def _captioned(storage: Storage, decisions: Decisions) -> np.ndarray:
    """[n] uint64, ascending: the kept clips with a caption to train with; where nothing was selected all that have."""
    parts = [np.zeros(0, np.uint64)]
    for table in snapshot(storage, CAPTIONS, ["clip_id", "train"]):
        table = table.filter(pc.fill_null(table.column("train"), False))
        parts.append(hashes(table.column("clip_id").combine_chunks()))
    found = np.unique(np.concatenate(parts))
    return found[decisions.of(found)[0] == KEPT] if len(decisions.keys) else found


def _groups(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """(values of these columns, numbers of the rows that have them)."""
    codes = np.zeros(table.num_rows, np.int64)
    values: list[list[str]] = []
    for name in columns:
        encoded = table.column(name).fill_null("").combine_chunks().dictionary_encode()
        values.append(encoded.dictionary.to_pylist())
        codes = codes * max(1, len(values[-1])) + encoded.indices.to_numpy(zero_copy_only=False)
    for code in np.unique(codes).tolist():
        rows = np.flatnonzero(codes == code)
        names = []
        for known in reversed(values):
            code, at = divmod(code, len(known))
            names.append(known[at])
        yield tuple(reversed(names)), rows


def _offer(pools: dict[str, list[Candidate]], bucket: str, rows: pa.Table, size: int) -> None:
    keys = hashes(rows.column("key").combine_chunks())
    best = np.argsort(keys, kind="stable")[:size]
    some = rows.select(["key", "clip_id"]).take(pa.array(best)).to_pylist()
    further = [Candidate(int(keys[at]), row["key"], row["clip_id"]) for at, row in zip(best, some, strict=True)]
    pools[bucket] = heapq.nsmallest(size, [*pools.get(bucket, []), *further])


def _add_indexes(storage: Storage, survey: Survey) -> None:
    for bucket in bucket_names(storage):
        try:
            index = read_index(storage, bucket)
        except FileNotFoundError:
            survey.damaged.append(f"{storage.uri}/{place(bucket)} is not there: no reader sees what lies beside it")
            continue
        except ShardError as error:
            survey.damaged.append(str(error))
            continue
        for fingerprint, each in index.sets.items():
            one = survey.sets.setdefault(fingerprint, SetSurvey(fingerprint, each.encoder, None))
            one.buckets[bucket] = Holding(
                sum(len(shard.keys) for shard in each.shards), len(each.shards), sum(s.bytes for s in each.shards)
            )
            one.empty_bytes = each.empty.bytes if each.empty else 0
