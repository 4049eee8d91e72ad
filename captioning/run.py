"""`rushes caption`: what is missing of a version is asked, committed, published, accounted for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from captioning.brought.bring import bring
from captioning.brought.config import BroughtConfig
from captioning.captioner import CaptionJob
from captioning.config import CaptionConfig
from captioning.execute import execute
from captioning.make import model_of
from captioning.prompt import Prompt
from captioning.publish import Counts, brought, publish, states, texts, training
from captioning.recipes import Rewrite
from captioning.recipes.base import Recipe
from captioning.recipes.brought import Brought
from captioning.records import Version, find_version, ledger, versions
from captioning.report.write import write_report
from captioning.todo import chosen, clip_rows, require_clips
from orchestration.config import Config
from orchestration.errors import RushesError
from orchestration.runs import RunFolder, log, writing
from orchestration.session import LazyEngine
from orchestration.storage import Storage
from orchestration.tables import snapshot


@dataclass(frozen=True)
class Done:
    """What a run left: the version that it made, and how its captions are."""

    version: Version
    clips: int
    counts: Counts

    def __rich__(self) -> Table:
        counts = self.counts
        table = Table.grid(padding=(0, 2))
        made = f"{counts.ok:,} fit to train + {counts.flagged:,} flagged + {counts.failed:,} failed"
        table.add_row("captions", f"{counts.ok + counts.flagged + counts.failed:,}", made)
        for title, found in (("flagged", counts.flags), ("failed", counts.reasons)):
            for name, count in sorted(found.items(), key=lambda item: -item[1])[:8]:
                table.add_row(title, f"{count:,}", Text(name))
        return table


def caption(config: CaptionConfig, console: Console, *, trains: bool = True) -> Done:
    """The whole run. trains: false leaves it to the captions that train now. Raises RushesError where it could not
    complete."""
    storage = Storage(config.dataset)
    require_clips(storage)
    with writing(storage, config, "caption", config.scratch) as (scratch, run):
        return _Captioning(config, storage, scratch, run, console).go(chosen(storage, config.limit), trains)


class _Captioning:
    """The steps of a run for one version."""

    def __init__(self, config: CaptionConfig, storage: Storage, scratch: Path, run: RunFolder, console: Console):
        self._config, self._storage, self._scratch, self._run, self._console = config, storage, scratch, run, console

    def go(self, wanted: set[str], trains: bool) -> Done:
        config, storage = self._config, self._storage
        recipe = Brought() if isinstance(config.captions, BroughtConfig) else config.recipe
        prompts = recipe.prompts()  # one that cannot be used is refused before anything is written
        number = _last_run(storage) + 1
        sources, origin = self._sources(wanted)
        version = self._version(recipe, prompts, origin, number)
        known = {**versions(storage), version.fingerprint: version}
        for name in config.train.versions:
            find_version(known, name, "train.versions")
        ledger(storage).pack()
        again = ("failed", "passing") if config.retry else ("passing",)
        missing = wanted - {clip for clip, state in states(storage, version.fingerprint).items() if state not in again}
        if sources is not None:
            if isinstance(recipe, Brought):  # texts that are others now
                before = brought(storage, version.fingerprint)
                missing |= {name for name, now in sources.items() if name in before and before[name] != set(now)}
            missing &= sources.keys()
        self._console.print(
            f"version {version.name} ({version.fingerprint}) of {version.model}: {len(missing):,} of {len(wanted):,} "
            "clips are to be captioned",
            soft_wrap=True,
            markup=False,
        )
        job = CaptionJob(config, recipe, prompts, version, number)
        rows = clip_rows(storage, missing)
        if sources is not None:
            rows = ({**row, "source": sources[row["clip_id"]]} for row in rows)
        version.write(storage)
        with LazyEngine(config.ray, self._run.ray_log) as ray:
            what = f"{version.fingerprint} {number}"
            execute(ray, config, job, rows, len(missing), "Captioning", what, self._scratch, self._run, self._console)
        ledger(storage).pack()
        with self._console.status("Publishing the captions"):
            before_this = len(training(storage))
            counts = publish(storage, config.checks, config.train, version.fingerprint if trains else None)
            if (lost := before_this - len(training(storage))) > 0:
                self._console.print(
                    f"{lost:,} clips that trained with captions of other versions no longer do, since this version has "
                    f"none of them: train.versions=[{version.fingerprint}, OTHER] keeps both",
                    soft_wrap=True,
                    markup=False,
                )
        if left := missing - states(storage, version.fingerprint).keys():
            raise RushesError(f"{len(left)} clips have no row, the first: {min(left)}; run the same command again")
        if config.report.enabled:
            with self._console.status("Making the report"):
                write_report(storage, config.cost, max_tokens=config.checks.max_tokens, clips=config.report.clips)
        found = counts.get(version.fingerprint, Counts())
        self._run.metric(stage="published", version=version.fingerprint, ok=found.ok, flagged=found.flagged)
        return Done(version, len(wanted), found)

    def _sources(self, wanted: set[str]) -> tuple[dict[str, list[str]] | None, str]:
        """Texts that exist already, by clip_id, and what identifies them; None where models see the clips."""
        config, storage = self._config, self._storage
        if isinstance(config.captions, BroughtConfig):
            videos = (row for table in snapshot(storage, "videos") for row in table.to_pylist())
            here = bring(config.captions, videos, clip_rows(storage, wanted), _source(storage), config.dataset)
            for line in here.lines:
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
                log.info("%s", line)
            return {clip_id: list(found) for clip_id, found in here.captions.items()}, ""
        if isinstance(config.recipe, Rewrite):
            of = find_version(versions(storage), config.recipe.of, "recipe.of")
            found, finished = {}, set()
            for clip_id, dense, short, checked in texts(storage, of.fingerprint):
                found[clip_id] = [dense, short]
                finished.add(checked.rpartition("-")[0])
            # Rewritten is what the checks left of it: by other ones, another text.
            return found, " ".join([of.fingerprint, *sorted(finished)])
        return None, ""

    def _version(self, recipe: Recipe, prompts: Mapping[str, Prompt], origin: str, number: int) -> Version:
        config = self._config
        settings = {
            "captions": config.captions.model_dump(mode="json"),
            "text": config.text.model_dump(mode="json") if config.text is not None else None,
            "recipe": recipe.model_dump(mode="json"),
            "frames": config.frames.model_dump(mode="json"),
            "sampling": config.sampling.model_dump(mode="json"),
            "resample": config.resample,
        }
        model = model_of(config, recipe.ROLES)
        asked = {
            "model": model,
            "recipe": {**recipe.described(prompts), **({"of": origin} if isinstance(recipe, Rewrite) else {})},
            "backends": [_asked(config.captions), _asked(config.text)],
            **{name: settings[name] for name in ("frames", "sampling", "resample")},
        }
        fingerprint = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
        known = versions(self._storage).get(fingerprint)
        return Version(
            fingerprint,
            config.version_name,
            known.run if known else number,
            model,
            recipe.kind,  # type: ignore[attr-defined]
            {name: prompt.source for name, prompt in prompts.items()},
            settings,
        )


def _asked(backend: Config | None) -> dict[str, Any]:
    """Settings of a backend that its identity does not name and that change what is answered."""
    if backend is None:
        return {}
    how = getattr(backend, "HOW", set())
    return backend.model_dump(mode="json", exclude=how, exclude_defaults=True)


def _source(storage: Storage) -> str:
    """The folder that the data set was curated from, where its last run says so."""
    for name in reversed(storage.list("runs", "/config.yaml")):
        settings = yaml.safe_load(storage.read_bytes(name))
        if "-curate-" in name and isinstance(settings, dict) and settings.get("input"):
            return str(settings["input"])
    return ""


def _last_run(storage: Storage) -> int:
    runs = [run for table in ledger(storage).read(["run"]) for run in table.column(0).to_pylist()]
    return max([0, *runs, *(version.run for version in versions(storage).values())])
