"""The players of a VAE's training: the VAE, the average of its weights, the discriminator, and a step of each."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curation.scorers.runtime import allow_torchvision
from latents.weights import torch_dtype
from model.discriminator import PatchDiscriminator
from model.perceptual import Perceptual, perceptual
from model.vae import CausalVAE
from model.vae_loss import discriminator_loss, generator_loss
from orchestration.errors import ConfigError, RushesError
from train import checkpoints
from train.optimizers import ConvMuon, follow, scale_lr
from train.ranks import Ranks
from train.vae.config import NetworkConfig, TrainVaeConfig

STATE = "state.pt"
QUIET = -6.0  # log variance that a new encoder begins with: at 0 noise would drown what it has to say
OUTER = ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out")  # that Muon does not take


class Learner:
    """Everything that changes in training. Raises ConfigError for weights that are not to be had."""

    def __init__(self, config: TrainVaeConfig, ranks: Ranks):
        self._config, self._ranks = config, ranks
        self._weights = config.loss.weights()
        if self._weights.adversarial_start >= config.steps:  # it would never play
            self._weights = dataclasses.replace(self._weights, adversarial=0.0)
        torch.manual_seed(config.seed)  # equal weights on all ranks
        self.vae = _network(config).to(ranks.device, torch.float32).train().requires_grad_(True)
        self.vae.gradient_checkpointing = config.checkpointing
        self.average = copy.deepcopy(self.vae).eval().requires_grad_(False)
        self._seen = self._perceptual()
        self._judge = (
            PatchDiscriminator(config.loss.discriminator_width).to(ranks.device)
            if self._weights.adversarial > 0
            else None
        )
        self._optimizers = self._make_optimizers()
        self._judge_optimizer = (
            torch.optim.AdamW(self._judge.parameters(), config.loss.discriminator_lr, (0.5, 0.9), weight_decay=0.0)
            if self._judge is not None
            else None
        )

    @property
    def perceptual_name(self) -> str | None:
        return self._seen.name if self._seen is not None else None

    def step(self, step: int, video: Tensor) -> dict[str, float]:
        """Learn from [B, 3, T, H, W] in [-1, 1]; the loss's terms. Raises RushesError where one is not finite, before
        any weight has changed."""
        video = video.to(self._ranks.device)
        generator = torch.Generator().manual_seed(self._seed(step))
        with self._autocast():
            made, posterior = self.vae(video, generator)
        loss, terms = generator_loss(
            self._weights,
            step,
            video,
            made,
            posterior.mean,
            posterior.logvar,
            self._look if self._seen is not None else None,
            self._judge,
            self.vae.decoder.conv_out.conv.weight,
        )
        loss.backward()
        found = {"loss": loss.detach(), **terms}
        found["psnr"] = -10 * torch.log10((made.detach().float() - video).square().mean() / 4)
        found["grad_norm"] = self._settle(step, self.vae, loss.item())
        if self._judge is not None and self._judge_optimizer is not None and self._weights.adversarial_at(step):
            with self._autocast():
                verdict, more = discriminator_loss(self._weights, video, made.detach(), self._judge)
            verdict.backward()
            found |= more
            self._settle(step, self._judge, verdict.item())
            self._judge_optimizer.step()
            self._judge_optimizer.zero_grad()
        scale_lr(self._optimizers, self.rate(step))
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        follow(self.average, self.vae, min(self._config.optimizer.ema, (step + 1) / (step + 10)))
        return {name: float(value) for name, value in found.items()}

    def rate(self, step: int) -> float:
        """The learning rate of a step, of the one that is configured."""
        given, total = self._config.optimizer, self._config.steps
        if step < given.warmup:
            return (step + 1) / given.warmup
        done = (step - given.warmup) / max(1, total - given.warmup)
        return given.last + (1 - given.last) * 0.5 * (1 + math.cos(math.pi * done))

    @torch.no_grad()
    def normalise(self, videos: list[Tensor]) -> None:
        """Bring each latent channel of these videos [B, 3, T, H, W] to mean 0 and deviation 1; the decoder follows.

        The optimizer starts anew: what it remembers is of other weights.
        """
        mean, std = channel_statistics(self.average, videos)
        self._ranks.average([mean, std])  # equal to the last bit
        for network in (self.vae, self.average):
            network.normalise(mean, std)
        self._optimizers = self._make_optimizers()

    def save(self, folder: Path) -> None:
        torch.save(self._state(), folder / STATE)

    def load(self, folder: Path) -> None:
        """What `save` wrote, for the same configuration."""
        state: Mapping[str, Any] = torch.load(folder / STATE, map_location=self._ranks.device, weights_only=True)
        self.vae.load_state_dict(state["vae"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self._judge is not None and self._judge_optimizer is not None:
            self._judge.load_state_dict(state["judge"])
            self._judge_optimizer.load_state_dict(state["judge_optimizer"])

    def _state(self) -> dict[str, Any]:
        state = {
            "vae": self.vae.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        if self._judge is not None and self._judge_optimizer is not None:
            state |= {"judge": self._judge.state_dict(), "judge_optimizer": self._judge_optimizer.state_dict()}
        return state

    def _settle(self, step: int, network: nn.Module, loss: float) -> Tensor:
        """Gradients become the ranks' mean, and no longer than they may be; their length before."""
        parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
        self._ranks.average(parameter.grad for parameter in parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self._config.optimizer.clip)
        if self._ranks.any(not (math.isfinite(loss) and bool(torch.isfinite(norm)))):
            raise RushesError(
                f"step {step}: the loss is {loss:g} and its gradient's norm {float(norm):g}; no weight was changed. "
                "Lower optimizer.lr and muon_lr, or the weight of the term in metrics.jsonl that grew, and give "
                f"another output; init={self._config.output}/checkpoints/step-... goes on from a checkpoint's weights"
            )
        return norm

    def _look(self, video: Tensor, made: Tensor) -> Tensor:
        assert self._seen is not None
        return self._seen(video[:, :, :: self._config.loss.every], made[:, :, :: self._config.loss.every])

    def _perceptual(self) -> Perceptual | None:
        if not self._weights.perceptual:
            return None
        allow_torchvision()
        try:
            return perceptual(self._config.loss.network).to(self._ranks.device)
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(f"loss.network: {error}") from error

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        given = self._config.optimizer
        named = dict(self.vae.named_parameters())
        inner = {name for name, p in named.items() if p.ndim > 1 and not name.startswith(OUTER)}
        if given.kind == "adamw":
            inner = set()
        rest = [parameter for name, parameter in named.items() if name not in inner]
        made: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, given.lr, given.betas, weight_decay=given.weight_decay)
        ]
        if inner:
            made.append(ConvMuon([named[name] for name in sorted(inner)], given.muon_lr))
        return made

    def _autocast(self) -> torch.autocast:
        dtype = torch_dtype(self._config.dtype)
        return torch.autocast(self._ranks.device.type, dtype, enabled=dtype != torch.float32)

    def _seed(self, step: int) -> int:
        return (self._config.seed * 1_000_003 + step) * 4096 + self._ranks.rank


