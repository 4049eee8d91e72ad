"""Which clips can still be kept, before everything is measured: expensive scorers look at no others."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa

from curation.duplicates.config import EMBEDDING
from curation.rules.conditions import AllOf, AnyOf, Condition, Not, RuleBase
from curation.rules.decide import Damage, decide
from curation.rules.overrides import Overrides
from curation.rules.selection import Selection


def could_be_kept(
    clips: pa.RecordBatch | pa.Table,
    selection: Selection,
    pending: Collection[str],
    *,
    damage: Damage,
    overrides: Overrides | None = None,
) -> np.ndarray:
    """[n] bool: no rule is against the clip, whatever the columns in `pending`, which are not measured yet, will be.

    A value that is missing in another column counts as it does in the selection: there it stays missing.
    """
    rules = tuple(_forgiving(rule, pending) for rule in selection.rules)
    near = selection.near_duplicates
    near = near.model_copy(update={"missing": "keep"}) if near and EMBEDDING in pending else near
    forgiving = selection.model_copy(update={"rules": rules, "near_duplicates": near})
    decided = decide(clips, forgiving, damage=damage, overrides=overrides)
    return decided.column("kept").to_numpy(zero_copy_only=False)


def _forgiving(rule: RuleBase, pending: Collection[str]) -> RuleBase:
    if isinstance(rule, Condition):
        return rule.model_copy(update={"missing": "keep"}) if rule.column in pending else rule
    if isinstance(rule, Not):
        return rule.model_copy(update={"rule": _forgiving(rule.rule, pending)})
    name = "any" if isinstance(rule, AnyOf) else "all"
    assert isinstance(rule, AnyOf | AllOf)
    return rule.model_copy(update={name: tuple(_forgiving(part, pending) for part in getattr(rule, name))})
