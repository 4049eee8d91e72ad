"""How fast shards of latents are read: raw bytes, this reader, webdataset, mosaicml-streaming; and the first batch.

    python benchmarks/shards.py [--streaming-python VENV/bin/python] [--folder DISK]

mosaicml-streaming 0.13 needs numpy < 2.2 and transformers < 5, so it has an environment of its own:
`python -m venv VENV && VENV/bin/pip install torch torchvision mosaicml-streaming==0.13.0 safetensors`. It gets the very
bytes of the shards, in its own format.

All in one run, on the same samples on local disk. "cold": the files were dropped from the page cache before (fadvise,
checked by mincore); "warm": all of them are in it. One process each; every reader gives tensors and facts, but the raw
one, which reads the files through a buffer of 1 MiB. The readers take turns, and the fastest of the rounds counts:
other work may share the machine, which the CPU seconds tell least of.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

SET = "0123456789abcdef"
ENCODER = {"vae": "benchmark"}
# name: bucket, latent shape, logvar too, text shape, samples a shard, shards
KINDS = {
    "latents alone": ("17x256x384", (16, 5, 32, 48), False, None, 200, 8),
    "latents, logvar, MiniLM": ("17x256x384", (16, 5, 32, 48), True, (226, 384), 100, 8),
    "latents, logvar, T5-XXL": ("17x256x384", (16, 5, 32, 48), True, (226, 4096), 25, 8),
    "480x720, logvar, T5-XXL": ("49x480x720", (16, 13, 60, 90), True, (226, 4096), 10, 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to put the shards (default: the folder for temporary files)")
    parser.add_argument("--streaming-python", help="Python of an environment with mosaicml-streaming")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--mds", help=argparse.SUPPRESS)  # the other environment's side
    arguments = parser.parse_args()
    if arguments.mds:
        return read_mds(Path(arguments.folder), Path(arguments.mds), arguments.rounds)
    for kind in arguments.kinds:
        with TemporaryDirectory(dir=arguments.folder) as folder:
            table(kind, Path(folder), arguments)
    with TemporaryDirectory(dir=arguments.folder) as folder:
        first_batch(Path(folder))


def table(kind: str, folder: Path, arguments: argparse.Namespace) -> None:
    bucket, latent, logvar, text, samples, shards = KINDS[kind]
    write(folder, bucket, latent, logvar, text, samples, shards)
    files = sorted((folder / "latents" / bucket).glob("*.tar"))
    count, size = samples * shards, sum(path.stat().st_size for path in files)
    print(f"\n**{kind}**: {count} samples of {size / count / 1e6:.2f} MB in {shards} shards\n")
    print("| reader | warm: samples/s | MB/s | of raw | CPU a sample | cold: samples/s | MB/s | of raw |")
    print("|---|---|---|---|---|---|---|---|")
    cells: dict[str, list[list[float]]] = {name: [[], [], []] for name in readers(files, folder)}
    for turn in range(arguments.rounds):
        for name, run in readers(files, folder, turn).items():
            measure(run, files, cells[name])
    if arguments.streaming_python:
        command = [arguments.streaming_python, __file__, "--mds", str(folder / "mds"), "--folder", str(folder)]
        command += ["--rounds", str(min(2, arguments.rounds))]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        cells |= json.loads(output.splitlines()[-1])
    best = {name: [min(column) for column in columns] for name, columns in cells.items()}
    raw_warm, _, raw_cold = best["raw, sequential"]
    for name, (hot, cpu, cold) in best.items():
        row = [name, f"{count / hot:,.0f}", f"{size / hot / 1e6:,.0f}", f"{raw_warm / hot:.2f}"]
        row += [f"{1e6 * cpu / count:,.0f} µs", f"{count / cold:,.0f}", f"{size / cold / 1e6:,.0f}"]
        print(f"| {' | '.join([*row, f'{raw_cold / cold:.2f}'])} |", flush=True)
    ours, theirs = best["rushes, shuffled, read before"], best["webdataset, shuffled"]
    ratios = [f"{b / a:.1f}" for a, b in zip(ours, theirs, strict=True)]
    print(
        "\nShuffled, rushes is {} times as fast as webdataset warm ({} by CPU), {} times cold".format(*ratios),
        flush=True,
    )


def measure(run: Callable[[], Any], files: list[Path], columns: list[list[float]]) -> None:
    """Adds seconds: warm, CPU of this process warm, cold."""
    warm(files)
    cpu = time.process_time()
    columns[0].append(timed(run))
    columns[1].append(time.process_time() - cpu)
    drop(files)
    columns[2].append(timed(run))


def readers(files: list[Path], folder: Path, seed: int = 0) -> dict[str, Callable[[], Any]]:
    """What reads all samples once. "read before": the samples' SHA-256 were compared by an earlier pass."""
    from latents.dataset import LatentDataset

    first, again = LatentDataset(folder), LatentDataset(folder)
    drain(again.stream(range(len(again))))
    order = np.random.default_rng(seed).permutation(len(again)).tolist()
    fresh = lambda: (first._ranges._marks.fill(0), first)[1]  # noqa: E731
    return {
        "raw, sequential": lambda: raw(files),
        "rushes, sequential, first read": lambda: drain(fresh().stream(range(len(first)))),
        "rushes, sequential, first read, 2 threads": lambda: drain(fresh().stream(range(len(first)), threads=2)),
        "rushes, sequential, read before": lambda: drain(again.stream(range(len(again)))),
        "rushes, shuffled, first read": lambda: drain(fresh().stream(order)),
        "rushes, shuffled, read before": lambda: drain(again.stream(order)),
        "rushes, shuffled, read before, no stream": lambda: drain(again[number] for number in order),
        "webdataset, shuffled": lambda: drain(webdataset(files, seed)),
    }


