"""The transformer in a DeepSpeed engine: forward, backward and step; its state to and from a folder."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from curation.scorers.runtime import allow_torchvision
from model import lora
from model.transformer import PRESETS, ExpertTransformer
from orchestration.errors import ConfigError, RushesError
from train.config import TrainConfig
from train.ranks import Ranks
from train.weights import write_weights

AVERAGE = "average"  # of an optimizer's state: the weights' moving average
TAG = "state"


class NotFinite(RushesError):
    """A loss or gradient that is no number; no weight of this rank has changed by it."""


class AveragingAdamW(torch.optim.AdamW):
    """AdamW that refuses gradients that are not finite, and keeps an exponential moving average of the weights.

    The average is part of its state, so that ZeRO divides, saves and restores it like the rest. decay: None keeps none.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float | None, **settings: Any):
        super().__init__(parameters, **settings)
        self.decay = decay

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        present = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        # A sum is finite only where all of it is: the gradients are read once, and a GPU is waited for once.
        sums = [p.grad.sum(dtype=torch.float32) for p in present]
        bad = torch.tensor(float(bool(sums) and not torch.isfinite(torch.stack(sums)).all()))
        if dist.is_initialized():
            bad = bad.to(present[0].device if present else "cpu")
            dist.all_reduce(bad, dist.ReduceOp.MAX)
        if bad:
            raise NotFinite("a gradient is not finite")
        found = super().step(closure)
        if self.decay is not None:
            for p in present:
                state = self.state[p]
                if AVERAGE not in state:
                    state[AVERAGE] = p.detach().clone()
                taken = float(state["step"])
                state[AVERAGE].lerp_(p, 1 - min(self.decay, taken / (taken + 9)))
        return found


class Engine:
    """A transformer that learns. Raises ConfigError for a model that cannot be made or had."""

    def __init__(self, config: TrainConfig, ranks: Ranks):
        self._config, self._ranks = config, ranks
        self.network = _network(config)
        self.network.gradient_checkpointing = config.activation_checkpointing
        if config.lora is not None:
            lora.add(self.network, config.lora.rank, config.lora.alpha, config.lora.targets)
        given = config.optimizer
        trained = [p for p in self.network.parameters() if p.requires_grad]
        settings = {"lr": config.stages[0].lr, "betas": given.betas, "eps": given.eps}
        self._adam = AveragingAdamW(trained, given.ema, weight_decay=given.weight_decay, **settings)
        with _quiet():
            import deepspeed

            self._engine, self._optimizer, *_ = deepspeed.initialize(
                model=self.network, optimizer=self._adam, config=self._ds_config(), dist_init_required=False
            )
        self.forward = torch.compile(self._engine) if config.compile else self._engine

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self._config.dtype == "bfloat16" else torch.float32

    def accumulate(self, loss: Tensor, last: bool) -> None:
        """Backward of a micro-batch's loss, its share of the step's; with the last one gradients are averaged."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Forward passes that nothing is learnt from."""
        self._engine.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._engine.train()

    def step(self, lr: float) -> float:
        """Change the weights; the gradient's norm before clipping. Raises NotFinite before anything has changed."""
        assert self._optimizer is not None
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def save(self, folder: Path) -> None:
        """DeepSpeed's files, and what was learnt so far as files that need none of it. All ranks call this, after a
        step."""
        with _quiet():
            self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
        weights = {name: weight.to("cpu", self.dtype) for name, weight in self._averaged() if self._ranks.first}
        if self._ranks.first:
            write_weights(folder, self.network.config, weights, self._config.lora)

    def load(self, folder: Path) -> None:
        """What `save` wrote on as many ranks. Raises RushesError where it does not fit."""
        with _quiet():
            found, _ = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=self._config.lora is None)
        if found is None:
            raise RushesError(
                f"DeepSpeed cannot load {folder}: it was written by another number of ranks or stage of ZeRO"
            )

    def _averaged(self) -> Iterator[tuple[str, Tensor]]:
        """Each trained parameter's name and moving average (itself where none is kept), float32; of all ranks at once,
        who have to come to the end of it."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        kept = self._config.optimizer.ema is not None
        masters = self._masters()
        for name, weight in self.network.named_parameters():
            if not weight.requires_grad:
                continue
            if weight in masters:
                found = self._adam.state[masters[weight]][AVERAGE] if kept else masters[weight].detach()
            else:
                found = safe_get_full_optimizer_state(weight, AVERAGE) if kept else safe_get_full_fp32_param(weight)
            assert found is not None
            yield name, found

    def _masters(self) -> dict[nn.Parameter, Tensor]:
        """Without ZeRO, where nothing is divided: what the optimizer changes in place of each parameter."""
        if self._config.deepspeed.zero:
            return {}
        if self._config.dtype == "float32":
            return {p: p for p in self.network.parameters() if p.requires_grad}
        groups: Any = self._optimizer  # DeepSpeed's, of float32 copies
        pairs = zip(groups.fp16_groups, groups.fp32_groups, strict=True)
        return {p: copy for ours, copies in pairs for p, copy in zip(ours, copies, strict=True)}

    def _ds_config(self) -> dict[str, Any]:
        config = self._config
        given = config.deepspeed.given()
        batch = max(stage.batch for stage in config.stages)
        zero = {**given.get("zero_optimization", {}), "stage": config.deepspeed.zero}
        if config.deepspeed.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        return {
            **given,
            "train_micro_batch_size_per_gpu": config.micro_batch,
            "gradient_accumulation_steps": max(1, batch // config.micro_batch // self._ranks.size),
            "gradient_clipping": config.optimizer.clip,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": config.dtype == "bfloat16"},
            "steps_per_print": 2**31,
        }


@contextlib.contextmanager
def deepspeed_ranks(ranks: Ranks) -> Iterator[None]:
    """What DeepSpeed needs of the processes, be there one or several; before it is imported for the first time."""
    allow_torchvision()  # PEFT and DeepSpeed come by torchvision
    if ranks.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    added = {name: value for name, value in alone.items() if name not in os.environ}
    os.environ.update(added)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with _quiet():
        import deepspeed
        import deepspeed.ops

        if ranks.device.type == "cpu":
            # Compiled at the first use, for minutes, and waited for without end where another run was killed meanwhile.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        begun = not dist.is_initialized()
        if begun:
            store = torch.distributed.HashStore()  # type: ignore[reportPrivateImportUsage]
            backend = "nccl" if ranks.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
        deepspeed.init_distributed(dist_init_required=False, verbose=False)
    try:
        yield
    finally:
        if begun:
            dist.destroy_process_group()
        for name in added:
            del os.environ[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed prints to standard output whatever its logger's level."""
    with contextlib.redirect_stdout(None):
        yield


def _network(config: TrainConfig) -> ExpertTransformer:
    torch.manual_seed(config.seed)  # equal weights on all ranks
    if config.model in PRESETS:
        network = ExpertTransformer.from_preset(config.model)
    else:
        try:
            network = ExpertTransformer.from_pretrained(config.model, dtype=torch.float32)
        except (ValueError, OSError) as error:
            raise ConfigError(f"model: {error}") from error
    first = config.stages[0].sample_size
    if first is not None:
        frames, height, width = first
        size = {"sample_frames": frames, "sample_height": height // 8, "sample_width": width // 8}
        network.config = replace(network.config, **size)
    return network.train()
