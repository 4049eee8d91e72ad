"""`rushes curate`: list, scan, fill in, choose, cut, account, report."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from curation.config import CurateConfig
from curation.dataset.accounting import Accounts, account
from curation.dataset.publish import publish, roster
from curation.dataset.records import cuts, embedding_token, embeddings, scans, scores, tombstones
from curation.ingest import Listed, Listing, list_input, sampled
from curation.report.write import write_report
from curation.rules.overrides import Overrides, read_overrides
from curation.scan import ScanWorker
from curation.schema import CLIPS
from curation.scorers import score_columns
from curation.second_look import SecondLook, uncut, unscored, write_todo
from curation.select import select_dataset
from orchestration.errors import ConfigError, RushesError
from orchestration.progress import Progress
from orchestration.runner import run_rows
from orchestration.runs import RunFolder, writing
from orchestration.session import Engine, LazyEngine
from orchestration.storage import Storage


def curate(config: CurateConfig, console: Console) -> Accounts:
    """The whole run. Returns the dataset's accounts; raises RushesError where it could not complete."""
    storage = Storage(config.output)
    listed = list_input(config.input, exclude=config.output)
    first = next(listed, None)  # an input that cannot be listed is refused before anything is written
    if first is None:
        raise ConfigError(f"input {config.input} holds no file")
    files = sampled(itertools.chain([first], listed), config.sample, config.limit)
    with writing(storage, config, "curate", config.scratch) as (scratch, run):
        return _Curation(config, storage, scratch, run, console).go(files)


@dataclass(frozen=True)
class _Stage:
    """One pass of the engine over Parquet files of rows."""

    title: str
    files: list[str]
    rows: int
    bytes: int
    worker: Any
    key: str
    is_committed: Callable[[str], bool]
    crashed: Callable[[dict[str, Any], str], dict[str, Any]]


