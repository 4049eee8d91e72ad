"""Time, memory and recall of the search for near-duplicates on synthetic vectors. One command:

    python benchmarks/duplicates_scale.py [--vectors 100000 1000000] [--folder DIR]

Vectors of 1280 numbers as a network's pooled features are: not negative, few directions count, scenes of 1 to 8 shots.
One in ten has a copy that is 0.85 to 0.99 alike. Recall: of the neighbours at 0.85 or more (and at 0.9) of 2,000
vectors, found by comparing these with all. The search runs in one thread of a child process. Baseline: every pair
compared, for 20,000 vectors, and what that takes for more of them (it grows with the square).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH, LATENT, BLOCK = 1280, 48, 20_000
FLOOR = 0.85
EVERY_PAIR = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Time, memory and recall of the search for near-duplicates.")
    parser.add_argument("--vectors", type=int, nargs="+", default=[100_000])
    parser.add_argument("--folder", help="where the vectors go, 5 kB each; a temporary folder by default")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "VECTORS", "BRUTE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        folder, vectors, brute = arguments.child
        return search(Path(folder), int(vectors), int(brute))
    print("| vectors | search | CPU s | vectors a CPU s | peak RSS MB | pairs | recall | at 0.9 |")
    print("|---|---|---|---|---|---|---|---|")
    for count in (EVERY_PAIR, *arguments.vectors):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            brute = count if count == EVERY_PAIR else 0
            command = [sys.executable, __file__, "--child", folder, str(count), str(brute)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)
            name = "every pair" if brute else "cells"
            speed, rss = count / found["cpu"], found["rss"] / 2**20
            cells = f"{found['cpu']:,.0f} | {speed:,.0f} | {rss:,.0f} | {found['pairs']:,}"
            cells += f" | {found['recall']:.3f} | {found['sure']:.3f}"
            print(f"| {count:,} | {name} | {cells} |", flush=True)
            if brute:
                per_pair = found["cpu"] / count**2
                for more in arguments.vectors:
                    print(f"| {more:,} | every pair, extrapolated | {per_pair * more**2:,.0f} | | | | | |", flush=True)


def search(folder: Path, count: int, brute: int) -> None:
    import pyarrow as pa

    from curation.duplicates.search import rounded, similar_pairs
    from curation.duplicates.vectors import Vectors

    make(folder / "vectors", count)
    vectors = Vectors(folder / "vectors", pa.array([f"{i:012d}" for i in range(count)]), WIDTH)
    start = time.process_time()
    found = similar_pairs(vectors, FLOOR, brute=brute)
    cpu = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    some = np.sort(np.random.default_rng(1).choice(count, 2000, replace=False))
    have = set(zip(found.a.tolist(), found.b.tolist(), strict=True))
    asked, hits = vectors.rows(some), []
    for begin in range(0, count, BLOCK):
        cosine = asked @ vectors.rows(slice(begin, begin + BLOCK)).T
        rows, columns = np.nonzero(rounded(cosine) >= rounded(FLOOR))
        for a, b, alike in zip(some[rows].tolist(), (begin + columns).tolist(), cosine[rows, columns], strict=True):
            if a != b:
                hits.append(((min(a, b), max(a, b)) in have, alike >= 0.9))
    hit, close = np.array(hits).T
    found = {"pairs": len(found.a), "recall": hit.mean(), "sure": hit[close].mean()}
    print(json.dumps({"cpu": cpu, "rss": peak} | found))


def make(path: Path, count: int) -> None:
    """Features: the positive part of a random map of a few latent numbers, shared in part by the shots of a scene."""
    mapping = np.random.default_rng(0).normal(size=(LATENT, WIDTH)).astype(np.float32)
    with path.open("wb") as file:
        for begin in range(0, count, BLOCK):
            random = np.random.default_rng(begin + 1)
            size = min(BLOCK, count - begin)
            scene = np.repeat(np.arange(size), random.integers(1, 9, size))[:size]
            latent = random.normal(size=(size, LATENT))[scene] + 0.6 * random.normal(size=(size, LATENT))
            features = np.maximum(latent.astype(np.float32) @ mapping - 1, 0)
            features /= np.linalg.norm(features, axis=1, keepdims=True)
            copies, originals = np.split(random.permutation(size)[: size // 10 * 2], 2)
            alike = random.uniform(FLOOR, 0.99, (len(copies), 1))
            other = random.normal(size=(len(copies), WIDTH)).astype(np.float32)
            other -= (other * features[originals]).sum(axis=1, keepdims=True) * features[originals]
            other /= np.linalg.norm(other, axis=1, keepdims=True)
            features[copies] = alike * features[originals] + np.sqrt(1 - alike**2) * other
            file.write(features.astype(np.float16).tobytes())


if __name__ == "__main__":
    main()
