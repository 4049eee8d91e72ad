"""A long run of `rushes curate`: does the memory of its processes stay flat?

    python benchmarks/soak.py [--videos 2000] [--default]

Videos of two to four seconds, each with bytes of its own (the samples' packets under another title), every fiftieth a
broken one. While one run takes them all, the resident memory of the driver, the workers and their decoders' helpers is
read every two seconds. The table has the median of each tenth of the run's rows; "growth" is a straight line through
the samples of the last four fifths, in MB per 1,000 videos. `--default`: the default profile with its models, else the
scorers that look at every frame.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import psutil

from curation.samples import fetch

ROOT = Path(__file__).parents[1]
ROLES = {"driver": "orchestration.cli", "worker": "ray::MapWorker", "decoder's helper": "sandbox._serve"}
BROKEN = 50  # one of so many


def make(folder: Path, count: int) -> None:
    samples = fetch(ROOT / ".cache" / "samples", "small")
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:05}.mp4"
        source, seconds = samples[number % len(samples)], 2 + number % 3
        title = ("-metadata", f"title={number}")
        command = ["-loglevel", "error", "-i", source, "-t", seconds, "-c:v", "copy", "-an", *title, path]
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *map(str, command)], check=True)
        if number % BROKEN == 0:
            path.write_bytes(path.read_bytes()[: 1000 + number])


def memory(driver: psutil.Process) -> dict[str, float]:
    """MB by role; of several processes of a role the largest."""
    found: dict[str, float] = defaultdict(float)
    for process in (driver, *driver.children(recursive=True)):
        try:
            line = " ".join(process.cmdline())
            role = next((name for name, mark in ROLES.items() if mark in line), None)
            if role is not None:
                found[role] = max(found[role], process.memory_info().rss / 1e6)
        except psutil.Error:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--default", action="store_true", help="the default profile, with its models")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        make(base / "raw", options.videos)
        profile = ROOT / ("configs/default.yaml" if options.default else "tests/frames.yaml")
        settings = [f"input={base / 'raw'}", f"output={base / 'dataset'}", "report.enabled=false", "ray.workers=2"]
        begun = time.monotonic()
        samples: list[tuple[int, dict[str, float]]] = []
        with subprocess.Popen(
            [sys.executable, "-m", "orchestration.cli", "curate", str(profile), *settings],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as run:
            driver = psutil.Process(run.pid)
            while run.poll() is None:
                rows = [path.read_text().count("\n") for path in (base / "dataset").glob("runs/*/metrics.jsonl")]
                samples.append((sum(rows), memory(driver)))
                time.sleep(2)
        minutes = (time.monotonic() - begun) / 60
        show(samples, options.videos)
        status = [sys.executable, "-m", "orchestration.cli", "status", str(base / "dataset")]
        print(f"\n{options.videos:,} videos in {minutes:.1f} min, exit code {run.returncode}\n")
        print(subprocess.run(status, capture_output=True, text=True, check=True).stdout)


def show(samples: list[tuple[int, dict[str, float]]], videos: int) -> None:
    print(f"| rows done | {' | '.join(f'{role}, MB' for role in ROLES)} |\n|---|{'---|' * len(ROLES)}")
    for tenth in range(10):
        low, high = videos * tenth // 10, videos * (tenth + 1) // 10
        cells = []
        for role in ROLES:
            found = [at[role] for rows, at in samples if low < rows <= high and role in at]
            cells.append(f"{statistics.median(found):.0f}" if found else "")
        print(f"| {low:,}–{high:,} | {' | '.join(cells)} |")
    cells = []
    for role in ROLES:
        points = [(rows, at[role]) for rows, at in samples if videos / 5 < rows < videos and role in at]
        rows, megabytes = np.array(points).T if len(points) > 2 else np.zeros((2, 0))
        cells.append(f"{1000 * np.polyfit(rows, megabytes, 1)[0]:+.1f}" if len(rows) else "")
    print(f"| growth | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
