"""Memory that training needs on a GPU, by arithmetic; and that arithmetic against real engines on this machine.

    python benchmarks/train_memory.py              the table, then the check
    python benchmarks/train_memory.py --table      the table alone

State: weights in bfloat16; of what is trained a gradient in bfloat16, and in float32 its copy, AdamW's two moments and
the moving average. ZeRO divides the last four from stage 1 on, gradients from 2, weights from 3.

Activations: what autograd keeps for the backward pass of one sample, counted on torch's meta device, which computes
nothing: for 2 and 3 blocks, and extrapolated to all. Attention is taken to be flash attention. With recomputation a
block's inputs are kept, and all of one block.

Not counted: what the allocator loses, DeepSpeed's buckets (of 5e8 elements each unless deepspeed.config says
otherwise), a parameter that ZeRO 3 gathers. The check builds the tiny transformer's engine for each stage on two ranks,
takes a step, and adds up the tensors that are alive.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from typing import Any

sys.path.pop(0)  # this folder

import torch

import model.transformer
from curation.scorers.runtime import allow_torchvision
from model import lora
from model.transformer import PRESETS, ExpertTransformer, TransformerConfig
from train.config import TrainConfig

RANK = 64  # of adapters
SHAPES = {"tiny": (17, 256, 256), "2b": (49, 480, 720), "5b": (49, 480, 720)}
HALF, FLOAT = 2, 4  # bytes
COPIES = 4  # in float32: weights, two moments, moving average
CHECKED = [(0, None), (1, None), (2, None), (3, None), (1, RANK), (3, RANK)]  # stage of ZeRO, adapters' rank
RANKS = 2


@dataclass(frozen=True)
class State:
    """Bytes of a rank."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


def state(parameters: int, trained: int, zero: int, ranks: int) -> State:
    """Of so many parameters, of which so many are trained."""
    part = [ranks if zero >= stage else 1 for stage in (3, 2, 1)]
    return State(HALF * parameters / part[0], HALF * trained / part[1], COPIES * FLOAT * trained / part[2])


def built(config: TransformerConfig, rank: int | None) -> ExpertTransformer:
    """On the meta device; all of it is trained, or adapters of a rank."""
    with torch.device("meta"):
        network = ExpertTransformer(config)
        if rank is not None:
            lora.add(network, rank)
        return network.to(torch.bfloat16)


def parameters(config: TransformerConfig, rank: int | None) -> tuple[int, int]:
    """All, and those that are trained."""
    counts = [(p.numel(), p.requires_grad) for p in built(config, rank).parameters()]
    return sum(count for count, _ in counts), sum(count for count, learns in counts if learns)


