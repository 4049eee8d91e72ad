"""The configuration of a captioning run: one YAML."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, model_validator

from captioning.backend import Sampling
from captioning.backends.attributes import AttributesConfig
from captioning.backends.local import LocalConfig
from captioning.backends.openai import OpenAIConfig
from captioning.backends.text import TextConfig
from captioning.backends.vllm import VllmConfig
from captioning.brought.config import BroughtConfig
from captioning.checks.check import ChecksConfig
from captioning.cost import CostConfig
from captioning.frames import FramesConfig
from captioning.labels import LabelsConfig
from captioning.prefetch import PrefetchConfig
from captioning.recipes import AnyRecipe, Single
from orchestration.config import Config
from orchestration.session import RayConfig


def _brought(value: Any) -> Any:
    """`from: csv` alone says that captions are brought."""
    return {"kind": "brought", **value} if isinstance(value, dict) and "from" in value else value


# Who answers. `text` sees no pictures: it only summarises and rewrites.
Seeing = Annotated[
    AttributesConfig | LocalConfig | VllmConfig | OpenAIConfig | BroughtConfig | TextConfig,
    Discriminator("kind"),
    BeforeValidator(_brought),
]
Reading = Annotated[TextConfig | LocalConfig | OpenAIConfig, Discriminator("kind")]


UNASKED = ("attributes", "brought")  # kinds that no recipe applies to


class SamplingConfig(Config):
    """How the first try draws tokens; further tries draw more freely."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=768, ge=1)
    repetition_penalty: float = Field(default=1.0, ge=0.5, le=2)
    seed: int = 0

    STEP: ClassVar[float] = 0.4  # of the temperature, from try to try

    def nth(self, number: int, longer: bool = False) -> Sampling:
        """Of try `number`, from 0. longer: the try before was cut off at max_tokens."""
        first = Sampling(**self.model_dump())
        if not number:
            return first
        return Sampling(
            temperature=min(max(1.0, self.temperature), self.temperature + self.STEP * number),
            top_p=min(self.top_p, 0.95),
            max_tokens=self.max_tokens * (2 if longer else 1),
            repetition_penalty=self.repetition_penalty,
            seed=self.seed + number,
        )


class TrainConfig(Config):
    """Which caption of a clip the trainer sees: column `train` of the captions table."""

    # Versions by name or fingerprint, the best first: a clip trains with the first that has a fit caption of it.
    # Empty: the version that this configuration makes.
    versions: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()  # flags that do not keep a caption out of training


class ReportConfig(Config):
    """The captions' page of the report."""

    enabled: bool = True
    clips: int = Field(default=60, ge=1, le=1000)  # shown with all their versions


class CaptionConfig(Config):
    """`rushes caption`: every kept clip gets a short, a dense and a structured caption."""

    # A key that was written into the wrong place is not repeated in messages.
    model_config = ConfigDict(hide_input_in_errors=True)

    dataset: str  # a curated data set: a folder or any fsspec URI; captions are written into it
    name: str | None = Field(default=None, pattern=r"^[\w.+-]{1,60}$")  # of this version, for people; null: the kind
    captions: Seeing = AttributesConfig()
    text: Reading | None = None  # who answers where no pictures are needed (summaries, rewriting); null: captions'
    recipe: AnyRecipe = Single()
    frames: FramesConfig = FramesConfig()
    sampling: SamplingConfig = SamplingConfig()
    resample: int = Field(default=2, ge=0, le=10)  # tries after one that is degenerate or cannot be read
    checks: ChecksConfig = ChecksConfig()
    train: TrainConfig = TrainConfig()
    labels: LabelsConfig = LabelsConfig()  # `rushes caption labels`
    limit: int | None = Field(default=None, ge=1)  # so many clips only, spread over the data set, always the same
    retry: bool = False  # ask again for clips that failed; those that failed for a passing reason are asked anyway
    compare: tuple[dict[str, Any], ...] = ()  # for --compare: settings of other versions, laid over these
    cost: CostConfig = CostConfig()
    prefetch: PrefetchConfig = PrefetchConfig()
    scratch: str | None = None  # local folder for files in work; null: the system's temporary folder
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()

    @property
    def version_name(self) -> str:
        return self.name or self.captions.kind

    @model_validator(mode="after")
    def _fits(self) -> CaptionConfig:
        kind, recipe = self.captions.kind, self.recipe
        rewritten = recipe.kind == "rewrite" and self.text is not None  # by `text`; captions is not asked
        if kind in UNASKED and not rewritten and recipe != Single():
            raise ValueError(f"captions.kind is {kind}, which is asked nothing: leave recipe out")
        if self.text is not None and ((kind in UNASKED and not rewritten) or "text" not in recipe.ROLES):
            raise ValueError(
                f"text is given, but nobody asks it: recipe {recipe.kind} has pictures in all its questions"
            )
        if kind == "text" and recipe.kind != "rewrite":
            raise ValueError("captions.kind is text, which sees no pictures: it can only rewrite (recipe.kind=rewrite)")
        if kind == "vllm" and self.text is not None:
            raise ValueError("captions.kind is vllm, whose engines answer all questions: leave text out")
        for name, one in (("captions", self.captions), ("text", self.text), ("checks.match", self.checks.match)):
            if getattr(one, "device", None) == "cuda" and not self.ray.worker_gpus:
                raise ValueError(f"{name}.device is cuda, but workers have no GPU: set ray.worker_gpus")
        return self
