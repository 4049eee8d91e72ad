"""What became of all clips: how many each rule dropped, and how many hours are left."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from curation.rules.decide import Decision

Kind = Literal["hand", "rule", "unscored", "quantile", "duplicate"]
_MICRO = 1_000_000


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Plain):
    """One reason to drop a clip."""

    reason: str
    kind: Kind
    dropped: int  # clips whose first failing reason this is
    failing: int  # dropped clips that it applies to at all
    dropped_s: float  # seconds of the former


class Quantile(_Plain):
    """What a `best: N%` came to."""

    reason: str
    column: str
    population: int  # clips that pass every row-wise rule and have a value
    threshold: float | None  # the last value that is still among the best; None without a population


class Funnel(_Plain):
    """Clips in order of the rules. `clips == kept + sum(stage.dropped)` always holds."""

    fingerprint: str  # of the rules, the damage setting and the overrides' decisions
    damage: str
    clips: int
    kept: int
    kept_by_hand: int  # kept although a rule would have dropped them
    unscored: int  # dropped for nothing but a missing score
    seconds: float
    kept_seconds: float
    stages: tuple[Stage, ...]
    quantiles: tuple[Quantile, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def thresholds(self) -> dict[str, float]:
        """Reason of each quantile -> its threshold."""
        return {item.reason: item.threshold for item in self.quantiles if item.threshold is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.model_dump(mode="json")

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("", "dropped", "failing", "clips left", "hours left"):
            table.add_column(name, justify="right" if name else "left", overflow="fold")
        left, seconds = self.clips, self.seconds
        table.add_row("clips", "", "", f"{left:,}", f"{seconds / 3600:,.2f}")
        for stage in self.stages:
            left, seconds = left - stage.dropped, seconds - stage.dropped_s
            # Rules that dropped nothing are shown, a person wants to see that they were applied; the rest is noise.
            if stage.dropped or stage.kind in ("rule", "quantile", "duplicate"):
                hours = f"{max(seconds, 0) / 3600:,.2f}"
                table.add_row(Text(stage.reason), f"{stage.dropped:,}", f"{stage.failing:,}", f"{left:,}", hours)
        share = f" ({self.kept / self.clips:.1%})" if self.clips else ""
        table.add_row(Text(f"kept{share}", "bold"), "", "", f"{self.kept:,}", f"{self.kept_seconds / 3600:,.2f}")
        lines = [f"{q.reason}: the limit is {q.threshold:g} among {q.population:,} clips" for q in self.quantiles_found]
        if self.kept_by_hand:
            lines.append(f"kept by hand against a rule: {self.kept_by_hand:,}")
        if self.unscored:
            lines.append(f"dropped for nothing but a missing score: {self.unscored:,}")
        return Group(table, *map(Text, lines), *(Text(f"warning: {warning}", "yellow") for warning in self.warnings))

    @property
    def quantiles_found(self) -> list[Quantile]:
        return [item for item in self.quantiles if item.threshold is not None]

    def __str__(self) -> str:
        """The same as plain text, 110 columns wide."""
        console = Console(file=io.StringIO(), width=110, color_system=None)
        console.print(self)
        return console.file.getvalue()  # type: ignore[attr-defined]


class Tally:
    """Adds up batches. Times are counted in whole microseconds, so that the sums do not depend on the batches."""

    def __init__(self, reasons: list[tuple[str, Kind]]):
        self._reasons = reasons
        self.clips = self.kept = self.kept_by_hand = self.unscored = 0
        self._dropped = np.zeros(len(reasons), np.int64)
        self._failing = np.zeros(len(reasons), np.int64)
        self._micros = np.zeros(len(reasons) + 1, np.int64)  # the last is the kept clips'

    def add(self, decision: Decision, duration: np.ndarray) -> None:
        """duration: [n] s; a clip without one counts as none."""
        first = decision.first
        self.clips += len(first)
        self.kept += int(decision.kept.sum())
        self.kept_by_hand += int(decision.by_hand.sum())
        self.unscored += int(decision.unscored.sum())
        self._dropped += np.bincount(first[first >= 0], minlength=len(self._reasons))
        self._failing += decision.failing.sum(axis=0)
        micros = np.rint(np.nan_to_num(duration) * _MICRO).astype(np.int64)
        np.add.at(self._micros, first, micros)  # -1, kept, is the last

    @property
    def seconds(self) -> float:
        return int(self._micros.sum()) / _MICRO

    @property
    def kept_seconds(self) -> float:
        return int(self._micros[-1]) / _MICRO

    def stages(self) -> tuple[Stage, ...]:
        """One for each reason; where two rules share a reason the first has all of it."""
        found: dict[str, Stage] = {}
        for (reason, kind), dropped, failing, micros in zip(
            self._reasons, self._dropped, self._failing, self._micros[:-1], strict=True
        ):
            before = found.get(reason)
            found[reason] = Stage(
                reason=reason,
                kind=kind,
                dropped=int(dropped) + (before.dropped if before else 0),
                failing=int(failing) + (before.failing if before else 0),
                dropped_s=int(micros) / _MICRO + (before.dropped_s if before else 0),
            )
        return tuple(found.values())
