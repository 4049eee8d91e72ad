"""The commands of captioning, as the command line calls them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from captioning.config import CaptionConfig
from orchestration.config import load_config
from orchestration.errors import ConfigError
from orchestration.storage import Storage

OUT = Console()
COMPARED = 20  # clips, where --compare is given without a limit


def caption(arguments: Sequence[str], limit: int | None, compare: bool) -> None:
    """`arguments`: [labels] CONFIG [KEY=VALUE]..."""
    labels, rest = arguments[0] == "labels", list(arguments)
    if labels:
        rest = rest[1:]
    if not rest or "=" in rest[0]:
        raise ConfigError("which configuration? rushes caption [labels] CONFIG [KEY=VALUE]...")
    overrides = [*rest[1:], *([f"limit={limit}"] if limit is not None else [])]
    config = load_config(CaptionConfig, Path(rest[0]), overrides)
    if labels:
        if compare:
            raise ConfigError("--compare goes with captions, not with labels")
        from captioning.label import label

        OUT.print(label(config, OUT))
    elif compare:
        from captioning.comparison import compare as side_by_side

        page = side_by_side(config, limit or config.limit or COMPARED, OUT)
        OUT.print(f"comparison: {page}", soft_wrap=True, highlight=False, markup=False)
    else:
        from captioning.run import caption as run

        OUT.print(run(config, OUT))
        if config.report.enabled:
            OUT.print(
                f"report: {Storage(config.dataset).path('report/index.html')}",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )
