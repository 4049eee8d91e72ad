"""Recipes: one file each, a registry here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator

from captioning.recipes.hierarchical import Hierarchical
from captioning.recipes.rewrite import Rewrite
from captioning.recipes.single import Single


def _single(value: Any) -> Any:
    """Settings of a recipe that does not say its kind are those of the default."""
    return {"kind": "single", **value} if isinstance(value, dict) else value


AnyRecipe = Annotated[Single | Hierarchical | Rewrite, Discriminator("kind"), BeforeValidator(_single)]

__all__ = ["AnyRecipe", "Hierarchical", "Rewrite", "Single"]