def raw(files: list[Path]) -> None:
    buffer = bytearray(2**20)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def webdataset(files: list[Path], seed: int) -> Iterable[Any]:
    import safetensors.torch
    import webdataset as wds

    def decode(key: str, data: bytes) -> Any:
        return safetensors.torch.load(data) if key.endswith("safetensors") else None

    urls = [str(path) for path in files]
    return wds.WebDataset(urls, shardshuffle=len(urls), seed=seed).shuffle(100).decode(decode)


def drain(samples: Iterable[Any]) -> int:
    return sum(1 for _ in samples)


def timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def warm(files: list[Path]) -> None:
    raw(files)


def drop(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    share = statistics.mean(map(cached, files))
    assert share < 0.05, f"{share:.0%} of the files are still in the page cache"


def cached(path: Path) -> float:
    """Share of a file's pages that are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as view:
        pages = np.zeros(-(-len(view) // mmap.PAGESIZE), np.uint8)
        start = np.frombuffer(view, np.uint8)
        address = start.ctypes.data
        failed = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(view)), ctypes.c_void_p(pages.ctypes.data))
        del start
    return 1.0 if failed else float((pages & 1).mean())


def write(folder: Path, bucket: str, latent: Any, logvar: bool, text: Any, samples: int, shards: int) -> None:
    import torch

    from latents.index import BucketIndex, LatentSet, place, shard_name, write_index
    from latents.shard import write_shard
    from orchestration.storage import Storage

    storage, entries = Storage(folder), []
    torch.manual_seed(0)
    pool = torch.randn(2**24).bfloat16()  # the samples' numbers: pieces of this

    def piece(shape: Any) -> Any:
        count = int(np.prod(shape))
        start = random.randrange(len(pool) - count)
        return pool[start : start + count].view(shape)

    def made(shard: int) -> Iterable[Any]:
        for number in range(samples):
            key = f"{shard * 2654435761 % 2**64:016x}-{number:07d}-{number + 49:07d}-w0"
            tensors = {"mean": piece(latent)} | ({"logvar": piece(latent)} if logvar else {})
            if text:
                tensors |= {"text.0": piece(text), "text.0.tokens": torch.tensor(61, dtype=torch.int32)}
            caption = "A person rides a bicycle along a street lined with trees, seen from a slowly moving camera. " * 3
            scores = dict.fromkeys(("motion", "camera_motion", "sharpness", "exposure", "brisque"), number / 7)
            facts = {"key": key, "clip_id": key[:-3], "caption": caption, "captions": [caption], "scores": scores}
            yield key, tensors, facts | {"fps": 24.0, "bucket": bucket, "set": SET, "encoder": ENCODER}

    random.seed(0)
    for shard in range(shards):
        with storage.open_write(place(bucket, shard_name(SET, shard))) as file:
            entries.append(write_shard(file, shard_name(SET, shard), made(shard)))
    write_index(storage, BucketIndex(bucket, {SET: LatentSet(ENCODER, None, tuple(entries))}))


def first_batch(folder: Path) -> None:
    """Eight samples of eight shards, from 1,000 shards with 100 small samples each, in fresh processes."""
    write(folder, "1x32x32", (4, 1, 4, 4), False, None, 100, 1000)
    code = (
        "import time, sys, torch\n"
        "from torch.utils.data import DataLoader\n"
        "from latents.dataset import LatentDataset\n"
        "began = time.perf_counter()\n"
        "samples = LatentDataset(sys.argv[1])\n"
        "made = time.perf_counter()\n"
        "order = torch.randperm(len(samples)).tolist()\n"
        "next(iter(DataLoader(samples, batch_size=8, sampler=order, collate_fn=list)))\n"
        "print(made - began, time.perf_counter() - began)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    print("\n| first batch of 8, 1,000 shards, 100,000 samples | indexes read | batch there |\n|---|---|---|")
    for name, prepare in (("warm", warm), ("cold", drop)):
        times = []
        for _ in range(5):
            prepare(sorted(path for path in (folder / "latents").rglob("*") if path.is_file()))
            command = [sys.executable, "-c", code, str(folder)]
            output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            times.append([float(value) for value in output.split()])
        made, total = np.median(times, axis=0)
        print(f"| {name} | {made:.2f} s | {total:.2f} s |", flush=True)


def read_mds(folder: Path, target: Path, rounds: int) -> None:
    """In the other environment: the same samples as MDS, then read shuffled; prints seconds, warm and cold, as JSON."""
    import torch

    if torch.version.cuda is None:  # torchvision is a CUDA build: beside a CPU torch its import needs these names
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import safetensors.torch
    from streaming import MDSWriter, StreamingDataset

    shards = sorted(folder.glob("latents/*/*.tar"))
    with MDSWriter(out=str(target), columns={"tensors": "bytes", "facts": "json"}, size_limit="128mb") as writer:
        for path in shards:
            with tarfile.open(path) as tar:
                contents = [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]
            for tensors, facts in zip(contents[::2], contents[1::2], strict=True):
                writer.write({"tensors": tensors, "facts": json.load(io.BytesIO(facts))})
    files = sorted(target.glob("*.mds"))
    for path in files:  # or it stays in the page cache
        with path.open("rb") as file:
            os.fsync(file.fileno())
    samples = StreamingDataset(local=str(target), shuffle=True, batch_size=1)
    runs = {
        "mosaicml-streaming, shuffled": lambda: samples,
        "mosaicml-streaming, shuffled, by number": lambda: map(
            samples.__getitem__, np.random.default_rng(0).permutation(len(samples)).tolist()
        ),
    }
    cells: dict[str, list[list[float]]] = {name: [[], [], []] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            measure(
                lambda run=run: drain(safetensors.torch.load(sample["tensors"]) for sample in run()), files, cells[name]
            )
    print(json.dumps(cells))


if __name__ == "__main__":
    main()
