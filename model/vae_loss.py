"""What a VAE is trained on: L1, a perceptual distance, KL, and later a discriminator (CogVideoX, section 2.1).

    total = l1 + log_mse + perceptual + kl + adaptive weight * adversarial   (each times its weight of `VAELossConfig`)

Videos are [B, 3, T, H, W] in [-1, 1]. Every term is a mean over what it is made of, so that image and video, small and
large, count alike. No function here changes a parameter or leaves a gradient; terms that are not finite stay so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from model.discriminator import (
    hinge_discriminator,
    hinge_generator,
    non_saturating_discriminator,
    non_saturating_generator,
    r1_penalty,
)

GAME: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "hinge": (hinge_discriminator, hinge_generator),
    "non_saturating": (non_saturating_discriminator, non_saturating_generator),
}
DELTA = 1e-6  # VQGAN, equation 7
ADAPTIVE_MAX = 1e4  # VQGAN's code
GOOD_ENOUGH = 1e-3  # mean squared error, 36 dB, below which a sample hardly gains weight by being better still


@dataclass(frozen=True)
class VAELossConfig:
    """Weights. CogVideoX names its terms and their order but gives no numbers; these are latent diffusion's (LDM,
    Rombach et al., CVPR 2022, its published kl-f8 configuration), but for the start.

    l1: of the mean absolute difference (LDM: 1).
    log_mse: of the logarithm of each sample's mean squared error, which is what PSNR counts: calm samples weigh as much
        as busy ones, which drown them in a mean (ours; 0 in the paper and LDM).
    perceptual: of the distance a frame (LDM: 1, with LPIPS).
    kl: of nats, summed over a sample's latents, a value of its video (LDM: 1e-6; LDM sums L1 and KL, we divide both by
        3*T*H*W, which leaves their ratio).
    adversarial: of the discriminator's verdict (LDM: 0.5); 0: never.
    adversarial_start: step of the first adversarial loss. CogVideoX: after "a few thousand"; LDM: 50,001.
    adaptive: the adversarial term's gradient is made as long as the reconstruction's (VQGAN, equation 7; LDM: on).
    game: "hinge" (LDM), or "non_saturating".
    r1: gamma, of the discriminator's R1 penalty (LDM: none, 0).
    """

    l1: float = 1.0
    log_mse: float = 0.0
    perceptual: float = 1.0
    kl: float = 1e-6
    adversarial: float = 0.5
    adversarial_start: int = 5000
    adaptive: bool = True
    game: Literal["hinge", "non_saturating"] = "hinge"
    r1: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and not value >= 0:
                raise ValueError(f"{field.name} is {value}; weights and steps are 0 or more")
        if self.game not in GAME:
            raise ValueError(f"no adversarial game {self.game!r}; there are {', '.join(GAME)}")

    def adversarial_at(self, step: int) -> bool:
        """Whether generator and discriminator play at this step (from 0)."""
        return self.adversarial > 0 and step >= self.adversarial_start


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence from N(mean, exp(logvar)) to N(0, 1): nats [B], float32, summed over all latents of a sample."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


def generator_loss(
    config: VAELossConfig,
    step: int,
    video: Tensor,
    reconstruction: Tensor,
    mean: Tensor,
    logvar: Tensor,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
    discriminator: nn.Module | None,
    last_layer: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The VAE's loss, and its terms.

    The discriminator's parameters get no gradient by it. The adaptive weight costs a second backward pass through
    perceptual network and discriminator.

    Args:
        step: from 0; see `VAELossConfig.adversarial_start`.
        video: [B, 3, T, H, W] in [-1, 1].
        reconstruction: of the same shape.
        mean, logvar: [B, C, F, h, w], the posterior's.
        perceptual: two videos to distances [B], as `model.perceptual`'s; None where its weight is 0.
        discriminator: the bare module, not one wrapped for several ranks; None where its weight is 0.
        last_layer: the decoder's last weights (of `conv_out`), which the adaptive weight is measured at.

    Returns:
        The weighted sum, and detached float32 scalars without weights: l1, log_mse (0 where its weight is 0),
        perceptual, kl (a value of the video), adversarial (0 before its start), adversarial_weight (adaptive; 1 where
        it is off or no gradient is taken).

    Raises:
        ValueError: shapes that differ, or a weight above 0 without what it needs; the latter from the first step on.
    """
    _check(video, reconstruction)
    if config.perceptual > 0 and perceptual is None:
        raise ValueError("perceptual is above 0, but no perceptual distance is given; give one, or set it to 0")
    if config.adversarial > 0 and discriminator is None:
        raise ValueError("adversarial is above 0, but no discriminator is given; give one, or set it to 0")
    if config.adversarial > 0 and config.adaptive and last_layer is None:
        raise ValueError(
            "the adaptive weight needs last_layer, the decoder's last weights; give it, or set adaptive off"
        )

    zero = torch.zeros((), device=video.device)
    video, made = video.float(), reconstruction.float()
    l1 = (video - made).abs().mean()
    log_mse = ((video - made).square().flatten(1).mean(1) + GOOD_ENOUGH).log().mean() if config.log_mse > 0 else zero
    seen = perceptual(video, made).mean() if perceptual is not None and config.perceptual > 0 else zero
    divergence = kl(mean, logvar).mean() / video[0].numel()
    reconstructed = config.l1 * l1 + config.log_mse * log_mse + config.perceptual * seen
    total = reconstructed + config.kl * divergence

    adversarial, weight = zero, torch.ones_like(zero)
    if discriminator is not None and config.adversarial_at(step):
        frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        adversarial = GAME[config.game][1](functional_call(discriminator, frozen, (made,)).float())
        if config.adaptive and last_layer is not None and torch.is_grad_enabled():
            weight = adaptive_weight(reconstructed, adversarial, last_layer)
        total = total + config.adversarial * weight * adversarial
    terms = {
        "l1": l1,
        "log_mse": log_mse,
        "perceptual": seen,
        "kl": divergence,
        "adversarial": adversarial,
        "adversarial_weight": weight,
    }
    return total, {name: term.detach() for name, term in terms.items()}


