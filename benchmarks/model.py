"""Forward and backward of our networks and of diffusers' at equal shapes and weights, in one run.

    python benchmarks/model.py [--rounds 3]

On a CPU: one thread, float32, CPU seconds (least of a process's repeats, median of processes) and peak memory above
what the process held before the step. Each measurement is a process of its own; ours and diffusers' take turns. Shapes
are small, since a CPU is slow, and the VAE is the full one.

On a GPU: CogVideoX-2B in bfloat16 at 49x480x720 without recomputation, at the largest batch of 1, 2, 4 that fits; MFU
by model/flops.py against the dense bfloat16 peak, beside what the attention kernel alone reaches at that shape.
The VAE on one chunk of a tile.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: `model` is the package, not this file

import psutil
import torch

from curation.scorers.runtime import allow_torchvision
from model.attention import attention, choose
from model.flops import mfu, train_flops
from model.positions import rope_3d, rope_positions
from model.transformer import PRESETS, ExpertTransformer, TransformerConfig
from model.vae import CausalVAE

ROOT = Path(__file__).resolve().parents[1]
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
DTYPE = torch.bfloat16 if GPU else torch.float32
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16 FLOP/s
CPU_CONFIG = TransformerConfig(num_attention_heads=8, num_layers=6, sample_height=16, sample_width=24)

# Latents [F, H, W] of the transformer, video [T, H, W] of the VAE.
LATENTS = (13, 60, 90) if GPU else (13, 16, 24)
VIDEO = (9, 240, 360) if GPU else (9, 64, 96)
CASES = {
    "transformer, sinusoids": "forward + backward",
    "transformer, RoPE": "forward + backward",
    "VAE encoder": "forward + backward",
    "VAE decoder": "forward + backward",
    "VAE decode, no gradient": "forward",
}


def config_of(case: str) -> TransformerConfig:
    config = PRESETS["2b"] if GPU else CPU_CONFIG
    return replace(config, use_rotary_positional_embeddings=case.endswith("RoPE"))


def step_of(case: str, who: str, batch: int) -> Callable[[], Any]:
    """What is measured, with weights and input made."""
    torch.manual_seed(0)
    if case.startswith("transformer"):
        return _transformer_step(config_of(case), who, batch)
    return _vae_step(case, who)


def _transformer_step(config: TransformerConfig, who: str, batch: int) -> Callable[[], Any]:
    network = _build(ExpertTransformer(config), who).train()
    frames, height, width = LATENTS
    latents = torch.randn(batch, frames, config.in_channels, height, width, device=DEVICE, dtype=DTYPE)
    text = torch.randn(batch, config.max_text_seq_length, config.text_embed_dim, device=DEVICE, dtype=DTYPE)
    timesteps = torch.full((batch,), 500, device=DEVICE)
    rope: Any = None
    if config.use_rotary_positional_embeddings:
        p = config.patch_size
        grid = (frames, height // p, width // p)
        cos, sin = rope_3d(*rope_positions(*grid, *grid[1:], device=DEVICE), config.attention_head_dim)
        rope = (cos.repeat_interleave(2, 1), sin.repeat_interleave(2, 1))

    def step() -> None:
        if who == "ours":
            found = network(latents, text, timesteps)
        else:
            found = network(latents, text, timesteps, image_rotary_emb=rope, return_dict=False)[0]
        found.square().mean().backward()
        network.zero_grad()

    return step


def _vae_step(case: str, who: str) -> Callable[[], Any]:
    vae = _build(CausalVAE.from_preset("cogvideox"), who).train()
    video = torch.randn(1, 3, *VIDEO, device=DEVICE, dtype=DTYPE).clamp(-1, 1)
    latents = torch.randn(1, 16, 3, VIDEO[1] // 8, VIDEO[2] // 8, device=DEVICE, dtype=DTYPE)

    def encode() -> None:
        found = vae.encode(video)
        mean = found.mean if who == "ours" else found.latent_dist.mean
        mean.square().mean().backward()
        vae.zero_grad()

    def decode() -> Any:
        return vae.decode(latents) if who == "ours" else vae.decode(latents).sample

    def train_decoder() -> None:
        decode().square().mean().backward()
        vae.zero_grad()

    return {
        "VAE encoder": encode,
        "VAE decoder": train_decoder,
        "VAE decode, no gradient": torch.no_grad()(decode),
    }[case]


def _build(ours: Any, who: str) -> Any:
    """Our network, or diffusers' with its configuration and weights."""
    if who == "ours":
        return ours.to(DEVICE, DTYPE)
    allow_torchvision()
    import diffusers

    theirs = getattr(diffusers, ours.kind).from_config(ours.describe(ours.config))
    theirs.load_state_dict(ours.state_dict())
    return theirs.to(DEVICE, DTYPE)


