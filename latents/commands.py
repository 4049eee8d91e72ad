"""The commands of latents, as the command line calls them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from latents.config import LatentsConfig
from orchestration.config import load_config
from orchestration.errors import ConfigError
from orchestration.storage import Storage

OUT = Console()


def latents(arguments: Sequence[str], limit: int | None = None, remove: bool = False) -> None:
    """`arguments`: CONFIG [KEY=VALUE]..., verify DATASET, or decode CONFIG KEY [KEY=VALUE]...; `remove`: of verify."""
    first, *rest = arguments
    if remove and first != "verify":
        raise ConfigError("--remove is of verify: rushes latents verify DATASET --remove")
    if first == "verify":
        _verify(rest, remove)
    elif first == "decode":
        _decode(rest)
    else:
        from latents.run import encode

        overrides = [*rest, *([f"limit={limit}"] if limit is not None else [])]
        config = load_config(LatentsConfig, Path(first), overrides)
        OUT.print(encode(config, OUT))
        if config.report.enabled:
            OUT.print(f"report: {Storage(config.dataset).path('report/index.html')}", soft_wrap=True, highlight=False)


def _verify(arguments: Sequence[str], remove: bool) -> None:
    from latents import verify

    if len(arguments) != 1:
        raise ConfigError("which data set? rushes latents verify DATASET (a folder or URI, or a configuration)")
    target = arguments[0]
    if target.endswith((".yaml", ".yml")):
        target = load_config(LatentsConfig, Path(target)).dataset
    storage = Storage(target)
    problems = verify.verify(storage)
    for problem in problems:
        OUT.print(str(problem), markup=False, soft_wrap=True)
    if not problems:
        OUT.print("every shard is as its index says")
        return
    OUT.print(f"{len(problems):,} problems")
    if remove:
        names = verify.remove(storage, problems)
        for name in names:
            OUT.print(f"removed {name}", markup=False, highlight=False, soft_wrap=True)
        OUT.print(f"{len(names):,} files removed; `rushes latents CONFIG` makes again what is not there")
    raise typer.Exit(1)


def _decode(arguments: Sequence[str]) -> None:
    from latents.show import decode

    if len(arguments) < 2 or "=" in arguments[1]:
        raise ConfigError("which sample? rushes latents decode CONFIG KEY [KEY=VALUE]...")
    config = load_config(LatentsConfig, Path(arguments[0]), arguments[2:])
    OUT.print(decode(config, arguments[1]), soft_wrap=True)
