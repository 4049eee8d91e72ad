"""CPU seconds of every scorer of a configuration, with the bare decode of the same file as the unit, in one run.

    python benchmarks/scorers.py [--config configs/full.yaml] [VIDEO]

Frame scorers: the decode of a scan with each meter's calls timed; views of a frame that several meters share (smaller
planes) are made first and counted apart. Picture scorers: what a worker reports of a scan in which they look at every
clip (`score_all=true`), without loading weights. One thread. Without VIDEO: the trailer of Big Buck Bunny.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import cv2
from curate import ROOT, SAMPLES, bare, scan

from curation.config import CurateConfig
from curation.decode import DecodeConfig, decode
from curation.plan import MeasurePlan
from curation.samples import fetch
from curation.video import Frame, Meter, VideoInfo
from orchestration.config import load_config

SPENT: dict[str, float] = defaultdict(float)  # CPU seconds by meter


class Timed:
    """A meter whose calls are timed."""

    def __init__(self, name: str, meter: Meter):
        self._name, self._meter = name, meter

    def see(self, frame: Frame) -> None:
        started = time.process_time()
        self._meter.see(frame)
        SPENT[self._name] += time.process_time() - started

    def finish(self):
        return self._meter.finish()


class Views:
    """Asks first for what several meters share, so that it counts for none of them."""

    def see(self, frame: Frame) -> None:
        frame.small, frame.small_bgr, frame.thumb  # noqa: B018 - cached properties

    def finish(self):
        return {}


class TimedPlan(MeasurePlan):
    def meters(self, info: VideoInfo) -> dict[str, Meter]:
        found = super().meters(info)
        timed: dict[str, Meter] = {name: Timed(name, meter) for name, meter in found.items()}
        return {"views": Timed("shared views of a frame", Views()), **timed}


def frame_scorers(config: CurateConfig, video: Path) -> dict[str, float]:
    """CPU seconds by what shares a meter: names of the scorers, or of the part of the decode."""
    plan = TimedPlan(shots=config.shots, scorers=config.scorers)
    with tempfile.TemporaryDirectory() as folder:
        decode(video, Path(folder), DecodeConfig(), plan, lambda message: None)
    users: dict[str, list[str]] = defaultdict(list)
    info = VideoInfo("h264", "mov", 1280, 720, 24.0, 0, 1.0, "yuv420p", 8, False, False, "")
    for part in (config.shots, *plan.frame_scorers):
        for name in part.meters(info):
            users[name].append(f"shots: {part.kind}" if part is config.shots else part.kind)
    return {", ".join(users.get(name, [name])): seconds for name, seconds in SPENT.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--config", default=str(ROOT / "configs" / "full.yaml"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    video = arguments.video or next(path for path in fetch(SAMPLES, "film") if path.name == "trailer_bbb.mp4")
    config = load_config(CurateConfig, arguments.config, ["input=none", "output=none"])
    unit = min(bare(video) for _ in range(3))
    (receipt,) = scan(arguments.config, ["score_all=true"], [video])
    clips = receipt["clips"]
    looks = {scorer.kind: scorer.pictures for scorer in config.picture_scorers}
    print(f"{video.name}: {receipt['frames']} frames, {clips} clips; bare decode {unit:.2f} CPU s\n")
    print("| scorer | looks at | CPU s | of a bare decode | ms a picture |")
    print("|---|---|---|---|---|")
    for name, seconds in sorted(frame_scorers(config, video).items(), key=lambda item: -item[1]):
        print(f"| {name} | frames | {seconds:.2f} | {seconds / unit:.2f} | |")
    for kind, seconds in sorted(receipt["picture_cpu_s"].items(), key=lambda item: -item[1]):
        each = 1000 * seconds / (clips * looks[kind])
        print(f"| {kind} | {looks[kind]} pictures a clip | {seconds:.2f} | {seconds / unit:.2f} | {each:.0f} |")
    print(
        f"\nWhole scan, all clips looked at by all scorers: {json.dumps(round(receipt['cpu_s'], 2))} CPU s, "
        f"{receipt['cpu_s'] / unit:.1f} bare decodes (weights loaded once a worker are in it)."
    )


if __name__ == "__main__":
    main()
