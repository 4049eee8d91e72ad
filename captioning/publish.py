"""The captions table: all versions of all captions, finished by the present checks; one of each clip's trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from captioning.checks.check import ChecksConfig
from captioning.checks.tokens import counter
from captioning.config import TrainConfig
from captioning.finish import checked_by, finish
from captioning.records import CAPTIONS, Version, find_version, ledger, said_of, schema, versions
from orchestration.ledger import Part
from orchestration.storage import Storage
from orchestration.tables import Publication, snapshot

TABLE = "captions"
CHECKED = ("clip_id", "text", "camera_motion", "camera_confidence", "camera_pan", "camera_tilt", "camera_zoom")


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

    own: fingerprint of the version that trains where `train.versions` names none. Answers that were finished by other
    checks are finished anew. Raises ConfigError where `train.versions` names what is not there.
    """
    known = versions(storage)
    order = [find_version(known, name, "train.versions").fingerprint for name in train.versions] or [own]
    latest = _latest(storage)
    finished = _Finisher(storage, checks, known, latest)
    best: dict[str, tuple[int, str]] = {}
    counts: dict[str, Counts] = {}
    for row in _rows(storage, latest, ["clip_id", "status", "flags", "reason", "checked", "said", "finish", "matched"]):
        row = finished(row)
        place = order.index(row["fingerprint"]) if row["fingerprint"] in order else None
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


def texts(storage: Storage, fingerprint: str) -> Iterator[tuple[str, str, str]]:
    """(clip_id, dense, short) of the captions of a version that did not fail."""
    for table in snapshot(storage, TABLE, ["clip_id", "fingerprint", "status", "dense", "short"]):
        for row in table.to_pylist():
            if row["fingerprint"] == fingerprint and row["status"] == "ok" and row["dense"]:
                yield row["clip_id"], row["dense"], row["short"]


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


def _fit(row: Mapping[str, Any], train: TrainConfig) -> bool:
    return row["status"] == "ok" and not set(row["flags"] or []) - set(train.allow)


def _count(counts: Counts, row: Mapping[str, Any], train: TrainConfig) -> bool:
    """Whether it is fit to train with."""
    for flag in row["flags"] or []:
        counts.flags[flag] = counts.flags.get(flag, 0) + 1
    if row["status"] != "ok":
        counts.failed += 1
        reason = (row["reason"] or "").partition(":")[0][:80]
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
        latest: Mapping[tuple[str, str], tuple[int, str]],
    ):
        self._checks, self._known, self._token = checks, known, checked_by(checks)
        self._storage = storage
        self._count: Any = None
        self._facts: dict[str, dict[str, Any]] = {}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["status"] != "ok" or row["checked"] == self._token:
            return row
        if self._count is None:  # the clips' columns and the tokenizer are loaded only where they are needed
            self._count = counter(self._checks.tokenizer)
            for table in snapshot(self._storage, "clips", list(CHECKED)):
                self._facts |= {clip["clip_id"]: clip for clip in table.to_pylist()}
        made = finish(
            said_of(row["said"]),
            self._facts.get(row["clip_id"], {}),
            self._checks,
            self._count,
            ended=row["finish"] or "",
            prompt=self._known[row["fingerprint"]].asked,
            matched=row["matched"],
        )
        return {**row, **made, "checked": self._token}
