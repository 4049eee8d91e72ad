"""Conditions on the columns of a clip, and combinations of them.

A rule has three outcomes for a clip: it holds, it fails, or a column it needs was not scored. The third counts against
the clip (`missing: drop`) unless the condition says `missing: keep`, also below `not`: no clip is kept because a score
is absent. Of a still picture a column on time or motion says nothing: conditions on it never count against one.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from pydantic import Discriminator, Field, Tag, field_validator, model_serializer, model_validator

from orchestration.config import Config

_KEYS = ("min", "max", "in", "not_in", "best", "lowest", "missing")
_COMBINATIONS = ("any", "all", "not")


class Columns(Protocol):
    """Columns of one batch of n clips."""

    def numbers(self, column: str) -> np.ndarray:
        """[n] float64, NaN where not scored."""
        ...

    def among(self, column: str, values: tuple[bool | str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """[n] bool: the value is one of `values`; [n] bool: there is no value."""
        ...

    def exempt(self, column: str) -> np.ndarray:
        """[n] bool: the clip is a still picture, of which the column says nothing."""
        ...


class RuleBase(Config):
    def conditions(self) -> Iterator[Condition]:
        """Every condition in it, in order."""
        raise NotImplementedError

    def text(self, holds: bool) -> str:
        """What is true of a clip where the rule holds, or where it does not."""
        raise NotImplementedError

    def truth(self, columns: Columns, unscored: bool, forgiven: bool = True) -> np.ndarray:
        """[n] bool. A missing value counts as `unscored`, or as `forgiven` where the condition says `missing: keep` or
        the clip is exempt."""
        raise NotImplementedError


class Condition(RuleBase):
    """One column against a range (`min`, `max`, both inclusive), a list (`in`, `not_in`) or a quantile (`best`)."""

    column: str
    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)
    one_of: tuple[bool | str, ...] | None = Field(default=None, alias="in", min_length=1)
    not_in: tuple[bool | str, ...] | None = Field(default=None, min_length=1)
    best: str | None = None  # "20%" of the clips that pass every row-wise rule; the highest values, ties included
    lowest: bool = False  # the best are the lowest values
    missing: Literal["drop", "keep"] = "drop"

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("column"), str):
            return data
        if not isinstance(data, dict) or len(data) != 1:
            raise ValueError("a rule is `- column: {min: 1}`, or any, all or not with rules below it")
        ((column, body),) = data.items()
        if not isinstance(body, dict):
            raise ValueError(f"{column}: write its conditions as {{min: 1}}, not as {body!r}")
        for key in body:
            if key not in _KEYS:
                raise ValueError(f"{column}: unknown condition {key!r}{nearest(str(key), _KEYS)}")
        return {"column": str(column), **body}

    @field_validator("min", "max", mode="before")
    @classmethod
    def _no_truth(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("a number is wanted (YAML reads yes, no, on and off as true and false)")
        return value

    @field_validator("best", mode="before")
    @classmethod
    def _percentage(cls, best: Any) -> str | None:
        if best is None:
            return None
        match = re.fullmatch(r"(\d+(\.\d+)?) ?%", str(best).strip())
        if not match or not 0 < Fraction(match[1]) <= 100:
            raise ValueError(f"best is a percentage above 0% and up to 100%, such as 20%; found {best!r}")
        return f"{match[1]}%"

    @model_validator(mode="after")
    def _one_test(self) -> Condition:
        in_range = self.min is not None or self.max is not None
        given = [in_range, self.one_of is not None, self.not_in is not None, self.best is not None]
        if sum(given) != 1:
            raise ValueError(
                f"{self.column}: give one of min/max, in, not_in and best; write further ones as more rules"
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"{self.column}: no value can pass, min {self.min:g} is above max {self.max:g}")
        if self.lowest and self.best is None:
            raise ValueError(f"{self.column}: lowest goes with best, as in {{best: 20%, lowest: true}}")
        if len({type(value) for value in self.values}) > 1:
            raise ValueError(
                f"{self.column}: {list(self.values)} mixes text and true/false (YAML reads no, off as false)"
            )
        return self

    @model_serializer
    def _to_yaml(self) -> dict[str, Any]:
        body = {"min": self.min, "max": self.max, "in": self.one_of, "not_in": self.not_in, "best": self.best}
        body |= {"lowest": self.lowest or None, "missing": "keep" if self.missing == "keep" else None}
        body = {key: list(value) if isinstance(value, tuple) else value for key, value in body.items()}
        return {self.column: {key: value for key, value in body.items() if value is not None}}

    @property
    def values(self) -> tuple[bool | str, ...]:
        return self.one_of or self.not_in or ()

    @property
    def type(self) -> pa.DataType:
        """What the column is read as."""
        if not self.values:
            return pa.float64()
        return pa.bool_() if isinstance(self.values[0], bool) else pa.string()

    def rank(self, count: int) -> int:
        """For `best`: the ascending rank, among `count` >= 1 values, of the last that is still one of the best."""
        assert self.best is not None
        taken = math.ceil(Fraction(self.best[:-1]) / 100 * count)
        return taken - 1 if self.lowest else count - taken

    def conditions(self) -> Iterator[Condition]:
        yield self

    def text(self, holds: bool) -> str:
        if self.best is not None:
            return f"{self.column}:{'' if holds else ' not'} in {'lowest' if self.lowest else 'best'} {self.best}"
        if self.values:
            names = ", ".join(str(value).lower() if isinstance(value, bool) else value for value in self.values)
            return f"{self.column} {'' if holds is (self.one_of is not None) else 'not '}in [{names}]"
        low, high = (">=", "<=") if holds else ("<", ">")
        parts = [f"{self.column} {low} {_number(self.min)}"] if self.min is not None else []
        parts += [f"{self.column} {high} {_number(self.max)}"] if self.max is not None else []
        return (" and " if holds else " or ").join(parts)

    def truth(self, columns: Columns, unscored: bool, forgiven: bool = True) -> np.ndarray:
        if self.values:
            passes, missing = columns.among(self.column, self.values)
            passes = passes if self.one_of is not None else ~passes
        else:
            value = columns.numbers(self.column)
            missing = np.isnan(value)
            passes = np.ones(len(value), bool) if self.min is None else value >= self.min
            passes = passes if self.max is None else passes & (value <= self.max)
        passes = np.where(missing, forgiven if self.missing == "keep" else unscored, passes)
        return np.where(columns.exempt(self.column), forgiven, passes)


class AnyOf(RuleBase):
    """At least one of the rules holds."""

    any: tuple[Rule, ...] = Field(min_length=1)

    def conditions(self) -> Iterator[Condition]:
        for rule in self.any:
            yield from rule.conditions()

    def text(self, holds: bool) -> str:
        return _join(self.any, " or " if holds else " and ", holds)

    def truth(self, columns: Columns, unscored: bool, forgiven: bool = True) -> np.ndarray:
        return np.logical_or.reduce([rule.truth(columns, unscored, forgiven) for rule in self.any])


class AllOf(RuleBase):
    """Every one of the rules holds. At the top level the same as writing them one below the other."""

    all: tuple[Rule, ...] = Field(min_length=1)

    def conditions(self) -> Iterator[Condition]:
        for rule in self.all:
            yield from rule.conditions()

    def text(self, holds: bool) -> str:
        return _join(self.all, " and " if holds else " or ", holds)

    def truth(self, columns: Columns, unscored: bool, forgiven: bool = True) -> np.ndarray:
        return np.logical_and.reduce([rule.truth(columns, unscored, forgiven) for rule in self.all])


class Not(RuleBase):
    """The rule does not hold. A missing value below it still counts against the clip."""

    rule: Rule = Field(alias="not")

    @model_serializer
    def _to_yaml(self) -> dict[str, Any]:
        return {"not": self.rule.model_dump(mode="json")}

    def conditions(self) -> Iterator[Condition]:
        yield from self.rule.conditions()

    def text(self, holds: bool) -> str:
        return self.rule.text(not holds)

    def truth(self, columns: Columns, unscored: bool, forgiven: bool = True) -> np.ndarray:
        return ~self.rule.truth(columns, not unscored, not forgiven)


def _tag(data: Any) -> str:
    if isinstance(data, RuleBase):
        return {AnyOf: "any", AllOf: "all", Not: "not"}.get(type(data), "condition")
    key = next(iter(data)) if isinstance(data, dict) and len(data) == 1 else None
    return key if key in _COMBINATIONS else "condition"


Rule = Annotated[
    Annotated[Condition, Tag("condition")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[AllOf, Tag("all")]
    | Annotated[Not, Tag("not")],
    Discriminator(_tag),
]


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


def _join(rules: tuple[RuleBase, ...], word: str, holds: bool) -> str:
    texts = [rule.text(holds) for rule in rules]
    if len(texts) > 1:
        texts = [f"({text})" if " and " in text or " or " in text else text for text in texts]
    return word.join(texts)


def nearest(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(known))}"
