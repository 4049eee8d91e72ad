"""CPU seconds of a scan (shots, all scorers of a configuration) against one bare decode of the same files, in one run.

    python benchmarks/curate.py [--config configs/default.yaml] [--repeat 3] [VIDEO ...]

Bare decode: `ffmpeg -threads 1 -i FILE -an -f null -`. Scan: fetch and hash, the guarded decode with every meter,
shots, scores, selection and the commit, without cutting, in one worker without Ray. CPU seconds are those of the
process and all its children.

A worker lives for thousands of videos, so what it pays once (imports, the warm helper, libraries' first calls) is kept
apart: each video is scanned by a fresh worker that has scanned a generated one of a second before, and what the worker
and its helper use from then on counts. What every video costs whatever its length (fork, arrays, Parquet) stays in.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import imageio_ffmpeg

from curation.samples import fetch

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / ".cache" / "samples"
WORKER = """
import json, sys
import psutil
from curation.config import CurateConfig
from curation.ingest import list_input
from curation.scan import ScanWorker
from orchestration.config import load_config
config_path, output, overrides, *videos = sys.argv[1:]
overrides = ["input=none", f"output={output}", "cut.mode=none", *json.loads(overrides)]
worker = psutil.Process()
scanner = ScanWorker(load_config(CurateConfig, config_path, overrides), output + "/scratch")()
spent = 0.0
for video in videos:
    (item,) = list_input(video)
    row = {"listing_id": item.listing_id, **item._asdict(), "run": 1}
    receipt = scanner(row, lambda frames, label: None)
    assert receipt["status"] == "ok", receipt
    before, spent = spent, sum(sum(process.cpu_times()[:4]) for process in (worker, *worker.children()))
    found = {key: receipt[key] for key in ("frames", "clips", "picture_cpu_s")}
    print(json.dumps({"cpu_s": spent - before, **found}))
"""


def bare(video: Path) -> float:
    """CPU seconds of a decode that does nothing else."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ffmpeg("-threads", "1", "-i", str(video), "-an", "-f", "null", "-")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ffmpeg(*arguments: str) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments], check=True)


def one_second(target: Path) -> Path:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=320x192:rate=24:duration=1", "-pix_fmt", "yuv420p", str(target))
    return target


def scan(config: str, overrides: list[str], videos: list[Path]) -> list[dict]:
    """What a fresh worker says of each video: {"cpu_s", "frames", "clips", "picture_cpu_s"}; start-up counts for the
    first."""
    # Ray gives a worker of one CPU one thread for linear algebra, as here.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-c", WORKER, config, output, json.dumps(overrides), *map(str, videos)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--config", default=str(Path(__file__).parents[1] / "configs" / "default.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    videos = arguments.videos or [*fetch(SAMPLES, "film"), *fetch(SAMPLES, "small")]
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, videos, one_second(Path(folder) / "first.mp4"))


def measure(arguments: argparse.Namespace, videos: list[Path], first: Path) -> None:
    print("| video | frames | bare decode, CPU s | scan, CPU s | ratio |")
    print("|---|---|---|---|---|")
    startup, scanned = float("inf"), {"frames": 0}
    total_bare = total_scan = 0.0
    for video in videos:
        decodes, scans = [], []
        for _ in range(arguments.repeat):  # by turns: other work on the machine then slows both
            decodes.append(bare(video))
            start, scanned = scan(arguments.config, arguments.set, [first, video])
            scans.append(scanned["cpu_s"])
            startup = min(startup, start["cpu_s"])
        decode, seconds = min(decodes), min(scans)
        total_bare, total_scan = total_bare + decode, total_scan + seconds
        print(f"| {video.name} | {scanned['frames']} | {decode:.2f} | {seconds:.2f} | {seconds / decode:.2f} |")
    print(f"| all | | {total_bare:.2f} | {total_scan:.2f} | **{total_scan / total_bare:.2f}** |")
    print(f"\nStart of a worker and its first second of video, once: {startup:.2f} CPU s. Best of {arguments.repeat}.")


if __name__ == "__main__":
    main()
