"""Which clips to keep: the `select:` section of a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from pydantic import model_validator

from curation.duplicates.config import EMBEDDING, NearDuplicates
from curation.rules.conditions import AllOf, Condition, Rule, RuleBase, nearest
from curation.video import Column
from orchestration.config import Config
from orchestration.errors import ConfigError


class Selection(Config):
    """`select: all`, or rules in order, near-duplicates last, and a person's overrides."""

    rules: tuple[Rule, ...] = ()
    near_duplicates: NearDuplicates | None = None  # of clips that look alike one stays; null: all
    overrides: str | None = None  # CSV with clip_id, decision, note; relative to the dataset

    @model_validator(mode="before")
    @classmethod
    def _select_all(cls, data: Any) -> Any:
        if data == "all":
            return {"rules": ()}
        if not isinstance(data, dict):
            raise ValueError(f"write `select: all`, or `rules:` below select; found {data!r}")
        return data

    @model_validator(mode="after")
    def _quantiles_at_the_top(self) -> Selection:
        top = {id(rule) for rule in self.flat}
        for rule in self.flat:
            for condition in rule.conditions():
                if condition.best is not None and id(condition) not in top:
                    raise ValueError(
                        f"{condition.column}: best {condition.best} cannot stand below any or not: a quantile is taken "
                        "among the clips that pass every row-wise rule; write it as a rule of its own"
                    )
        return self

    @property
    def flat(self) -> tuple[RuleBase, ...]:
        """The rules in order; an `all` at the top is its rules."""

        def unfold(rules: Iterable[RuleBase]) -> Iterator[RuleBase]:
            for rule in rules:
                yield from unfold(rule.all) if isinstance(rule, AllOf) else (rule,)

        return tuple(unfold(self.rules))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(condition for rule in self.rules for condition in rule.conditions())

    @property
    def quantiles(self) -> tuple[Condition, ...]:
        return tuple(condition for condition in self.conditions if condition.best is not None)

    @property
    def row_wise(self) -> bool:
        """Each clip can be decided from its own row alone, near-duplicates aside: they are few, so that what passes the
        rules may be cut before it is known which of them stay."""
        return not self.quantiles

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Columns that the decision reads -> the type they are read as."""
        near = self.near_duplicates
        order = {name: pa.float64() for name in near.columns} if near else {}
        return order | self.required

    @property
    def required(self) -> dict[str, pa.DataType]:
        """The same without the columns that near-duplicates are ordered by unless told otherwise."""
        near, found = self.near_duplicates, {condition.column: condition.type for condition in self.conditions}
        if near:
            found = {name: pa.float64() for name in near.columns if near.best} | found | {EMBEDDING: pa.string()}
        return found

    def thresholds(
        self, quantiles: Mapping[str, float] | None = None
    ) -> dict[str, list[tuple[float | None, float | None]]]:
        """Column -> [(min, max)] for the lines of a histogram.

        `quantiles` is what the quantiles came to in a run (`Funnel.thresholds`); without it they are left out.
        """
        found: dict[str, list[tuple[float | None, float | None]]] = {}
        for condition in self.conditions:
            low, high = condition.min, condition.max
            if condition.best is not None:
                limit = (quantiles or {}).get(condition.text(False))
                low, high = (None, limit) if condition.lowest else (limit, None)
            if low is not None or high is not None:
                found.setdefault(condition.column, []).append((low, high))
        return found

    def check_columns(self, there: Iterable[Column], known: Iterable[Column] = ()) -> None:
        """Raise ConfigError, naming every condition on a column that is not `there`, or that holds something else.

        `known` are columns that other settings would give: for those the message says so.
        """
        types = {column.name: column.type for column in there}
        elsewhere = {column.name for column in known} - set(types)
        wrong = []
        wanted = [(condition.column, condition.type, "the condition is on") for condition in self.conditions]
        if near := self.near_duplicates:
            wanted.append((EMBEDDING, pa.string(), "near_duplicates takes"))
            wanted += [(name, pa.float64(), "best of near_duplicates takes") for name in near.columns if near.best]
        for column, kind, who in wanted:
            if column in elsewhere:
                drop = "drop the rule" if "condition" in who else "leave near_duplicates without it"
                wrong.append(f"no scorer of this configuration measures {column}: add one below scorers, or {drop}")
            elif column not in types:
                wrong.append(f"unknown column {column!r}{nearest(column, (*types, *elsewhere))}")
            elif (expects := _kind(kind)) != (holds := _kind(types[column])):
                keys = {"numbers": "min, max or best", "text": "in or not_in with words", "true/false": "in: [true]"}
                use = f": use {keys.get(holds, 'no rule')}" if "condition" in who else ""
                wrong.append(f"{column} holds {holds}, {who} {expects}{use}")
        if wrong:
            raise ConfigError("select: " + "; ".join(dict.fromkeys(wrong)))


def _kind(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "numbers"
    if types.is_boolean(kind):
        return "true/false"
    return "text" if types.is_string(kind) or types.is_large_string(kind) else str(kind)
