"""Curation as one writes it in an afternoon with the usual libraries, which curate.py compares with; CPU s by step.

    python benchmarks/baseline.py [VIDEO ...]

A pool of two processes, a video each at a time:

    scenes   PySceneDetect, its recommended AdaptiveDetector on the OpenCV backend, which shrinks frames by itself
    flow     mean magnitude of Farneback flow at 2 frames a second, for each scene of 2 s or more
    text     rapidocr's default pipeline (detection, orientation, recognition) on the frame in the middle of each scene
    split    ffmpeg, x264 veryfast at CRF 23, one call a scene, without sound

and a CSV. It is given every easy saving: one thread a process everywhere (two processes fill two cores; ONNX Runtime's
threads would burn more), frames that nobody looks at are decoded but not converted, one pass over the video serves
flow and text, and flow runs at 320 px of width, where Data-Juicer and VideoX-Fun, whose parameters these are, use the
full size by default (`--flow-width 0`).
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np

from curation.samples import fetch

SAMPLES = Path(__file__).parents[1] / ".cache" / "samples"
STEPS = ("scenes", "flow", "text", "split")
SHORTEST_S, FLOW_HZ, FLOW_WIDTH = 2.0, 2.0, 320
COLUMNS = ("video", "start_s", "end_s", "file", "motion", "text_area", "text")


@dataclass
class Clock:
    """CPU seconds of this process and of the ffmpegs that it waited for, by step."""

    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = _cpu()
        yield
        self.spent[name] += _cpu() - begun


@dataclass
class Scene:
    start: int  # frames
    end: int
    motion: float = 0.0
    middle: np.ndarray | None = None


def run(videos: Sequence[Path], folder: Path, flow_width: int = FLOW_WIDTH) -> dict[str, float]:
    """Curate `videos` into `folder` (clips and clips.csv). CPU seconds of all processes: by step, of "start" (imports,
    models, whatever is left) and of "all". `flow_width`: px; 0 for the video's own."""
    before = _cpu()
    with get_context("spawn").Pool(2, _begin) as pool:
        done = pool.map(partial(_curate, folder=folder, flow_width=flow_width), videos, chunksize=1)
        pool.close()
        pool.join()
    with (folder / "clips.csv").open("w", newline="") as file:
        writer: csv.DictWriter[str] = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(row for rows, _ in done for row in rows)
    steps = {step: sum(spent[step] for _, spent in done) for step in STEPS}
    everything = _cpu() - before
    return {**steps, "start": everything - sum(steps.values()), "all": everything}


def _begin() -> None:
    """Of a worker: the heavy imports and the models, once."""
    global detect, AdaptiveDetector, ocr
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    from rapidocr import RapidOCR
    from scenedetect import AdaptiveDetector, detect

    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    ocr = RapidOCR(params={"Global.log_level": "error", **threads})


def _curate(video: Path, folder: Path, flow_width: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    clock, rows = Clock(), []
    with clock.step("scenes"):
        found = detect(str(video), AdaptiveDetector(), start_in_scene=True)
        rate = float(found[0][0].frame_rate or 0) if found else 0.0
        scenes = [Scene(start.frame_num, end.frame_num) for start, end in found]
        scenes = [scene for scene in scenes if scene.end - scene.start >= SHORTEST_S * rate]
    with clock.step("flow"):
        _look(video, scenes, max(1, round(rate / FLOW_HZ)), flow_width)
    for scene in scenes:
        row = {"video": video.name, "start_s": scene.start / rate, "end_s": scene.end / rate, "motion": scene.motion}
        with clock.step("text"):
            row |= _text(scene.middle)
            scene.middle = None
        with clock.step("split"):
            row["file"] = f"{video.stem}-{scene.start:06d}.mp4"
            _split(video, row["start_s"], row["end_s"], folder / row["file"])
        rows.append(row)
    return rows, clock.spent


def _look(video: Path, scenes: Sequence[Scene], step: int, width: int) -> None:
    """One pass over the video: each scene's motion and its middle frame."""
    capture = cv2.VideoCapture(str(video))
    number = 0
    for scene in scenes:
        sampled = set(range(scene.start, scene.end, step))
        before, speeds, middle = None, [], (scene.start + scene.end) // 2
        while number < scene.end and capture.grab():
            if number in sampled or number == middle:
                frame = capture.retrieve()[1]
                scene.middle = frame if number == middle else scene.middle
                if number in sampled:
                    grey = _grey(frame, width)
                    if before is not None:
                        flow = np.empty((*grey.shape, 2), np.float32)
                        cv2.calcOpticalFlowFarneback(before, grey, flow, 0.5, 3, 15, 3, 5, 1.2, 0)
                        speeds.append(cv2.cartToPolar(flow[..., 0], flow[..., 1])[0].mean())
                    before = grey
            number += 1
        scene.motion = float(np.mean(speeds)) if speeds else 0.0
    capture.release()


def _grey(frame: np.ndarray, width: int) -> np.ndarray:
    if width and frame.shape[1] > width:
        size = (width, round(frame.shape[0] * width / frame.shape[1]))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)


def _text(picture: np.ndarray | None) -> dict[str, Any]:
    """Share of the picture that text boxes cover, and what they say."""
    if picture is None:
        return {"text_area": None, "text": None}
    result = ocr(picture)
    boxes = [] if result.boxes is None else result.boxes
    area = sum(cv2.contourArea(np.asarray(box, np.float32)) for box in boxes)
    return {"text_area": area / (picture.shape[0] * picture.shape[1]), "text": " ".join(result.txts or ())}


def _split(video: Path, start: float, end: float, target: Path) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-threads", "1", "-ss", f"{start:.6f}"]
    command += ["-i", str(video), "-t", f"{end - start:.6f}", "-an", "-threads", "1"]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23", str(target)]
    subprocess.run(command, check=True)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--flow-width", type=int, default=FLOW_WIDTH, help="px of a frame in flow; 0: its own")
    arguments = parser.parse_args()
    videos = arguments.videos or [*fetch(SAMPLES, "film"), *fetch(SAMPLES, "small")]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        spent = run(videos, Path(folder), arguments.flow_width)
        took = time.monotonic() - begun
        with (Path(folder) / "clips.csv").open() as file:
            clips = list(csv.DictReader(file))
    seconds = sum(float(clip["end_s"]) - float(clip["start_s"]) for clip in clips)
    print(f"{len(videos)} videos, {len(clips)} clips of {seconds:.0f} s in all, {took:.0f} s by the clock.\n")
    print("| step | CPU s |\n|---|---|")
    for step, used in spent.items():
        print(f"| {step} | {used:.2f} |")


if __name__ == "__main__":
    main()
