"""The configuration of a curation run: one YAML."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from curation.cut import CutConfig
from curation.decode import DecodeConfig
from curation.plan import MeasurePlan
from curation.rules.selection import Selection
from curation.schema import CLIPS
from curation.scorers import AnyScorer, score_columns
from curation.scorers.labels import label_columns
from curation.shots import Shots
from curation.shots.adaptive import Adaptive
from curation.video import PictureScorer
from orchestration.config import Config
from orchestration.session import RayConfig


def _share(value: object) -> object:
    """`0.1%` and `0.001` mean the same."""
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    return value


Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1)]


class ReportConfig(Config):
    """The page that every run ends with."""

    enabled: bool = True
    previews: int = Field(default=6, ge=0, le=50)  # playable clips on each side of a threshold
    max_mb: float = Field(default=25.0, gt=1)


class CurateConfig(Config):
    """`rushes curate`: raw videos in; scored, chosen and cut clips out."""

    input: str  # a folder, a glob, a list file (.txt) or any fsspec URI
    output: str  # the dataset: a folder or any fsspec URI
    limit: int | None = Field(default=None, ge=1)  # take the first files only
    sample: Share | None = None  # take a stable share of the files, as in 0.1%
    images: bool = True  # pictures (JPEG, PNG, WebP) become clips of one frame; false: they are failed files
    retry: bool = False  # take files again that failed; those that failed for a passing reason are taken again anyway
    scratch: str | None = None  # local folder for files in work; null: the system's temporary folder
    damage: Literal["keep_clean", "reject", "keep"] = "keep_clean"  # of a damaged video: its clean clips, none, or all
    decode: DecodeConfig = DecodeConfig()
    shots: Shots = Adaptive()
    scorers: tuple[AnyScorer, ...] = ()
    score_all: bool = False  # picture scorers look at every clip, not only at those that the rules still keep
    select: Selection = Selection()  # `all`, or rules
    cut: CutConfig = CutConfig()
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _columns_exist(self) -> CurateConfig:
        measured = [column for scorer in self.scorers for column in scorer.columns()]
        # Labels can come without a scorer, from `rushes caption labels`: later than the first decision, so that a rule
        # on them has to let clips pass until then.
        strict = {condition.column for condition in self.select.conditions if condition.missing != "keep"}
        measured += [column for column in label_columns("") if column.name not in strict]
        self.select.check_columns((*CLIPS, *measured), score_columns())
        return self

    @model_validator(mode="after")
    def _scorers_fit(self) -> CurateConfig:
        kinds = [scorer.kind for scorer in self.scorers]
        if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(f"scorer {twice[0]!r} is listed twice")
        for scorer in self.picture_scorers:
            if scorer.device == "cuda" and not self.ray.worker_gpus:
                raise ValueError(
                    f"scorers.{scorer.kind}.device is cuda, but workers have no GPU: set ray.worker_gpus "
                    "(0.5: two workers share one)"
                )
        return self

    @property
    def picture_scorers(self) -> tuple[PictureScorer, ...]:
        """Those that look at pictures of clips, in the order of the configuration."""
        return tuple(scorer for scorer in self.scorers if isinstance(scorer, PictureScorer))

    @property
    def plan(self) -> MeasurePlan:
        return MeasurePlan(shots=self.shots, scorers=self.scorers)
