"""CPU seconds of a scan (shots, all scorers of a configuration) against one bare decode of the same files, in one run.

    python benchmarks/curate.py [--config configs/default.yaml] [--repeat 3] [VIDEO ...]

Bare decode: `ffmpeg -threads 1 -i FILE -an -f null -`. Scan: fetch and hash, the guarded decode with every meter, shots,
scores and selection, without cutting, in one worker without Ray. Start-up (imports, the warm helper) is measured by a
worker that scans nothing, and given apart. CPU seconds are those of the process and all its children.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import imageio_ffmpeg

from curation.samples import fetch

SAMPLES = Path(__file__).parents[1] / ".cache" / "samples"
WORKER = """
import json, sys
from curation.config import CurateConfig
from curation.ingest import list_input
from curation.scan import ScanWorker
from orchestration.config import load_config
config_path, output, *videos = sys.argv[1:]
overrides = ["input=none", f"output={output}", "cut.mode=none", *json.loads(videos.pop(0))]
config = load_config(CurateConfig, config_path, overrides)
scanner = ScanWorker(config, output + "/scratch")()
if not videos:
    try:
        scanner._sandbox.run("probe", path="/dev/null")
    except Exception:
        pass
for video in videos:
    (item,) = list_input(video)
    row = {"listing_id": item.listing_id, **item._asdict(), "run": 1}
    receipt = scanner(row, lambda frames, label: None)
    assert receipt["status"] == "ok", receipt
    print(json.dumps(receipt))
scanner._sandbox.close()
"""


def cpu(command: list[str]) -> tuple[float, str]:
    """CPU seconds of a command and its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def bare(video: Path) -> float:
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    return cpu([ffmpeg, "-v", "error", "-threads", "1", "-i", str(video), "-an", "-f", "null", "-"])[0]


def scan(config: str, overrides: list[str], videos: list[Path]) -> tuple[float, list[dict]]:
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-c", WORKER, config, output, json.dumps(overrides), *map(str, videos)]
        seconds, text = cpu(command)
    return seconds, [json.loads(line) for line in text.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--config", default=str(Path(__file__).parents[1] / "configs" / "default.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    videos = arguments.videos or [*fetch(SAMPLES, "film"), *fetch(SAMPLES, "small")]
    startup = min(scan(arguments.config, arguments.set, [])[0] for _ in range(arguments.repeat))
    print(f"start-up of a worker, paid once: {startup:.2f} CPU s; best of {arguments.repeat}\n")
    print("| video | frames | bare decode, CPU s | scan, CPU s | ratio |")
    print("|---|---|---|---|---|")
    total_bare = total_scan = 0.0
    for video in videos:
        decode = min(bare(video) for _ in range(arguments.repeat))
        runs = [scan(arguments.config, arguments.set, [video]) for _ in range(arguments.repeat)]
        seconds = min(run[0] for run in runs) - startup
        total_bare, total_scan = total_bare + decode, total_scan + seconds
        print(f"| {video.name} | {runs[0][1][0]['frames']} | {decode:.2f} | {seconds:.2f} | {seconds / decode:.2f} |")
    print(f"| all | | {total_bare:.2f} | {total_scan:.2f} | **{total_scan / total_bare:.2f}** |")


if __name__ == "__main__":
    main()