class _Flash(torch.autograd.Function):
    """Keeps what flash attention keeps; computes nothing."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise NotImplementedError


def kept(config: TransformerConfig, rank: int | None, frames: int, height: int, width: int) -> int:
    """Bytes that autograd keeps of one sample, besides weights."""
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage()._cdata] = tensor
        return tensor

    network = built(config, rank)
    with torch.device("meta"):
        latents = torch.empty(1, (frames - 1) // 4 + 1, config.in_channels, height // 8, width // 8)
        text = torch.empty(1, config.max_text_seq_length, config.text_embed_dim)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(latents.bfloat16(), text.bfloat16(), torch.zeros(1, dtype=torch.int64))
    weights = {weight.untyped_storage()._cdata for weight in network.parameters()}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in weights)


def activations(
    config: TransformerConfig, rank: int | None, frames: int, height: int, width: int
) -> tuple[float, float]:
    """Bytes of one sample, without and with recomputation."""
    two, three = (kept(replace(config, num_layers=count), rank, frames, height, width) for count in (2, 3))
    block, around = three - two, two - 2 * (three - two)
    tokens = config.max_text_seq_length + config.tokens((frames - 1) // 4 + 1, height // 8, width // 8)
    inputs = HALF * tokens * config.width
    return around + config.num_layers * block, around + config.num_layers * inputs + block


def print_table() -> None:
    gib = 2.0**30
    print(f"GiB a GPU, bfloat16, LoRA of rank {RANK}, one sample at once; by arithmetic\n")
    print("|  |  | state, 1 GPU | state, 8 GPUs: ZeRO 1 | ZeRO 2 | ZeRO 3 | activations of a sample | recomputed |")
    print("|---|---|---|---|---|---|---|---|")
    for name, config in PRESETS.items():
        shape = SHAPES[name]
        for kind, rank in (("full", None), ("LoRA", RANK)):
            without, recomputed = (f"{part / gib:.1f}" for part in activations(config, rank, *shape))
            counts = parameters(config, rank)
            states = [state(*counts, zero, ranks).total / gib for zero, ranks in ((0, 1), (1, 8), (2, 8), (3, 8))]
            cells = [f"{part:.2f}" if part < 1 else f"{part:.1f}" for part in states]
            print(f"| {name}, {'x'.join(map(str, shape))} | {kind} | {' | '.join([*cells, without, recomputed])} |")


def check() -> None:
    """State of real engines between two steps, when gradients are gone; at ZeRO 3 they keep their place."""
    print("\nMiB of a rank, the tiny transformer between two steps: by arithmetic, and tensors alive in its engine\n")
    print(f"|  | ZeRO, {RANKS} ranks | arithmetic | measured |\n|---|---|---|---|")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(RANKS)]
    for zero, rank in CHECKED:
        words = [sys.executable, *launcher, __file__, "--measure", str(zero), str(rank or 0)]
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        (measured,) = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("alive "))
        made = state(*parameters(PRESETS["tiny"], rank), zero, RANKS)
        expected = made.total if zero == 3 else made.weights + made.optimizer
        print(f"| {'LoRA' if rank else 'full'} | {zero} | {expected / 2**20:.1f} | {measured / 2**20:.1f} |")


def measure(zero: int, rank: int) -> None:
    """In each rank's process; the first prints the bytes of all its tensors that are alive behind a step."""
    from train.engine import Engine, deepspeed_ranks
    from train.ranks import ranks

    with tempfile.NamedTemporaryFile("w", suffix=".json") as settings:
        # Buffers as large as a bucket are DeepSpeed's, not the model's; ZeRO 3 leaves weights below 100,000 undivided,
        # which in the tiny transformer are most of attention.
        small = {"reduce_bucket_size": 65536, "allgather_bucket_size": 65536, "stage3_param_persistence_threshold": 0}
        json.dump({"zero_optimization": small}, settings)
        settings.flush()
        config = TrainConfig.model_validate(
            {
                "dataset": "",
                "output": "",
                "lora": {"rank": rank} if rank else None,
                "stages": [{"steps": 1, "batch": int(os.environ["WORLD_SIZE"]), "lr": 1e-3}],
                "deepspeed": {"zero": zero, "config": settings.name},
                "device": "cpu",
            }
        )
        with ranks(config.device) as us, deepspeed_ranks(us):
            engine = Engine(config, us)
            latents, text = torch.randn(1, 1, 16, 8, 8), torch.randn(1, 4, 384)
            loss = engine.forward(latents.bfloat16(), text.bfloat16(), torch.zeros(1, dtype=torch.int64))
            engine.accumulate(loss.float().square().mean(), last=True)
            engine.step(1e-3)
            del latents, text, loss
            gc.collect()
            storages = {
                each.untyped_storage()._cdata: each.untyped_storage().nbytes()
                for each in gc.get_objects()
                if isinstance(each, torch.Tensor) and each.device.type == "cpu"
            }
            if us.first:
                print(f"alive {sum(storages.values())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="the table alone")
    parser.add_argument("--measure", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    allow_torchvision()
    if given.measure:
        measure(*given.measure)
        return
    model.transformer.attention = lambda q, k, v, backend: _Flash.apply(q, k, v)  # type: ignore[assignment]
    print_table()
    if not given.table:
        check()


if __name__ == "__main__":
    main()
