"""`rushes doctor`: runs checks of what works on this machine, and shows what to do about what does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestration.errors import RushesError

Status = Literal["ok", "warn", "fail"]
STYLES = {"ok": "green", "warn": "yellow", "fail": "red bold"}


@dataclass(frozen=True)
class Check:
    """One finding. `warn`: a part of rushes does not work or works slowly here; `fail`: a run cannot complete."""

    name: str
    status: Status
    detail: str
    advice: str = ""  # what to do about it


Probe = Callable[[], Check]


def run_checks(probes: Iterable[tuple[str, Probe]]) -> list[Check]:
    """The findings of all (name, probe), in their order; they run side by side, and one that raises has failed."""

    def attempt(item: tuple[str, Probe]) -> Check:
        name, probe = item
        try:
            return probe()
        except Exception as error:
            return Check(name, "fail", f"{type(error).__name__}: {error}", "this check itself broke: please report it")

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(attempt, probes))


def examine(checks: Sequence[Check], as_json_text: bool, console: Console) -> None:
    """Show the findings; raises RushesError (exit code 1) if a check failed, warnings do not count."""
    if as_json_text:
        console.file.write(as_json(checks) + "\n")
    else:
        console.print(as_table(checks))
    failed = [check.name for check in checks if check.status == "fail"]
    if failed:
        raise RushesError(f"not working here: {', '.join(failed)}")


def as_table(checks: Sequence[Check]) -> Table:
    """For a terminal: findings with their advice below them."""
    table = Table("", "check", "found", box=None, padding=(0, 1), show_header=False)
    for check in checks:
        found = Text(check.detail)
        if check.advice:
            found.append(f"\n→ {check.advice}", style="dim" if check.status == "ok" else STYLES[check.status])
        table.add_row(Text(check.status, style=STYLES[check.status]), Text(check.name), found)
    return table


def as_json(checks: Sequence[Check]) -> str:
    """For programs: {"status": the worst one, "checks": [{name, status, detail, advice}]}."""
    worst = max((check.status for check in checks), key=list(STYLES).index, default="ok")
    return json.dumps({"status": worst, "checks": [asdict(check) for check in checks]}, indent=2)
