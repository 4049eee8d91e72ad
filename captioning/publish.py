"""The captions table: all versions of all captions, finished by the present checks; one of each clip's trains."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from captioning.checks.check import ChecksConfig
from captioning.checks.tokens import counter
from captioning.config import TrainConfig
from captioning.finish import FACTS, checked_by, finish
from captioning.records import CAPTIONS, Version, find_version, ledger, said_of, schema, versions
from orchestration.ledger import Part
from orchestration.storage import Storage
from orchestration.tables import Publication, snapshot

TABLE = "captions"
CHECKED = ("clip_id", *FACTS)
JUDGED = ["clip_id", "status", "flags", "reason", "checked", "said", "finish", "matched", "matched_by"]
_PLACE = re.compile(r"^(?:clip \S+|vLLM|[\w.\-\[\]]+:\d+): ")  # of a failure's reason: which clip, which server


@dataclass
class Counts:
    """Captions of one version."""

    ok: int = 0  # fit for training, or with flags that are allowed
    flagged: int = 0
    failed: int = 0
    flags: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)


def publish(storage: Storage, checks: ChecksConfig, train: TrainConfig, own: str | None = None) -> dict[str, Counts]:
    """Make `captions/` anew out of the committed parts; returns the counts by fingerprint.

    own: fingerprint of the version that trains where `train.versions` names none; None: what trains now goes on.
    Answers that were finished by other checks, or of other measurements, are finished anew. Raises ConfigError where
    `train.versions` names what is not there.
    """
    known = versions(storage)
    order = [find_version(known, name, "train.versions").fingerprint for name in train.versions]
    trained = {} if order or own else training(storage)
    order = order or [own or ""]
    latest = _latest(storage)
    finished = _Finisher(storage, checks, known)
    best: dict[str, tuple[int, str]] = {}
    counts: dict[str, Counts] = {}
    for row in _rows(storage, latest, JUDGED):
        row = finished(row)
        place = order.index(row["fingerprint"]) if row["fingerprint"] in order else None
        if trained.get(row["clip_id"]) == row["fingerprint"]:
            place = 0
        if _count(counts.setdefault(row["fingerprint"], Counts()), row, train) and place is not None:
            best[row["clip_id"]] = min(
                (place, row["fingerprint"]), best.get(row["clip_id"], (place, row["fingerprint"]))
            )
    with Publication(storage, {TABLE: schema()}) as tables:
        pending: list[dict[str, Any]] = []
        for row in _rows(storage, latest):
            row = finished(row)
            version = known[row["fingerprint"]]
            chosen = best.get(row["clip_id"])
            row |= {"version": version.name, "model": version.model, "recipe": version.recipe}
            row["train"] = chosen is not None and chosen[1] == row["fingerprint"] and _fit(row, train)
            pending.append({column.name: row[column.name] for column in CAPTIONS})
            if len(pending) >= 4096:
                tables.add(TABLE, pa.Table.from_pylist(pending, schema()))
                pending = []
        tables.add(TABLE, pa.Table.from_pylist(pending, schema()))
    return counts


def states(storage: Storage, fingerprint: str) -> dict[str, str]:
    """Clips that have a row of this version: `ok`, `failed`, or `passing` (failed for a reason that may pass)."""
    found: dict[str, str] = {}
    for row in _rows(storage, _latest(storage), ["clip_id", "status", "retry"]):
        if row["fingerprint"] == fingerprint:
            found[row["clip_id"]] = "ok" if row["status"] == "ok" else "passing" if row["retry"] else "failed"
    return found


def training(storage: Storage) -> dict[str, str]:
    """Clips that have a caption to train with, and its fingerprint, as the table says now."""
    found: dict[str, str] = {}
    for table in snapshot(storage, TABLE, ["clip_id", "fingerprint", "train"]):
        for row in table.to_pylist():
            if row["train"]:
                found[row["clip_id"]] = row["fingerprint"]
    return found


def brought(storage: Storage, fingerprint: str) -> dict[str, frozenset[str]]:
    """Texts of clips as they were brought before, by clip_id."""
    found: dict[str, frozenset[str]] = {}
    for row in _rows(storage, _latest(storage), ["clip_id", "status", "said"]):
        if row["fingerprint"] == fingerprint and row["status"] == "ok":
            said = said_of(row["said"])
            found[row["clip_id"]] = frozenset(filter(None, (said.short, said.dense, *said.others)))
    return found


def texts(storage: Storage, fingerprint: str) -> Iterator[tuple[str, str, str, str]]:
    """(clip_id, dense, short, checked) of the captions of a version that did not fail."""
    for table in snapshot(storage, TABLE, ["clip_id", "fingerprint", "status", "dense", "short", "checked"]):
        for row in table.to_pylist():
            if row["fingerprint"] == fingerprint and row["status"] == "ok" and row["dense"]:
                yield row["clip_id"], row["dense"], row["short"], row["checked"]


def _latest(storage: Storage) -> dict[tuple[str, str], tuple[int, str]]:
    """(clip, fingerprint) → (run, key) of the row that counts; a caption that is there outlasts a later failure."""
    found: dict[tuple[str, str], tuple[bool, int, str]] = {}
    for part in ledger(storage).parts():
        for row in _unpacked(storage, part, ["clip_id", "status"]):
            name = row["clip_id"], row["fingerprint"]
            rank = row["status"] == "ok", row["run"], row["key"]
            if name not in found or rank > found[name]:
                found[name] = rank
    return {name: (run, key) for name, (_, run, key) in found.items()}


def _rows(
    storage: Storage, latest: Mapping[tuple[str, str], tuple[int, str]], columns: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows that count, with `fingerprint`."""
    for part in ledger(storage).parts():
        for row in _unpacked(storage, part, columns):
            if latest[row["clip_id"], row["fingerprint"]] == (row["run"], row["key"]):
                yield row


def _unpacked(storage: Storage, part: Part, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    for table in ledger(storage).read_part(part):
        for record in table.to_pylist():
            shared = {name: record[name] for name in ("key", "fingerprint", "run")}
            for caption in record["captions"] or []:
                yield {**(caption if columns is None else {name: caption[name] for name in columns}), **shared}


def reason_kind(reason: str) -> str:
    """Without what is of one clip or one server alone, so that alike reasons count together."""
    return _PLACE.sub("", _PLACE.sub("", reason)).partition(":")[0].partition(" (")[0][:80]


def _fit(row: Mapping[str, Any], train: TrainConfig) -> bool:
    return row["status"] == "ok" and not set(row["flags"] or []) - set(train.allow)


def _count(counts: Counts, row: Mapping[str, Any], train: TrainConfig) -> bool:
    """Whether it is fit to train with."""
    for flag in row["flags"] or []:
        counts.flags[flag] = counts.flags.get(flag, 0) + 1
    if row["status"] != "ok":
        counts.failed += 1
        reason = reason_kind(row["reason"] or "")
        counts.reasons[reason] = counts.reasons.get(reason, 0) + 1
        return False
    fit = _fit(row, train)
    counts.ok += fit
    counts.flagged += not fit
    return fit


class _Finisher:
    """Rows whose short, dense and flags are of the present checks."""

    def __init__(
        self,
        storage: Storage,
        checks: ChecksConfig,
        known: Mapping[str, Version],
    ):
        self._checks, self._known = checks, known
        self._count: Any = None
        self._facts: dict[str, tuple[Any, ...]] = {}
        self._tokens: dict[str, str] = {}
        for table in snapshot(storage, "clips", list(CHECKED)):
            for clip in table.to_pylist():
                self._facts[clip["clip_id"]] = tuple(clip[name] for name in FACTS)
                self._tokens[clip["clip_id"]] = checked_by(checks, clip)
        self._gone = checked_by(checks, {})  # of a clip that is no longer there

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        token = self._tokens.get(row["clip_id"], self._gone)
        if row["status"] != "ok" or row["checked"] == token:
            return row
        if self._count is None:  # loaded only where it is needed
            self._count = counter(self._checks.tokenizer)
        match = self._checks.match
        made = finish(
            said_of(row["said"]),
            dict(zip(FACTS, self._facts.get(row["clip_id"], ()), strict=False)),
            self._checks,
            self._count,
            ended=row["finish"] or "",
            prompt=self._known[row["fingerprint"]].asked,
            matched=row["matched"] if match is not None and row["matched_by"] == match.name else None,
        )
        return {**row, **made, "checked": token}
