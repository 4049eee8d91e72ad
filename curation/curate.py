"""`rushes curate`: list, scan, fill in, choose, cut, account, report."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from curation.config import CurateConfig
from curation.dataset.accounting import Accounts, account
from curation.dataset.publish import publish, roster
from curation.dataset.records import cuts, scans, scores, tombstones
from curation.ingest import Listing, list_input, sampled
from curation.report.write import write_report
from curation.scan import ScanWorker
from curation.schema import CLIPS
from curation.scorers import score_columns
from curation.second_look import LaterWorker, uncut, unscored, write_todo
from curation.select import select_dataset
from orchestration.errors import ConfigError, RushesError
from orchestration.lock import WriterLock
from orchestration.progress import Progress
from orchestration.runner import Engine, engine, run_rows
from orchestration.runs import RunFolder, log
from orchestration.storage import Storage


def curate(config: CurateConfig, console: Console) -> Accounts:
    """The whole run. Returns the dataset's accounts; raises RushesError where it could not complete."""
    storage = Storage(config.output)
    scratch = run_scratch(config)
    with WriterLock(storage, "curate"):
        storage.remove_temporary()
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        run = RunFolder(storage, "curate", config, scratch)
        try:
            accounts = _Curation(config, storage, scratch, run, console).go()
        except BaseException as error:
            log.error("%s: %s", type(error).__name__, error)
            raise
        finally:
            run.close()
            shutil.rmtree(scratch, ignore_errors=True)
        return accounts


def run_scratch(config: CurateConfig) -> Path:
    """A folder of this dataset's own below the scratch folder; the same path on every machine of a cluster."""
    name = hashlib.sha256(config.output.encode()).hexdigest()[:16]
    return Path(config.scratch or tempfile.gettempdir()) / f"rushes-{name}"