def discriminator_loss(
    config: VAELossConfig, video: Tensor, reconstruction: Tensor, discriminator: nn.Module
) -> tuple[Tensor, dict[str, Tensor]]:
    """The discriminator's loss at a step where `VAELossConfig.adversarial_at` says that it plays, and its terms.

    Nothing flows back to the reconstruction.

    Returns:
        The loss, and detached float32 scalars: discriminator (the game's loss), real and fake (mean logits), r1
        (without gamma; 0 where gamma is).

    Raises:
        ValueError: shapes that differ.
    """
    _check(video, reconstruction)
    truth = video.detach().float().requires_grad_(config.r1 > 0)
    real = discriminator(truth).float()
    fake = discriminator(reconstruction.detach().float()).float()
    loss = GAME[config.game][0](real, fake)
    r1 = r1_penalty(truth, real) if config.r1 > 0 else torch.zeros_like(loss)
    terms = {"discriminator": loss, "real": real.mean(), "fake": fake.mean(), "r1": r1}
    return loss + config.r1 * r1, {name: term.detach() for name, term in terms.items()}


def adaptive_weight(reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: Tensor) -> Tensor:
    """VQGAN, equation 7: the ratio of the losses' gradient norms at the decoder's last layer, at most 1e4, detached."""
    (ours,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (theirs,) = torch.autograd.grad(adversarial_loss, last_layer, retain_graph=True)
    ratio = ours.float().norm() / (theirs.float().norm() + DELTA)
    return ratio.clamp(max=ADAPTIVE_MAX).detach()  # NaN stays NaN


def _check(video: Tensor, reconstruction: Tensor) -> None:
    if video.ndim != 5 or video.shape != reconstruction.shape:
        raise ValueError(
            f"video {list(video.shape)} and reconstruction {list(reconstruction.shape)} have to be of one shape "
            "[batch, 3, frames, height, width]"
        )
