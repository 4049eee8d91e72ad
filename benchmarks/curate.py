"""CPU seconds of curation against a bare decode and against a hand-written pipeline of the same files, in one run.

    python benchmarks/curate.py [--config configs/default.yaml] [--repeat 3] [VIDEO ...]

First table: a scan over a bare decode. Bare decode: `ffmpeg -threads 1 -i FILE -an -f null -`. Scan: fetch and hash,
the guarded decode with every meter, shots, scores, picture scorers, selection and the commit, without cutting, in one
worker without Ray. CPU seconds are those of the process and all its children. A worker lives for thousands of videos,
so what it pays once (imports, the warm helper, weights, libraries' first calls) is kept apart: each video is scanned by
a fresh worker that has loaded its models and scanned a generated second of video before, and what the worker and its
helper use from then on counts. What every video costs whatever its length (fork, arrays, Parquet) stays in.

Second table: the whole of `rushes curate` with cutting, tables and report, Ray and every start included, over
benchmarks/baseline.py on the same files. CPU seconds of all processes, looked up ten times a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import baseline
import imageio_ffmpeg
import psutil

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
scanner._desk._cascade.prepare()
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


def whole(config: str, overrides: list[str], videos: list[Path], folder: Path) -> tuple[float, dict]:
    """CPU seconds of `rushes curate` over `videos`, with all that it starts, and what it kept."""
    raw, output = folder / "raw", folder / "dataset"
    raw.mkdir()
    for video in videos:
        (raw / video.name).symlink_to(video.resolve())
    rushes = [sys.executable, "-m", "orchestration.cli"]
    settings = [config, f"input={raw}", f"output={output}", *overrides]
    seen: dict[tuple[int, float], float] = {}  # process → CPU seconds when it was last seen
    with subprocess.Popen([*rushes, "curate", *settings], cwd=ROOT, stdout=subprocess.DEVNULL) as run:
        driver = psutil.Process(run.pid)
        while run.poll() is None:
            with contextlib.suppress(psutil.Error):
                for process in (driver, *driver.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        used = process.cpu_times()
                        seen[process.pid, process.create_time()] = used.user + used.system
            time.sleep(0.1)
    assert run.returncode == 0
    told = subprocess.run([*rushes, "status", str(output), "--json"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return sum(seen.values()), json.loads(told.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--config", default=str(ROOT / "configs" / "default.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    videos = arguments.videos or [*fetch(SAMPLES, "film"), *fetch(SAMPLES, "small")]
    with tempfile.TemporaryDirectory() as folder:
        over_decode(arguments, videos, one_second(Path(folder) / "first.mp4"))
        over_baseline(arguments, videos, Path(folder))


def over_decode(arguments: argparse.Namespace, videos: list[Path], first: Path) -> None:
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
    print(f"\nA worker's first second of video: {startup:.2f} CPU s with its start. Best of {arguments.repeat}.\n")


def over_baseline(arguments: argparse.Namespace, videos: list[Path], folder: Path) -> None:
    (folder / "baseline").mkdir()
    theirs = baseline.run(videos, folder / "baseline")
    ours, status = whole(arguments.config, arguments.set, videos, folder)
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in theirs.items() if name != "all")
    print("| | CPU s | of the baseline |\n|---|---|---|")
    print(f"| baseline ({steps}) | {theirs['all']:.1f} | 1 |")
    print(f"| rushes curate, {status['clips']['kept']} clips kept | {ours:.1f} | **{ours / theirs['all']:.2f}** |")


if __name__ == "__main__":
    main()