class _Curation:
    def __init__(self, config: CurateConfig, storage: Storage, scratch: Path, run: RunFolder, console: Console):
        self._config, self._storage, self._scratch, self._run, self._console = config, storage, scratch, run, console

    def go(self) -> Accounts:
        config, storage = self._config, self._storage
        ledger = scans(storage)
        check_shots(ledger, config)
        ledger.pack()
        done, runs = finished(storage)
        listing = Listing(self._scratch, runs + 1)
        listed = list_input(config.input, exclude=config.output)
        listing.write(sampled(listed, config.sample, config.limit), done)
        if not listing.rows and not listing.known:
            raise ConfigError(f"input {config.input} holds no file")
        self._console.print(
            f"{listing.rows:,} new or changed files ({listing.bytes / 1e6:,.1f} MB), {listing.known:,} known ones"
        )
        with _LazyEngine(config, self._run.ray_log) as ray:
            if listing.rows:
                self._scan(ray, listing)
                ledger.pack()
            self._fill(ray)
            publish(storage, config.scorers)
            self._select()
            if self._cut(ray):
                publish(storage, config.scorers)
        self._check(listing)
        accounts = account(storage)
        if config.report.enabled:
            write_report(storage, config)
        return accounts

    def _scan(self, ray: _LazyEngine, listing: Listing) -> None:
        ledger = scans(self._storage)
        gone = {row["video_id"]: row["date"] for table in tombstones(self._storage).read() for row in table.to_pylist()}
        known = frozenset(roster(self._storage).first)
        worker = ScanWorker(self._config, str(self._scratch), known, gone)

        def crashed(row: dict[str, Any], reason: str) -> dict[str, Any]:
            record = {key: row[key] for key in ("listing_id", "run", "uri", "bytes")}
            record |= {"status": "failed", "reason": reason, "clips": [], "measured": []}
            ledger.commit(row["listing_id"], record)
            return {"key": row["listing_id"], "uri": row["uri"], "status": "failed", "reason": reason}

        names = {"ok": "ok", "failed": "failed", "duplicate": "duplicates"}
        self._drive(
            ray.engine,
            "Scanning",
            listing.files,
            listing.rows,
            listing.bytes,
            worker,
            "listing_id",
            ledger.has,
            crashed,
            names,
        )

    def _fill(self, ray: _LazyEngine) -> None:
        files, count = write_todo(unscored(self._storage, self._config), self._scratch, "unscored")
        self._second_look(ray, "Scoring", files, count, "score", lambda key: False)
        for scorer in self._config.scorers:
            scores(self._storage, scorer).pack()

    def _cut(self, ray: _LazyEngine) -> int:
        files, count = write_todo(uncut(self._storage, self._config), self._scratch, "uncut")
        self._second_look(ray, "Cutting", files, count, "cut", cuts(self._storage).has)
        cuts(self._storage).pack()
        return count

    def _second_look(
        self, ray: _LazyEngine, title: str, files: list[str], count: int, kind: str, has: Callable[[str], bool]
    ) -> None:
        if not count:
            return
        problems: list[str] = []

        def failed(row: dict[str, Any], reason: str) -> dict[str, Any]:
            return {"key": row["key"], "uri": row["uri"], "status": "failed", "reason": reason}

        def note(receipt: dict[str, Any]) -> None:
            if receipt["status"] == "failed":
                problems.append(f"{receipt['uri']}: {receipt['reason']}")

        worker = LaterWorker(self._config, str(self._scratch), kind)
        names = {"ok": "ok", "failed": "failed"}
        self._drive(ray.engine, title, files, count, 0, worker, "key", has, failed, names, note)
        for problem in problems[:10]:
            self._console.print(f"[yellow]{title} again did not work for[/] {problem}", highlight=False)
        if len(problems) > 10:
            self._console.print(f"... and for {len(problems) - 10} more; see the run's metrics.jsonl")

    def _drive(
        self,
        running: Engine,
        title: str,
        files: list[str],
        count: int,
        size: int,
        worker: Any,
        key: str,
        has: Callable[[str], bool],
        crashed: Callable[[dict[str, Any], str], dict[str, Any]],
        names: dict[str, str],
        note: Callable[[dict[str, Any]], None] = lambda receipt: None,
    ) -> None:
        done = done_bytes = 0
        frames, busy = 0, []
        counts = dict.fromkeys(names.values(), 0)
        with Progress(title, count, "videos", size, self._console) as view:

            def moved(now: int, labels: list[str]) -> None:
                nonlocal frames, busy
                frames, busy = now, labels
                view.update(done, done_bytes, frames, counts, busy)

            receipts = run_rows(running, files, worker, key=key, is_committed=has, crashed=crashed, on_progress=moved)
            for receipt in receipts:
                done += 1
                done_bytes += receipt.get("bytes") or 0
                counts[names[receipt["status"]]] += 1
                self._run.metric(stage=title.lower(), **receipt)
                note(receipt)
                view.update(done, done_bytes, frames, counts, busy)

    def _select(self) -> None:
        funnel = select_dataset(
            self._storage, self._config.select, (*CLIPS, *score_columns()), damage=self._config.damage
        )
        self._run.metric(stage="select", **funnel.to_dict())
        self._console.print(funnel)

    def _check(self, listing: Listing) -> None:
        """Every file of the listing has its row."""
        import pyarrow.parquet as pq

        committed = scans(self._storage).keys()
        lost = [
            uri
            for name in listing.files
            for listing_id, uri in zip(
                *(pq.read_table(name).column(c).to_pylist() for c in ("listing_id", "uri")), strict=True
            )
            if listing_id not in committed
        ]
        if lost:
            raise RushesError(f"{len(lost)} files have no row, {lost[0]} among them; run the same command again")


class _LazyEngine:
    """Ray starts only if there is work for it."""

    def __init__(self, config: CurateConfig, chatter: Path):
        self._config, self._chatter = config, chatter
        self._context: Any = None
        self._engine: Engine | None = None

    def __enter__(self) -> _LazyEngine:
        return self

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._context = engine(self._config.ray, self._chatter)
            self._engine = self._context.__enter__()
        return self._engine

    def __exit__(self, *details: Any) -> None:
        if self._context is not None:
            self._context.__exit__(*details)


def finished(storage: Storage) -> tuple[set[str], int]:
    """Listing ids that need no further work, and the number of the last run."""
    done: set[str] = set()
    last = 0
    for table in scans(storage).read(["listing_id", "run"]):
        done.update(table.column(0).to_pylist())
        last = max(last, *table.column(1).to_pylist())
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
