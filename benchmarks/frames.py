"""What reading frames ahead costs over a bare loop of read_clip, and how long a model waits for them.

    python benchmarks/frames.py

Clips: spans of the sample videos (small, and the trailer of 1280x720), cut as copies, each read several times. CPU
seconds are those of this process and its helpers; frames are looked at (every 16th pixel) on both sides, so that memory
is really there. The model is a sleep for each clip; what it waited counts from its second clip on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from captioning.frames import FramesConfig, plan_frames
from captioning.prefetch import PrefetchConfig, Prefetcher
from curation.container import frame_hash, open_video
from curation.cut import CutConfig, CutRequest, cut_clips
from curation.media.verify import frames_hash
from curation.read import choose_key_frames, key_frames, read_clip
from curation.samples import fetch
from curation.video import Span

SAMPLES = Path(__file__).parents[1] / ".cache" / "samples"
LENGTH = 120  # frames of a clip
NAMES = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4", "trailer_bbb.mp4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="times that every clip is read")
    arguments = parser.parse_args()
    files = {path.name: path for path in fetch(SAMPLES)}
    with TemporaryDirectory() as folder:
        rows = [row for name in NAMES for row in cut(files[name], Path(folder))]
        print(f"{len(rows)} clips of {LENGTH} frames or less, read {arguments.rounds} times each\n")
        print("| policy | frames | bare: CPU | wall | 1 reader: CPU | wall | 2 readers: CPU | wall | CPU | more |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for policy in ("fps", "uniform", "keyframes"):
            compare(rows * arguments.rounds, FramesConfig(policy=policy), folder)
        print("\n| the model works, a clip | 1 reader: waited | 2 readers: waited |\n|---|---|---|")
        for work in (0.05, 0.1, 0.15, 0.2):
            shares = [waited(rows * arguments.rounds, folder, readers, work) for readers in (1, 2)]
            print(f"| {1000 * work:.0f} ms | {' | '.join(f'{100 * share:.1f} %' for share in shares)} |", flush=True)


def cut(path: Path, folder: Path) -> list[dict[str, Any]]:
    """Rows of the clips of a video, which lie in `folder` afterwards."""
    hashes, pts = [], []
    container, stream = open_video(path)
    with container:
        rate = float(stream.average_rate or 25)
        size = {"width": stream.codec_context.width, "height": stream.codec_context.height}
        for frame in container.decode(stream):
            hashes.append(frame_hash(frame))
            pts.append(frame.pts)
    rows = []
    for start in range(0, len(pts) - LENGTH // 2, LENGTH):
        end = min(start + LENGTH, len(pts) - 1)
        span, target = hashes[start:end], folder / f"{path.stem}-{start}.mp4"
        ends = (span[0], span[-1], frames_hash(span))
        request = CutRequest(Span(start, end), pts[start], pts[end], *ends, target)
        (result,) = cut_clips(path, [request], CutConfig())
        row = {"clip_id": target.stem, "media": target.name, "cut": result.cut, "start_frame": start, "end_frame": end}
        rows.append(row | size | {"start_s": start / rate, "end_s": end / rate, "fps": rate, "pix_fmt": "yuv420p"})
    return rows


def compare(rows: list[dict[str, Any]], config: FramesConfig, root: str) -> None:
    planned = [(row, plan_frames(row, config)) for row in rows]
    cpu, began = cpu_s(), time.perf_counter()
    for row, plan in planned:
        indices = list(plan.indices)
        if plan.keyframes and (keys := key_frames(row, root=root)):
            indices = choose_key_frames(keys, row["end_frame"] - row["start_frame"], len(indices))
        look(read_clip(row, indices, plan.size, root=root))
    bare, wall = cpu_s() - cpu, time.perf_counter() - began
    cells = [config.policy, f"{sum(len(plan.indices) for _, plan in planned)}", f"{bare:.2f} s", f"{wall:.2f} s"]
    ours = 0.0
    for readers in (1, 2):
        with Prefetcher(root, PrefetchConfig(readers=readers), root) as prefetcher:
            list(prefetcher(planned[: 2 * readers]))  # helpers start
            cpu, began = cpu_s(), time.perf_counter()
            for _, pictures in prefetcher(planned):
                assert not pictures.reason, pictures.reason
                look(pictures.frames)
            ours, wall = cpu_s() - cpu, time.perf_counter() - began
        cells += [f"{ours:.2f} s", f"{wall:.2f} s"]
    cells += [f"{ours / bare:.2f}", f"{1000 * (ours - bare) / len(rows):.1f} ms a clip"]
    print(f"| {' | '.join(cells)} |", flush=True)


def waited(rows: list[dict[str, Any]], root: str, readers: int, work: float) -> float:
    """Share of its time, the first clip's aside, that a model waits which works `work` seconds a clip."""
    planned = [(row, plan_frames(row, FramesConfig())) for row in rows]
    with Prefetcher(root, PrefetchConfig(readers=readers), root) as prefetcher:
        frames = prefetcher(planned)
        next(frames)
        start, began = prefetcher.waited_s, time.perf_counter()
        for _ in frames:
            time.sleep(work)
        return (prefetcher.waited_s - start) / (time.perf_counter() - began)


def look(frames: Any) -> int:
    return sum(int(frame[::16, ::16].sum()) for frame in frames)


def cpu_s() -> float:
    """Of this process and all below it, also those that have ended."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (me, *me.children(recursive=True)))


if __name__ == "__main__":
    main()
