"""What `rushes train` costs above a bare PyTorch loop: the same model, optimizer, precision and batches.

    python benchmarks/train.py [--steps 12] [--rounds 3]

Shards of random latents are written once. `rushes train` reads them (verified), with DeepSpeed, clipping, the moving
average, losses by timestep, a line of metrics each step. The bare loop has its batches in memory, torch's AdamW, the
moving average, and clipping; in bfloat16 it keeps float32 copies of the weights, as DeepSpeed does. Both run at once,
each in a process of its own on one thread, so that what slows the machine slows both (it needs two idle cores).
The first two steps are left out. Medians over the steps of all rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder

import torch
import yaml

SET, BUCKET, SAMPLES = "0123456789abcdef", "17x256x256", 16
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", metavar="CONFIG", help=argparse.SUPPRESS)  # the other side
    arguments = parser.parse_args()
    if arguments.bare:
        return bare(Path(arguments.bare))
    print("| precision | ZeRO | bare step, s | rushes train, s | ratio | waiting for data |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "data")
        for dtype, zero in (("float32", 0), ("float32", 1), ("bfloat16", 1)):
            compare(Path(folder), dtype, zero, arguments.steps + WARM_UP, arguments.rounds)


def compare(folder: Path, dtype: str, zero: int, steps: int, rounds: int) -> None:
    ours: list[dict[str, float]] = []
    theirs: list[float] = []
    for number in range(rounds):
        config = {
            "dataset": str(folder / "data"),
            "output": str(folder / f"{dtype}-{zero}-{number}"),
            "stages": [{"steps": steps, "batch": 2, "lr": 1e-4}],
            "micro_batch": 1,
            "dtype": dtype,
            "deepspeed": {"zero": zero},
            "watch": {"log_every": 1, "held_out": 0.0},
            "checkpoint": {"every": 10_000},
            "device": "cpu",
            "threads": 1,
        }
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        rushes = Path(sys.executable).with_name("rushes")
        metrics = folder / f"{dtype}-{zero}-{number}" / "metrics.jsonl"
        with (
            subprocess.Popen([sys.executable, __file__, "--bare", path], stdout=subprocess.PIPE, text=True) as other,
            subprocess.Popen([rushes, "train", path], stderr=subprocess.DEVNULL, env=environment) as run,
        ):
            while run.poll() is None and len(rows(metrics)) < WARM_UP:
                time.sleep(0.01)
            begun = time.time()
            while run.poll() is None and len(rows(metrics)) < steps:
                time.sleep(0.01)
            ended = time.time()
            other.kill()
            assert other.stdout is not None
            lines = [tuple(map(float, line.split())) for line in other.stdout.read().splitlines()]
        ours += rows(metrics)[WARM_UP:]
        theirs += [stop - start for start, stop in lines if begun <= start and stop <= ended]
    step, base = statistics.median(row["step_s"] for row in ours), statistics.median(theirs)
    wait = statistics.median(row["data_wait"] for row in ours)
    print(f"| {dtype} | {zero} | {base:.2f} | {step:.2f} | **{step / base:.3f}** | {100 * wait:.2f} % |", flush=True)


def rows(metrics: Path) -> list[dict[str, float]]:
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return [row for line in lines if line.endswith("}") and "loss" in (row := json.loads(line))]


def bare(path: Path) -> None:
    """Steps until it is killed; prints when each began and ended."""
    from latents.dataset import LatentDataset
    from model.diffusion import NoiseSchedule
    from model.transformer import ExpertTransformer
    from orchestration.config import load_config
    from train.config import TrainConfig
    from train.data import StageData
    from train.loss import losses

    torch.set_num_threads(1)
    config = load_config(TrainConfig, path, [])
    stage = StageData(config, config.stages[0], LatentDataset(config.dataset), 0)
    batches = [batch for _, batch in stage.steps(0, 0, 1)]
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    torch.manual_seed(config.seed)
    network = ExpertTransformer.from_preset(config.model).to(dtype).train()
    weights = list(network.parameters())
    masters = weights if dtype == torch.float32 else [w.detach().float() for w in weights]
    averages = [master.detach().clone() for master in masters]
    optimizer = torch.optim.AdamW(masters, lr=1e-4, betas=config.optimizer.betas, weight_decay=1e-4)
    schedule = NoiseSchedule(snr_shift_scale=3.0)
    alpha_bars = schedule.alpha_bars()
    for batch in itertools.cycle(batches):
        begun = time.time()
        for examples in batch:
            (losses(network, schedule, alpha_bars, examples, dtype).mean() / len(batch)).backward()
        if masters is not weights:
            for master, weight in zip(masters, weights, strict=True):
                master.grad, weight.grad = None if weight.grad is None else weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, config.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            if masters is not weights:
                for master, weight in zip(masters, weights, strict=True):
                    weight.copy_(master)
            for average, master in zip(averages, masters, strict=True):
                average.lerp_(master, 0.001)
        print(begun, time.time(), flush=True)


def write(root: Path) -> None:
    """Latents of random numbers."""
    from latents.index import BucketIndex, EmptyText, LatentSet, empty_name, place, shard_name, write_index
    from latents.shard import pack_tensors, write_shard
    from orchestration.storage import Storage

    storage, random = Storage(str(root)), torch.Generator().manual_seed(0)
    empty = pack_tensors({"text.0": torch.zeros(226, 384), "text.0.tokens": torch.tensor([2], dtype=torch.int32)})
    storage.write_bytes(f"latents/{empty_name(SET)}", empty)
    samples: list[tuple[str, dict[str, torch.Tensor], dict[str, Any]]] = []
    for number in range(SAMPLES):
        key = f"{number:016x}-0000000-0000017-w0"
        tensors = {name: torch.randn((16, 5, 32, 32), generator=random).bfloat16() for name in ("mean", "logvar")}
        tensors["logvar"] -= 4
        tensors |= {"text.0": torch.randn(226, 384, generator=random), "text.0.tokens": torch.tensor([40]).int()}
        facts = {"key": key, "clip_id": key[:-3], "captions": ["a"], "set": SET, "bucket": [17, 256, 256]}
        samples.append((key, tensors, facts))
    with storage.open_write(place(BUCKET, shard_name(SET, 0))) as file:
        entry = write_shard(file, shard_name(SET, 0), samples)
    named = EmptyText(empty_name(SET), len(empty), hashlib.sha256(empty).hexdigest())
    encoder = {"vae": {"model": "random", "scaling_factor": 1.0, "latent_channels": 16}, "text": {"model": "random"}}
    write_index(storage, BucketIndex(BUCKET, {SET: LatentSet(encoder, named, (entry,))}))


if __name__ == "__main__":
    main()
