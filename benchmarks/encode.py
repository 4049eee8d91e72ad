"""Encoding windows with our encoder and with a plain loop over diffusers' VAE: same frames, same weights, one run.

    python benchmarks/encode.py [--rounds 3] [--dtype float32]

From uint8 frames to moments in the type that shards keep. The loop is the usual one: frames to a tensor in [-1, 1],
`vae.encode(x).latent_dist`, both moments to the CPU. Weights are random, of model/'s small VAE (5 M parameters).

On a CPU: one thread each, CPU seconds of a window, least of a process's repeats, median of processes; ours and
diffusers' take turns, each measurement a process of its own. On a GPU: seconds, bfloat16, CogVideoX's own VAE at random
and its released sizes. `apart` is the largest difference of the two sides' moments.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.pop(0)  # this folder: `model` is the package, not benchmarks/model.py
ROOT = Path(__file__).resolve().parents[1]

# name: frames, height, width, tile
CPU_CASES = {
    "a window": (17, 256, 384, None),
    "a long window": (33, 256, 384, None),
    "a window in tiles": (17, 256, 384, (144, 200)),  # steps are whole latents: diffusers rounds other tiles apart
    "an image": (1, 512, 768, None),
}
GPU_CASES = {
    "a window": (49, 480, 720, None),
    "a window in tiles": (49, 480, 720, (240, 360)),
    "an image": (1, 480, 720, None),
}


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def frames_of(shape: tuple[int, int, int]) -> np.ndarray:
    """A pattern that drifts, with noise: [T, H, W, 3] uint8."""
    frames, height, width = shape
    t, y, x = np.ogrid[:frames, :height, :width]
    waves = [np.sin((x * (1 + c) + y * 2 + t * 5) / 30) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 8, (frames, height, width, 3))
    return (np.stack(waves, -1) * 90 + 128 + noise).clip(0, 255).astype(np.uint8)


def ours(folder: str, dtype: str, tile: Any) -> Callable[[np.ndarray], dict[str, Any]]:
    from latents.vae import TilingConfig, VaeConfig, VideoEncoder

    tiling = TilingConfig(height=tile[0], width=tile[1]) if tile else None
    encoder = VideoEncoder(VaeConfig(model=folder, dtype=dtype, tiling=tiling))  # type: ignore[arg-type]
    encoder.setup()
    return encoder.encode


def diffusers(folder: str, dtype: str, tile: Any) -> Callable[[np.ndarray], dict[str, Any]]:
    from curation.scorers.runtime import allow_torchvision

    allow_torchvision()
    import torch
    from diffusers import AutoencoderKLCogVideoX

    device, kind = "cuda" if on_gpu() else "cpu", getattr(torch, dtype)
    torch.set_num_threads(1)
    vae = AutoencoderKLCogVideoX.from_pretrained(folder, torch_dtype=kind).to(device).eval()
    if tile:
        vae.enable_tiling(*tile)

    @torch.no_grad()
    def encode(frames: np.ndarray) -> dict[str, Any]:
        x = torch.from_numpy(frames).to(device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        found = vae.encode(x.to(kind)).latent_dist
        return {"mean": found.mean[0].cpu(), "logvar": found.logvar[0].cpu()}

    return encode


def measure(who: str, folder: str, dtype: str, case: list[Any], repeats: int, keep: str) -> float:
    """One process's: seconds of a window."""
    import torch

    *shape, tile = case
    encode = {"ours": ours, "diffusers": diffusers}[who](folder, dtype, tile)
    frames, clock = frames_of(tuple(shape)), time.perf_counter if on_gpu() else time.process_time
    torch.save(encode(frames), keep)  # and the kernels' choice
    spent = []
    for _ in range(repeats):
        begun = clock()
        encode(frames)  # ends on the CPU
        spent.append(clock() - begun)
    return min(spent)


def save_vae(folder: str) -> str:
    """Random weights, norms and biases too; returns what they are of."""
    import torch

    from model.vae import CausalVAE

    preset = "cogvideox" if on_gpu() else "small"
    generator = torch.Generator().manual_seed(0)
    network = CausalVAE.from_preset(preset)
    for parameter in network.parameters():
        if parameter.ndim < 2:
            parameter.data.normal_(0.1, 0.3, generator=generator)
        else:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    network.save_pretrained(folder)
    return preset


def apart(paths: list[str]) -> float:
    import torch

    first, second = (torch.load(path, weights_only=True) for path in paths)
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes for each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="windows in each process")
    parser.add_argument("--dtype", default=None, help="float32 (on a CPU), bfloat16 (on a GPU)")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        who, folder, dtype, case, keep = arguments.child
        print(json.dumps(measure(who, folder, dtype, json.loads(case), arguments.repeats, keep)))
        return
    import torch

    gpu = on_gpu()
    dtype = arguments.dtype or ("bfloat16" if gpu else "float32")
    with tempfile.TemporaryDirectory() as folder:
        preset = save_vae(folder)
        name = torch.cuda.get_device_name() if gpu else "CPU, one thread"
        print(f"{name}, torch {torch.__version__}, {dtype}, VAE `{preset}`\n")
        print(f"| what | frames | ours, {'' if gpu else 'CPU '}s | diffusers' loop | times as fast | apart |")
        print("|---|---|---|---|---|---|")
        for what, case in (GPU_CASES if gpu else CPU_CASES).items():
            kept = {who: f"{folder}/{who}.pt" for who in ("ours", "diffusers")}
            spent: dict[str, list[float]] = {who: [] for who in kept}
            for _ in range(arguments.rounds):
                for who, path in kept.items():
                    command = [sys.executable, __file__, "--child", who, folder, dtype, json.dumps(case), path]
                    command += ["--repeats", str(arguments.repeats)]
                    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
                    if done.returncode:
                        sys.exit(done.stderr)
                    spent[who].append(json.loads(done.stdout.splitlines()[-1]))
            mine, theirs = (statistics.median(found) for found in spent.values())
            shape = "x".join(map(str, case[:3])) + (f" by {case[3][0]}x{case[3][1]}" if case[3] else "")
            print(
                f"| {what} | {shape} | {mine:.2f} | {theirs:.2f} | **{theirs / mine:.2f}×** "
                f"| {apart(list(kept.values())):.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
