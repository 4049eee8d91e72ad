"""`select: near_duplicates:`, how alike two clips have to be, and which of them stays."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from orchestration.config import Config

EMBEDDING = "embedding"  # the column that says whether a clip has a vector
UNSCORED = f"{EMBEDDING}: not scored"
_BEST = ("crop_h", "-overlay_text", "duration_s", "sharpness")


class NearDuplicates(Config):
    """Of clips that are `threshold` or more alike (cosine of their embeddings) the best one stays.

    What a number means depends on the model: docs/duplicates.md has measured thresholds.
    """

    threshold: float = Field(default=0.85, gt=0, le=1)
    best: tuple[str, ...] | None = None  # in order of importance; `-column`: lower is better; null: see `order`
    missing: Literal["drop", "keep"] = "drop"  # a clip without an embedding

    @field_validator("best")
    @classmethod
    def _names(cls, best: tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = [name.removeprefix("-") for name in best or ()]
        if best is not None and (not best or "" in names or len(set(names)) < len(names)):
            raise ValueError(
                f"best is a list of different columns, such as [crop_h, -overlay_text]; found {list(best)}"
            )
        return best

    @property
    def order(self) -> tuple[tuple[str, bool], ...]:
        """(column, whether higher is better). By default the original of a copy stays: scaled and cropped copies have
        fewer lines, station logos and subtitles have text, trimmed ones are shorter, encoded ones less sharp."""
        names = _BEST if self.best is None else self.best
        return tuple((name.removeprefix("-"), not name.startswith("-")) for name in names)

    @property
    def columns(self) -> tuple[str, ...]:
        """Numeric columns that the order reads; without values in them clips tie."""
        return tuple(name for name, _ in self.order)

    @property
    def reason(self) -> str:
        return f"near-duplicate (>= {self.threshold:g})"