def measure(case: str, who: str, repeats: int, batch: int) -> dict[str, float]:
    """One process's: seconds and peak bytes of a step."""
    torch.set_num_threads(1)
    step = step_of(case, who, batch)
    gc.collect()
    if GPU:
        step()  # the kernels' choice
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds = min(_cuda_seconds(step) for _ in range(repeats))
        return {"seconds": seconds, "bytes": torch.cuda.max_memory_allocated() - before}
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now
    before = psutil.Process().memory_info().rss
    step()
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return {"seconds": min(_cpu_seconds(step) for _ in range(repeats)), "bytes": peak - before}


def _cpu_seconds(step: Callable[[], Any]) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def _cuda_seconds(step: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def attention_ceiling(config: TransformerConfig, batch: int) -> float:
    """FLOP/s of forward and backward of the attention kernel alone, at the transformer's shape."""
    tokens = config.max_text_seq_length + config.tokens(*LATENTS)
    shape = (batch, tokens, config.num_attention_heads, config.attention_head_dim)
    q, k, v = (torch.randn(shape, device=DEVICE, dtype=DTYPE, requires_grad=True) for _ in range(3))
    backend = choose("auto", q.device)

    def step() -> None:
        attention(q, k, v, backend).sum().backward()

    step()
    return 3.5 * 4 * batch * tokens**2 * config.width / min(_cuda_seconds(step) for _ in range(5))


def child(case: str, who: str, repeats: int, batch: int) -> dict[str, float] | None:
    """None where it does not fit in memory."""
    command = [sys.executable, __file__, "--child", case, who, "--repeats", str(repeats), "--batch", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        if "OutOfMemoryError" in done.stderr:
            return None
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def largest_batch(case: str, repeats: int) -> int:
    """Of 1, 2, 4: the largest that fits for both."""
    if not GPU or not case.startswith("transformer"):
        return 1
    fits = [batch for batch in (1, 2, 4) if all(child(case, who, 1, batch) for who in ("ours", "diffusers"))]
    return max(fits, default=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes for each measurement")
    parser.add_argument("--repeats", type=int, default=4, help="steps in each process")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*arguments.child, arguments.repeats, arguments.batch)))
        return
    name = torch.cuda.get_device_name() if GPU else "CPU, one thread"
    print(f"{name}, torch {torch.__version__}; latents {LATENTS}, video {VIDEO}, {str(DTYPE).removeprefix('torch.')}\n")
    print("| network | what | batch | ours, s | diffusers, s | time | ours, GB | diffusers, GB | memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    notes = []
    for case, what in CASES.items():
        batch = largest_batch(case, arguments.repeats)
        rounds: dict[str, list[dict[str, float]]] = {"ours": [], "diffusers": []}
        for _ in range(arguments.rounds):
            for who, found in rounds.items():
                if (result := child(case, who, arguments.repeats, batch)) is None:
                    sys.exit(f"{case} of {who} does not fit in memory")
                found.append(result)
        (ours, our_bytes), (theirs, their_bytes) = (
            (statistics.median(r["seconds"] for r in found), statistics.median(r["bytes"] for r in found))
            for found in rounds.values()
        )
        print(
            f"| {case} | {what} | {batch} | {ours:.3f} | {theirs:.3f} | **{ours / theirs:.2f}×** "
            f"| {our_bytes / 1e9:.2f} | {their_bytes / 1e9:.2f} | **{our_bytes / their_bytes:.2f}×** |",
            flush=True,
        )
        if GPU and case.startswith("transformer"):
            peak = next((value for key, value in PEAK.items() if key in name), None)
            config = config_of(case)
            kernel = attention_ceiling(config, batch)
            notes.append(f"{case}: attention kernel alone {kernel / 1e12:.0f} TFLOP/s")
            if peak:
                share = mfu(batch * train_flops(config, *LATENTS), ours, peak)
                notes.append(f"{case}: MFU {share:.1%}; attention kernel alone {kernel / peak:.1%} of peak")
    print("\n" + "\n".join(notes) if notes else "")


if __name__ == "__main__":
    main()
