"""`rushes caption labels`: a model looks for CogVideoX's six negative labels; rules of `select` can use its scores."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from captioning.config import CaptionConfig
from captioning.execute import execute
from captioning.labels import ROLES, LabelsJob, last_run, states, wanted
from captioning.make import model_of
from captioning.todo import clip_rows, require_clips
from curation.dataset.vlm_labels import vlm_labels
from orchestration.errors import ConfigError, RushesError
from orchestration.runs import writing
from orchestration.session import LazyEngine
from orchestration.storage import Storage

BLIND = ("attributes", "brought", "text")


@dataclass(frozen=True)
class Labelled:
    """Clips of a run, by what became of them."""

    measured: str
    ok: int
    failed: int

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row("labels", f"{self.ok + self.failed:,}", f"{self.ok:,} ok + {self.failed:,} failed")
        table.add_row("measured as", "", Text(self.measured))
        table.add_row("next", "", "`rushes select` decides by them: docs/captions/labels.md")
        return table


def label(config: CaptionConfig, console: Console) -> Labelled:
    """The whole run. Raises RushesError where it could not complete."""
    if config.captions.kind in BLIND:
        raise ConfigError(
            f"captions.kind is {config.captions.kind}, which sees no pictures: labels need a model that does"
        )
    storage = Storage(config.dataset)
    require_clips(storage)
    model = model_of(config, ROLES)
    with writing(storage, config, "labels", config.scratch) as (scratch, run):
        asked = wanted(storage, config.labels, config.limit)
        ledger = vlm_labels(storage)
        ledger.pack()
        job = LabelsJob(config.dataset, config.labels, config.frames, model, last_run(storage) + 1)
        again = ("failed", "passing") if config.retry else ("passing",)
        missing = asked - {clip for clip, state in states(storage, job.measured).items() if state not in again}
        console.print(
            f"labels of {model}: {len(missing):,} of {len(asked):,} clips are to be looked at",
            soft_wrap=True,
            markup=False,
        )
        rows, what = clip_rows(storage, missing), f"{job.measured} {job.run}"
        with LazyEngine(config.ray, run.ray_log) as ray:
            execute(ray, config, job, rows, len(missing), "Labelling", what, scratch, run, console)
        ledger.pack()
        found = states(storage, job.measured)
        if left := missing - found.keys():
            raise RushesError(f"{len(left)} clips have no row, the first: {min(left)}; run the same command again")
    ok = sum(found.get(clip) == "ok" for clip in asked)
    return Labelled(job.measured, ok, len(asked) - ok)
