"""CPU seconds of cutting: packet copies, with what proves them, against x264 veryfast of the same clips.

    python benchmarks/cut.py [VIDEO] [--frames N]

Prints a markdown table. Clips are the shots of the film's beginning. Without VIDEO: Big Buck Bunny from the samples.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np

from curation.container import frame_hash, open_video
from curation.cut import CutConfig, CutRequest, cut_clips
from curation.media.remux import copy_clips, plan, survey
from curation.media.verify import frames_hash, verify_copy
from curation.video import Span

FILM = Path(__file__).parent.parent / ".cache/samples/videos/film/bbb.mp4"
CUT = 25.0  # mean difference of grey levels between two frames that makes a shot change, good enough to time by


def find_clips(video: Path, frames: int, folder: Path) -> tuple[list[CutRequest], list[float], float]:
    """Requests for the shots of the first `frames` frames, each frame's time in seconds, and the frame rate."""
    container, stream = open_video(video)
    hashes, pts, cuts, before = [], [], [0], None
    with container:
        for number, frame in enumerate(container.decode(stream)):
            if number > frames:
                break
            hashes.append(frame_hash(frame))
            pts.append(frame.pts)
            grey = cv2.resize(frame.to_ndarray(format="gray"), (64, 36), interpolation=cv2.INTER_AREA).astype(np.int16)
            if before is not None and np.abs(grey - before).mean() > CUT:
                cuts.append(number)
            before = grey
        seconds = [float((time - (stream.start_time or 0)) * stream.time_base) for time in pts]
        rate = float(stream.average_rate or 25)
    requests = []
    for start, end in pairwise(cuts):
        inside = hashes[start:end]
        requests.append(
            CutRequest(
                Span(start, end),
                *(pts[start], pts[end], inside[0], inside[-1], frames_hash(inside)),
                folder / f"{start}.mp4",
            )
        )
    return requests, seconds, rate


def x264(video: Path, requests: list[CutRequest], seconds: list[float], rate: float) -> None:
    """What other tools do: seek to the clip, decode it, encode it with x264 veryfast; one thread."""
    for request in requests:
        start, frames = max(0.0, seconds[request.span.start] - 0.5 / rate), request.span.end - request.span.start
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", "-threads", "1", "-ss", f"{start:.6f}"]
        command += ["-i", str(video), "-frames:v", str(frames), "-an", "-threads", "1", "-c:v", "libx264"]
        subprocess.run([*command, "-preset", "veryfast", str(request.target)], check=True)


def cpu(action: Callable[[], object]) -> float:
    """CPU seconds of this process and its children."""
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    action()
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True))


def median(action: Callable[[], object]) -> float:
    """Of three runs: these take a second, and what else the machine does shows."""
    return sorted(cpu(action) for _ in range(3))[1]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("video", nargs="?", type=Path, default=FILM)
    arguments.add_argument("--frames", type=int, default=3000, help="of the film's beginning to cut")
    options = arguments.parse_args()
    if not options.video.exists():
        sys.exit(f"{options.video} is not there: name a video, or run `make samples`")
    with tempfile.TemporaryDirectory() as folder:
        requests, seconds, rate = find_clips(options.video, options.frames, Path(folder))
        if not requests:
            sys.exit("no shot change in these frames; try more of them with --frames")
        frames = sum(request.span.end - request.span.start for request in requests)

        def copy() -> None:
            table = survey(options.video, requests[-1].end_pts)
            runs[:] = [plan(table, request) for request in requests]
            assert not any(copy_clips(options.video, requests, runs, audio=False))

        def cut(verify: str) -> None:
            results = cut_clips(options.video, requests, CutConfig.model_validate({"verify": verify}))
            assert {result.cut for result in results} == {"copy"}, results

        runs: list = []
        began = time.monotonic()
        rows = [("x264 veryfast", cpu(lambda: x264(options.video, requests, seconds, rate)))]
        rows.append(("copy, not verified", median(copy)))
        for request, run in zip(requests, runs, strict=True):
            assert verify_copy(request, run, full=False)[0] is None
        rows.append(("copy, `verify: ends`", median(lambda: cut("ends"))))
        rows.append(("copy, `verify: full`", median(lambda: cut("full"))))
        took = time.monotonic() - began
    print(f"{options.video.name}: {len(requests)} clips, {frames} frames, {took:.0f} s\n")
    print("| how | CPU s | ms per frame | of x264 |\n|---|---|---|---|")
    for name, spent in rows:
        print(f"| {name} | {spent:.2f} | {1000 * spent / frames:.3f} | 1/{rows[0][1] / spent:.1f} |")


if __name__ == "__main__":
    main()