@torch.no_grad()
def channel_statistics(network: CausalVAE, videos: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] of the latents' means over videos [B, 3, T, H, W], in float32."""
    device = next(network.parameters()).device
    flat = [network.encode(v.to(device), chunk_frames=None).mean.float().transpose(0, 1).flatten(1) for v in videos]
    joined = torch.cat(flat, 1)
    return joined.mean(1), joined.std(1)


def _network(config: TrainVaeConfig) -> CausalVAE:
    if config.init is not None:
        try:
            return _given(config.init)
        except (ValueError, OSError) as error:
            raise ConfigError(f"init: {error}") from error
    network = CausalVAE(config.network.build())
    bias = network.encoder.conv_out.conv.bias
    assert bias is not None
    nn.init.constant_(bias[config.network.latent_channels :], QUIET)
    return network


def _given(init: str) -> CausalVAE:
    """A VAE, or the averaged weights of a checkpoint. Raises ValueError and OSError for what is neither."""
    folder = Path(init).expanduser()
    if not (folder / STATE).is_file():
        return CausalVAE.from_pretrained(init, dtype=torch.float32)
    found = checkpoints.read(folder)
    if isinstance(found, str):
        raise ValueError(f"{folder}: {found}")
    was = found.facts["config"]
    network = _given(was["init"]) if was["init"] else CausalVAE(NetworkConfig(**was["network"]).build())
    network.load_state_dict(torch.load(folder / STATE, map_location="cpu", weights_only=True)["average"])
    return network
