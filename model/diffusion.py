"""The diffusion process (CogVideoX, section 2.3 and appendix): noise schedule, predictions, and what turns one into
another. Pure functions; only the schedule's settings are a class.

    x_t = √ᾱ x0 + √(1-ᾱ) ε        v = √ᾱ ε - √(1-ᾱ) x0        (Salimans and Ho, arXiv 2202.00512)

ᾱ ("alpha_bar") is a number, or a tensor [B] for a batch. Give float32 tensors: 16-bit ones lose the small terms.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from model import pretrained

Prediction = Literal["v_prediction", "epsilon"]
# What scheduler_config.json may say beside, and the only value that is supported.
_FIXED = {
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}
# What diffusers takes where scheduler_config.json does not say.
_ABSENT = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "snr_shift_scale": 3.0,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "timestep_spacing": "leading",
}
_UNUSED = {"clip_sample_range": 1.0, "sample_max_value": 1.0}  # of clipping, which is off


@dataclass(frozen=True)
class NoiseSchedule:
    """Scaled-linear betas, shifted in signal-to-noise ratio, ending in pure noise. Defaults are CogVideoX-2B's; 5B has
    a shift of 1. Field names are those of diffusers' scheduler_config.json.

    Raises:
        ValueError: ε-prediction with a zero terminal SNR, from which no x0 follows.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    snr_shift_scale: float = 3.0
    rescale_betas_zero_snr: bool = True
    prediction_type: Prediction = "v_prediction"

    def __post_init__(self) -> None:
        if self.snr_shift_scale <= 0:
            raise ValueError(f"snr_shift_scale is {self.snr_shift_scale}; it has to be above 0")
        if self.prediction_type not in get_args(Prediction):
            raise ValueError(f"prediction_type is {self.prediction_type!r}, not {' or '.join(get_args(Prediction))}")
        if self.prediction_type == "epsilon" and self.rescale_betas_zero_snr:
            raise ValueError(
                "prediction_type epsilon cannot start from pure noise (rescale_betas_zero_snr): at ᾱ = 0 the noise "
                "says nothing about x0. Use v_prediction, or set rescale_betas_zero_snr to false"
            )

    def alpha_bars(self) -> Tensor:
        """ᾱ of every timestep, [num_train_timesteps] float64, falling.

        The SNR shift ᾱ/(s + (1-s)ᾱ) comes first, then the zero-terminal-SNR rescaling (Lin et al., arXiv 2305.08891).
        """
        ends = (self.beta_start**0.5, self.beta_end**0.5)
        betas = torch.linspace(*ends, self.num_train_timesteps, dtype=torch.float64) ** 2
        alpha_bars = torch.cumprod(1 - betas, dim=0)
        alpha_bars = alpha_bars / (self.snr_shift_scale + (1 - self.snr_shift_scale) * alpha_bars)
        if self.rescale_betas_zero_snr:
            root = alpha_bars.sqrt()
            alpha_bars = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
        return alpha_bars

    @classmethod
    def from_pretrained(cls, where: str | Path, *, revision: str | None = None) -> Self:
        """From the scheduler/ of a diffusers CogVideoX folder or hub name. Raises ValueError for other processes."""
        folder = pretrained.locate(where, "scheduler", revision)
        found = pretrained.read_config(folder, pretrained.SCHEDULERS.values(), "scheduler_config.json")
        found = {key: value for key, value in {**_ABSENT, **found}.items() if key not in _UNUSED}
        return pretrained.to_config(found, cls, _FIXED, folder / "scheduler_config.json")

    def save_pretrained(self, folder: str | Path, sampler: str = "dpm") -> None:
        """Writes scheduler_config.json, for diffusers to sample with "dpm" or "ddim"."""
        if sampler not in pretrained.SCHEDULERS:
            raise ValueError(f"no sampler {sampler!r}; there are {', '.join(pretrained.SCHEDULERS)}")
        content = {"_class_name": pretrained.SCHEDULERS[sampler], **_FIXED, **_UNUSED, **asdict(self)}
        pretrained.write_json(Path(folder) / "scheduler_config.json", content)


def add_noise(x0: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """x_t."""
    signal, sigma = _roots(alpha_bar, x0)
    return signal * x0 + sigma * noise


def target(x0: Tensor, noise: Tensor, alpha_bar: Tensor | float, prediction: Prediction) -> Tensor:
    """What the network should predict from x_t. Its plain squared error, for v, is x0's weighted by 1/(1-ᾱ)."""
    if prediction == "epsilon":
        return noise
    signal, sigma = _roots(alpha_bar, x0)
    return signal * noise - sigma * x0


def to_x0(output: Tensor, x_t: Tensor, alpha_bar: Tensor | float, prediction: Prediction) -> Tensor:
    """x0 as a prediction says. For ε not at ᾱ = 0."""
    signal, sigma = _roots(alpha_bar, x_t)
    if prediction == "epsilon":
        return (x_t - sigma * output) / signal
    return signal * x_t - sigma * output


def to_noise(output: Tensor, x_t: Tensor, alpha_bar: Tensor | float, prediction: Prediction) -> Tensor:
    """ε as a prediction says."""
    if prediction == "epsilon":
        return output
    signal, sigma = _roots(alpha_bar, x_t)
    return signal * output + sigma * x_t


def _roots(alpha_bar: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ and √(1-ᾱ), computed in float64, to multiply `like` with."""
    precise = torch.as_tensor(alpha_bar, dtype=torch.float64, device="cpu" if like.device.type == "mps" else None)
    if precise.ndim and precise.shape != like.shape[:1]:
        raise ValueError(f"alpha_bar has shape {list(precise.shape)}; one number, or one a sample ({like.shape[0]})")
    precise = precise.view(-1, *[1] * (like.ndim - 1)) if precise.ndim else precise
    return precise.sqrt().to(like), (1 - precise).sqrt().to(like)
