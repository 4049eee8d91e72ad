"""The commands of curation, as the command line calls them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from curation.config import CurateConfig
from orchestration.config import load_config
from orchestration.errors import ConfigError
from orchestration.lock import WriterLock
from orchestration.storage import Storage

OUT = Console()


def curate(config: Path, overrides: Sequence[str], dry_run: bool) -> None:
    settings = load_config(CurateConfig, config, overrides)
    if dry_run:
        from curation.estimate import estimate

        OUT.print(estimate(settings, OUT))
        return
    from curation.curate import curate as run

    OUT.print(run(settings, OUT))
    storage = Storage(settings.output)
    if settings.report.enabled:
        OUT.print(f"report: {storage.path('report/index.html')}", soft_wrap=True, highlight=False)


def select(config: Path, overrides: Sequence[str]) -> None:
    from curation.dataset.accounting import account
    from curation.dataset.publish import publish
    from curation.dataset.records import embedding_token
    from curation.dataset.vlm_labels import are_published
    from curation.schema import CLIPS
    from curation.scorers import score_columns
    from curation.select import read_funnel, select_dataset
    from orchestration.tables import settle

    settings = load_config(CurateConfig, config, overrides)
    storage = Storage(settings.output)
    with WriterLock(storage, "select"):
        settle(storage)
        before = read_funnel(storage)
        if not are_published(storage):
            with OUT.status("Taking over the labels that `rushes caption labels` made"):
                publish(storage, settings.scorers)
        columns, embedding = (*CLIPS, *score_columns()), embedding_token(settings.scorers)
        funnel = select_dataset(storage, settings.select, columns, damage=settings.damage, embedding=embedding)
    OUT.print(funnel)
    change = f" ({funnel.kept - before.kept:+,})" if before else ""
    OUT.print(f"{funnel.kept:,} clips kept{change}", highlight=False)
    uncut = account(storage).cuts["none"]
    if settings.cut.mode != "none" and uncut:
        OUT.print(f"{uncut:,} of them have no file yet: `rushes curate {config}` cuts them", soft_wrap=True)
    if funnel.unscored:
        OUT.print(
            f"{funnel.unscored:,} clips are dropped for nothing but a missing score: `rushes curate {config}` measures "
            "what can be measured",
            soft_wrap=True,
        )


def status(target: str, overrides: Sequence[str], as_json: bool) -> None:
    from curation.dataset.accounting import account

    accounts = account(_dataset(target, overrides))
    if as_json:
        typer.echo(json.dumps(accounts.to_dict()))
    else:
        OUT.print(accounts)


def report(config: Path, overrides: Sequence[str]) -> None:
    from curation.report.write import write_report
    from orchestration.tables import settle

    settings = load_config(CurateConfig, config, overrides)
    storage = Storage(settings.output)
    with WriterLock(storage, "report"):
        settle(storage)
        write_report(storage, settings)
    OUT.print(f"report: {storage.path('report/index.html')}", soft_wrap=True, highlight=False)


def explain(target: str, clip_id: str, overrides: Sequence[str], as_json: bool) -> None:
    from curation.dataset.explain import explain as look_up
    from curation.dataset.explain import render

    storage = _dataset(target, overrides)
    facts = look_up(storage, clip_id)
    if as_json:
        typer.echo(json.dumps(facts, default=str))
        return
    OUT.print(render(facts, _rule_texts(storage)))


def forget(target: str, video_id: str, overrides: Sequence[str], yes: bool) -> None:
    from curation.dataset.forget import forget as take_down

    storage = _dataset(target, overrides)
    if not yes:
        typer.confirm(f"Remove all rows and media of video {video_id} from {storage.uri} for good?", abort=True)
    removed = take_down(storage, video_id)
    OUT.print(f"removed {removed['clips']} clips, {removed['media']} files, {removed['rows']} rows of {video_id}")
    OUT.print(
        "a tombstone keeps it from being taken in again; `rushes report` and `rushes caption` make their pages anew"
    )


def doctor(config: Path | None, overrides: Sequence[str], as_json: bool) -> None:
    from curation.doctor import checks
    from orchestration.doctor import examine

    settings = load_config(CurateConfig, config, overrides) if config else None
    examine(checks(settings), as_json, OUT)


def _rule_texts(storage: Storage) -> dict[str, list[str]]:
    """Column -> the conditions on it by which the dataset was decided last, as text."""
    from curation.select import read_funnel, read_selection

    selection, funnel = read_selection(storage), read_funnel(storage)
    found: dict[str, list[str]] = {}
    for condition in selection.conditions if selection else ():
        text = condition.text(True)
        if funnel and condition.best is not None:
            limit = funnel.thresholds.get(condition.text(False))
            text += f" (the limit is {limit:g})" if limit is not None else ""
        found.setdefault(condition.column, []).append(text)
    return found


def _dataset(target: str, overrides: Sequence[str]) -> Storage:
    """A dataset by its folder or URI, or by a configuration that writes to it."""
    if target.endswith((".yaml", ".yml")):
        return Storage(load_config(CurateConfig, target, overrides).output)
    if overrides:
        raise ConfigError("key=value goes with a configuration, not with a dataset")
    return Storage(target)