class _Curation:
    """The steps of a run."""

    def __init__(self, config: CurateConfig, storage: Storage, scratch: Path, run: RunFolder, console: Console):
        self._config, self._storage, self._scratch, self._run, self._console = config, storage, scratch, run, console
        self._problems: list[str] = []

    def go(self, files: Iterable[Listed]) -> Accounts:
        config, storage = self._config, self._storage
        ledger = scans(storage)
        check_shots(ledger, config)
        for notice in filter(None, (scorer.notice() for scorer in config.picture_scorers)):
            self._console.print(notice)
        overrides = read_overrides(storage, config.select.overrides) if config.select.overrides else Overrides()
        ledger.pack()
        done, runs = finished(storage, config.retry)
        listing = Listing(self._scratch, runs + 1)
        listing.write(files, done)
        size = f"{listing.bytes / 1e6:,.1f} MB"
        self._console.print(f"{listing.rows:,} new or changed files ({size}), {listing.known:,} known ones")
        with LazyEngine(config.ray, self._run.ray_log) as ray:
            if listing.rows:
                self._scan(ray.engine, listing, overrides)
                ledger.pack()
                embeddings(storage).pack()
            publish(storage, config.scorers)
            if self._fill(ray, runs + 1, overrides):
                publish(storage, config.scorers)
            self._select()
            if self._cut(ray, runs + 1, overrides):
                publish(storage, config.scorers)
        self._check(listing)
        if config.report.enabled:
            with self._console.status("Making the report"):
                write_report(storage, config)
        if self._problems:
            raise RushesError(
                f"{len(self._problems)} videos could not be looked at again, the first: {self._problems[0]}. "
                "Everything else is done; run the same command again to try these once more"
            )
        return account(storage)

    def _scan(self, running: Engine, listing: Listing, overrides: Overrides) -> None:
        ledger = scans(self._storage)
        gone = {row["video_id"]: row["date"] for table in tombstones(self._storage).read() for row in table.to_pylist()}
        known = frozenset(roster(self._storage).uris)
        worker = ScanWorker(self._config, str(self._scratch), known, gone, overrides)

        def crashed(row: dict[str, Any], reason: str) -> dict[str, Any]:
            record = {key: row[key] for key in ("listing_id", "run", "uri", "bytes")}
            record |= {"status": "failed", "reason": reason, "retry": False, "clips": []}
            ledger.commit(row["listing_id"], record)
            return {"key": row["listing_id"], "uri": row["uri"], "status": "failed", "reason": reason}

        self._drive(
            running,
            _Stage("Scanning", listing.files, listing.rows, listing.bytes, worker, "listing_id", ledger.has, crashed),
        )

    def _fill(self, ray: LazyEngine, run: int, overrides: Overrides) -> int:
        """Measure what new settings or thresholds ask for; returns how many videos that was."""
        files, count = write_todo(unscored(self._storage, self._config, overrides), self._scratch, "unscored")
        self._second_look(ray, "Scoring", files, count, "score", run, overrides)
        for scorer in self._config.scorers if count else ():
            scores(self._storage, scorer).pack()
        embeddings(self._storage).pack()
        return count

    def _cut(self, ray: LazyEngine, run: int, overrides: Overrides) -> int:
        files, count = write_todo(uncut(self._storage, self._config), self._scratch, "uncut")
        self._second_look(ray, "Cutting", files, count, "cut", run, overrides)
        cuts(self._storage).pack()
        return count

    def _second_look(
        self, ray: LazyEngine, title: str, files: list[str], count: int, kind: str, run: int, overrides: Overrides
    ) -> None:
        if not count:
            return

        def crashed(row: dict[str, Any], reason: str) -> dict[str, Any]:
            return {"key": row["key"], "uri": row["uri"], "status": "failed", "reason": reason}

        worker = SecondLook(self._config, str(self._scratch), kind, run, overrides)
        stage = _Stage(title, files, count, 0, worker, "key", lambda key: False, crashed)
        for receipt in self._drive(ray.engine, stage):
            self._problems.append(f"{receipt['uri']}: {receipt['reason']}")

    def _drive(self, running: Engine, stage: _Stage) -> list[dict[str, Any]]:
        """Runs a stage under the progress view; returns the receipts of what failed, for the stages that want them."""
        done = done_bytes = frames = 0
        busy: list[str] = []
        counts: Counter[str] = Counter()
        failed = []
        with Progress(stage.title, stage.rows, "videos", stage.bytes, self._console) as view:

            def moved(now: int, labels: list[str]) -> None:
                nonlocal frames, busy
                frames, busy = now, labels
                view.update(done, done_bytes, frames, counts, busy)

            receipts = run_rows(
                running,
                stage.files,
                stage.worker,
                key=stage.key,
                is_committed=stage.is_committed,
                crashed=stage.crashed,
                on_progress=moved,
            )
            with contextlib.closing(receipts):
                for receipt in receipts:
                    done += 1
                    done_bytes += receipt.get("bytes") or 0
                    counts[receipt["status"]] += 1
                    if receipt["status"] == "failed":
                        failed.append({"uri": receipt["uri"], "reason": receipt["reason"]})
                    self._run.metric(stage=stage.title.lower(), **receipt)
                    view.update(done, done_bytes, frames, counts, busy)
        return failed

    def _select(self) -> None:
        columns = (*CLIPS, *score_columns())
        config, embedding = self._config, embedding_token(self._config.scorers)
        funnel = select_dataset(self._storage, config.select, columns, damage=config.damage, embedding=embedding)
        self._run.metric(stage="select", **funnel.to_dict())
        self._console.print(funnel)

    def _check(self, listing: Listing) -> None:
        """Every file of the listing has its row."""
        committed = scans(self._storage).keys()
        for name in listing.files:
            table = pq.read_table(name, columns=["listing_id", "uri"])
            for listing_id, uri in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if listing_id not in committed:
                    raise RushesError(f"{uri} has no row; run the same command again")


def finished(storage: Storage, retry: bool = False) -> tuple[set[str], int]:
    """Listing ids that need no further work, and the number of the last run. `retry`: no failed file is finished."""
    done: set[str] = set()
    last = 0
    for table in scans(storage).read(["listing_id", "run", "status", "retry"]):
        for row in table.to_pylist():
            last = max(last, row["run"])
            if row["status"] != "failed" or not (retry or row["retry"]):
                done.add(row["listing_id"])
    for table in cuts(storage).read(["run"]):
        last = max([last, *(run or 0 for run in table.column(0).to_pylist())])
    return done - roster(storage).orphans, last


def check_shots(ledger: Any, config: CurateConfig) -> None:
    """Clips of one dataset are cut by one rule; another rule would give every clip another name."""
    mine = config.shots.fingerprint()
    for table in ledger.read(["shots", "status"]):
        for shots, status in zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True):
            if status == "ok" and shots != mine:
                raise ConfigError(
                    f"{config.output} was cut with other `shots:` settings than this configuration has; "
                    "choose another output, or set shots back (runs/*/config.yaml has the settings of each run)"
                )
