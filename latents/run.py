"""`rushes latents`: what is missing of a set is encoded into shards; indexes are written when all of them are there."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from captioning.todo import chosen, clip_rows, require_clips
from latents.buckets import Bucket
from latents.config import LatentsConfig
from latents.derive import derive
from latents.index import (
    FOLDER,
    BucketIndex,
    LatentSet,
    buckets,
    empty_name,
    place,
    write_index,
)
from latents.plan import Plan, captions, missing, plan, shard_key, shards
from latents.records import SetFacts, entry_of, kind_of, ledger, rows, sets
from latents.report.write import write_report
from latents.samples import OK, SAMPLES, SKIPPED, TABLE, sample_rows
from latents.standing import Remade, lost, remade, set_aside, standing
from latents.text import TextEncoder
from latents.vae import VideoEncoder
from latents.work import Encoders
from orchestration.errors import RushesError
from orchestration.passes import Moved, Receipts, follow, write_listing
from orchestration.runner import run_rows
from orchestration.runs import RunFolder, log, writing
from orchestration.session import Engine, LazyEngine
from orchestration.storage import Storage
from orchestration.tables import Publication

_TEXTS = ("key", "uri", "bucket", "samples")
LISTING = pa.schema([*((name, pa.string()) for name in _TEXTS), ("number", pa.int64())])
SHARDS_PER_FILE = 100  # of a listing
ROWS = 4096  # of the table of samples, at a time


@dataclass(frozen=True)
class Done:
    """What a run left of its set."""

    fingerprint: str
    buckets: Mapping[str, int]  # samples of each
    skipped: int  # clips that give no sample
    failed: int  # samples
    beyond: int  # samples of clips that this run was not about: not kept any more, or left out by `limit`
    reasons: Mapping[str, int]

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        total = sum(self.buckets.values())
        table.add_row("samples", f"{total:,}", f"set {self.fingerprint}; {self.failed:,} failed")
        for name, count in sorted(self.buckets.items()):
            table.add_row("", f"{count:,}", name)
        if self.beyond:
            table.add_row("of them", f"{self.beyond:,}", "of clips that are not kept now, or beyond the limit")
        table.add_row("clips without", f"{self.skipped:,}", "")
        for reason, count in sorted(self.reasons.items(), key=lambda item: -item[1])[:8]:
            table.add_row("", f"{count:,}", Text(reason))
        return table


def encode(config: LatentsConfig, console: Console) -> Done:
    """The whole run. Raises RushesError where it could not complete."""
    gpu = bool(config.ray.worker_gpus)  # what `auto` means is settled here, for all machines
    config = config.model_copy(update={"vae": config.vae.resolved(gpu), "text": config.text.resolved(gpu)})
    storage = Storage(config.dataset)
    require_clips(storage)
    vae, text = VideoEncoder(config.vae).facts, _text_facts(config)
    with writing(storage, config, "latents", config.scratch) as (scratch, run):
        wanted = chosen(storage, config.limit)
        texts = captions(storage, wanted, config)
        done = _Encoding(config, storage, scratch, run, console).go(wanted, texts, {"vae": vae, "text": text})
        if config.report.enabled:
            write_report(storage, config, done.fingerprint, scratch)
        return done


def _text_facts(config: LatentsConfig) -> Mapping[str, Any] | None:
    return TextEncoder(config.text).facts if config.text.model is not None else None


class _Encoding:
    """The steps of a run."""

    def __init__(self, config: LatentsConfig, storage: Storage, scratch: Path, run: RunFolder, console: Console):
        self._config, self._storage, self._scratch, self._run, self._console = config, storage, scratch, run, console

    def go(self, wanted: set[str], texts: Mapping[str, Any], encoder: Mapping[str, Any]) -> Done:
        config, storage = self._config, self._storage
        ledger(storage).pack()
        facts = self._set(wanted, texts, encoder)
        made = plan(clip_rows(storage, wanted), texts, [Bucket(*shape) for shape in facts.buckets], config.buckets)
        gone, empty_gone = self._gone(facts), self._empty_gone(facts)
        stands = standing(storage, facts.fingerprint, config.retry)
        left = missing(made, lambda bucket, key: key in stands[bucket])
        self._console.print(
            f"set {facts.fingerprint}: {made.total:,} samples of {len(wanted):,} clips in {len(made.samples)} buckets, "
            f"{left.total:,} to encode; {len(made.skipped):,} clips give none",
            soft_wrap=True,
        )
        facts.write(storage)
        if gone:
            self._index()  # names nothing that is not there, while it is made again
        with LazyEngine(config.ray, self._run.ray_log) as ray:
            if left.total or empty_gone:
                self._encode(ray.engine, facts, left)
        ledger(storage).pack()
        self._record_empty(facts)
        self._index()
        return self._publish(facts, made)

    def _set(self, wanted: set[str], texts: Mapping[str, Any], encoder: Mapping[str, Any]) -> SetFacts:
        """The set that this configuration makes: a known one where nothing has changed."""
        config, storage = self._config, self._storage
        settings = config.buckets.fingerprint()
        versions = sorted({caption.fingerprint for caption in texts.values()})
        about = json.loads(json.dumps({**encoder, "captions": config.captions}))
        others = list(sets(storage).values())
        for known in others:
            if not known.differs(about, settings, versions):
                return known
        table = config.buckets.buckets or derive(clip_rows(storage, wanted), config.buckets)
        shapes = [[bucket.frames, bucket.height, bucket.width] for bucket in table]
        text = json.dumps([about, shapes, settings, versions], sort_keys=True)
        fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
        if others:
            what, newest = " and ".join(others[-1].differs(about, settings, versions)), others[-1].fingerprint
            self._console.print(
                f"not as in the newest set, {newest}: {what}. A new set is made beside the {len(others)} there",
                soft_wrap=True,
                highlight=False,
            )
        number = max([0, *(one.run for one in others)]) + 1
        return SetFacts(fingerprint, number, about, shapes, settings, versions)

    def _gone(self, facts: SetFacts) -> bool:
        """Whether shards are not there whole: says which, and sets those of this set aside."""
        found = list(lost(self._storage))
        for row, what in found:
            then = f"its {len(row['keys'])} samples are encoded again, where their clips are kept"
            if row["set"] != facts.fingerprint:
                then = "it is of another set: a run of that set's configuration makes it again"
            self._console.print(f"{place(row['bucket'], row['name'])} {what}: {then}", soft_wrap=True, highlight=False)
            if row["set"] == facts.fingerprint:
                set_aside(self._storage, row)
        return bool(found)

    def _empty_gone(self, facts: SetFacts) -> bool:
        """Whether the empty caption's embedding has to be made again; what is damaged is removed."""
        name = f"{FOLDER}/{empty_name(facts.fingerprint)}"
        if facts.empty is None or self._empty_facts(name) == facts.empty:
            return False
        self._console.print(f"{name} is missing or damaged: it is made again", soft_wrap=True, highlight=False)
        self._storage.remove(name)
        return True

    def _record_empty(self, facts: SetFacts) -> None:
        found = self._empty_facts(f"{FOLDER}/{empty_name(facts.fingerprint)}")
        if found is not None and found != facts.empty:
            replace(facts, empty=found).write(self._storage)

    def _empty_facts(self, name: str) -> dict[str, Any] | None:
        if not self._storage.exists(name):
            return None
        data = self._storage.read_bytes(name)
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _encode(self, running: Engine, facts: SetFacts, left: Plan) -> None:
        number = 1 + max([0, *(row["run"] or 0 for row in rows(self._storage))])
        workers = Encoders(self._config, facts.encoder, facts.fingerprint, number, str(self._scratch))
        taken: dict[str, set[int]] = defaultdict(set)
        for row in rows(self._storage, facts.fingerprint):
            taken[row["bucket"]].add(row["number"])
        again = remade(self._storage, facts.fingerprint, left.samples)
        listed = self._listed(facts, left, again, taken)
        files, _ = write_listing(listed, LISTING, self._scratch, "shards", SHARDS_PER_FILE)
        dead: dict[str, list[dict[str, Any]]] = defaultdict(list)

        def later(row: dict[str, Any], reason: str) -> dict[str, Any]:
            if not ledger(self._storage).has(row["key"]):
                dead[row["bucket"]].extend(json.loads(row["samples"]))
            return {"key": row["key"], "uri": row["uri"], "status": "crashed", "reason": reason}

        def crashed(row: dict[str, Any], reason: str) -> dict[str, Any]:
            (sample,) = json.loads(row["samples"])
            failure = {"key": sample["key"], "clip_id": sample["clip"]["clip_id"], "reason": reason, "retry": False}
            record = {name: row[name] for name in ("key", "bucket", "number")}
            record |= {"set": facts.fingerprint, "run": number, "planned": [sample["key"]], "failed": [failure]}
            ledger(self._storage).commit(row["key"], record)
            return {"key": row["key"], "uri": row["uri"], "status": "crashed", "frames": 1, "failed": 1}

        self._watched("Encoding", left.total, lambda moved: _pass(running, files, workers, later, moved))
        if dead:
            total = sum(map(len, dead.values()))
            log.warning("%d samples were in shards whose worker died twice; each gets a shard of its own now", total)
            rows_of = self._rows(facts, dead, 1, taken)
            files, _ = write_listing(rows_of, LISTING, self._scratch, "alone", SHARDS_PER_FILE)
            self._watched("Encoding alone", total, lambda moved: _pass(running, files, workers, crashed, moved))

    def _listed(
        self, facts: SetFacts, left: Plan, again: Sequence[Remade], taken: dict[str, set[int]]
    ) -> Iterator[dict[str, Any]]:
        """Rows of LISTING: shards that are made again, then new ones."""
        for row, some in again:
            yield _row(row["key"], row["bucket"], row["number"], some)
        held = {(row["bucket"], sample["key"]) for row, some in again for sample in some}
        new = missing(left, lambda bucket, key: (bucket, key) in held)
        yield from self._rows(facts, new.samples, self._config.shard_samples, taken)
        if not left.total:  # a worker that starts makes the empty caption's file
            yield _row("empty", "", 0, [])

    def _watched(self, title: str, total: int, start: Callable[[Moved], Receipts]) -> None:
        follow(title, total, "samples", start, self._run, self._console)

    def _rows(
        self, facts: SetFacts, samples: Mapping[str, Sequence[dict[str, Any]]], size: int, taken: dict[str, set[int]]
    ) -> Iterator[dict[str, Any]]:
        """Rows of LISTING, a shard each; its number is taken then."""
        for bucket in sorted(samples):
            for number, some in shards(samples[bucket], size, set(taken[bucket])):
                taken[bucket].add(number)
                key = shard_key(facts.fingerprint, bucket, number, (sample["key"] for sample in some))
                yield _row(key, bucket, number, some)

    def _index(self) -> None:
        """Indexes of all buckets, made anew of what is committed and there."""
        known, gone = sets(self._storage), {row["key"] for row, _ in lost(self._storage)}
        found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for row in rows(self._storage):
            if row["name"] is not None and row["key"] not in gone:
                found[row["bucket"]][row["set"]].append(entry_of(row))
        for bucket in set(buckets(self._storage)) - found.keys():  # nothing is left of it
            self._storage.remove(place(bucket))
        for bucket, by_set in found.items():
            indexed = {
                fingerprint: LatentSet(
                    known[fingerprint].encoder,
                    known[fingerprint].empty_text,
                    tuple(sorted(entries, key=lambda entry: entry.name)),
                )
                for fingerprint, entries in by_set.items()
            }
            write_index(self._storage, BucketIndex(bucket, indexed))

    def _publish(self, facts: SetFacts, made: Plan) -> Done:
        """The table of samples, and the account: every planned sample has its row."""
        reasons: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        planned = {(bucket, sample["key"]) for bucket, some in made.samples.items() for sample in some}
        seen: set[tuple[str, str]] = set()
        failed = beyond = 0
        rows_of = sample_rows(self._storage, facts.fingerprint, made.skipped)
        with Publication(self._storage, {TABLE: SAMPLES}) as tables:
            while some := list(islice(rows_of, ROWS)):
                tables.add(TABLE, pa.Table.from_pylist(some, SAMPLES))
                for row in some:
                    if row["set"] != facts.fingerprint:
                        continue
                    if row["status"] != OK:
                        reasons[kind_of(row["reason"])] += 1
                    if row["status"] != SKIPPED:
                        name, ok = (row["bucket"], row["key"]), row["status"] == OK
                        seen.add(name)
                        counts[row["bucket"]] += ok
                        beyond += ok and name not in planned
                        failed += not ok
        if left := planned - seen:
            raise RushesError(f"{len(left)} samples have no row, the first: {min(left)[1]}; run the same command again")
        return Done(facts.fingerprint, dict(counts), len(made.skipped), failed, beyond, dict(reasons))


def _pass(
    running: Engine,
    files: Sequence[str],
    workers: Encoders,
    crashed: Callable[[dict[str, Any], str], dict[str, Any]],
    moved: Moved,
) -> Receipts:
    return run_rows(
        running, files, workers, key="key", is_committed=lambda key: False, crashed=crashed, on_progress=moved
    )


def _row(key: str, bucket: str, number: int, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row of LISTING: a shard."""
    label = f"{bucket}, shard {number}"
    return {"key": key, "uri": label, "bucket": bucket, "number": number, "samples": json.dumps(list(samples))}
