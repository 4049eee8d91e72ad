"""`rushes doctor`: runs checks of what works on this machine, and shows what to do about what does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

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


def exit_code(checks: Iterable[Check]) -> int:
    """1 if a check failed; warnings do not count."""
    return int(any(check.status == "fail" for check in checks))


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
