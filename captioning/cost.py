"""What captions cost: measured seconds and tokens times the prices of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from orchestration.config import Config


class CostConfig(Config):
    """Prices; what has none is not estimated."""

    gpu_hour: float | None = Field(default=None, ge=0)  # of a GPU, or of whatever a worker runs on
    prompt_million: float | None = Field(default=None, ge=0)  # of a million tokens that a server is sent
    output_million: float | None = Field(default=None, ge=0)  # of a million tokens that it answers with
    currency: str = Field(default="USD", pattern=r"^\S{1,8}$")


@dataclass(frozen=True)
class Usage:
    """What captioning some clips took. A sum is over the clips that it was measured for, which may be fewer."""

    clips: int = 0
    seconds: float = 0.0  # of the backend
    timed: int = 0  # clips with seconds
    prompt_tokens: int = 0
    output_tokens: int = 0
    counted: int = 0  # clips with tokens

    @property
    def clips_a_second(self) -> float | None:
        """Of one worker; None where nothing was measured."""
        return self.timed / self.seconds if self.seconds > 0 else None


@dataclass(frozen=True)
class Amount:
    """Money, or why there is no figure."""

    value: float | None
    why: str = ""


def by_time(usage: Usage, cost: CostConfig, clips: int) -> Amount:
    """Of captioning `clips` clips like those of `usage`, by the hours of the backend's machine."""
    if cost.gpu_hour is None:
        return Amount(None, "no price: cost.gpu_hour")
    if not usage.timed:
        return Amount(None, "no seconds measured")
    return Amount(usage.seconds / usage.timed * clips / 3600 * cost.gpu_hour)


def by_tokens(usage: Usage, cost: CostConfig, clips: int) -> Amount:
    """The same by tokens sent and received."""
    missing = [name for name in ("prompt_million", "output_million") if getattr(cost, name) is None]
    if missing:
        return Amount(None, "no price: " + ", ".join(f"cost.{name}" for name in missing))
    if not usage.counted:
        return Amount(None, "no tokens counted")
    prompt = usage.prompt_tokens * (cost.prompt_million or 0.0)
    output = usage.output_tokens * (cost.output_million or 0.0)
    return Amount((prompt + output) / 1e6 / usage.counted * clips)
