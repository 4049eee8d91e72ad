"""What the motion scorers say of clips whose camera and objects are known, and Farneback flow beside them, in one run.

    python benchmarks/motion.py

Every clip is 2 s of 480x270, encoded as H.264 at CRF 20, 28 or 34 and measured as a scan does it: decoded in the
sandbox, where the flow meter sees every frame. Clips:

    photograph   a still moved by one known camera at 0.4, 1 or 2 times the base speed, or by pan and zoom (Ken Burns)
    object       the same with something real moving through the scene
    frozen       one frame of footage, shown for 2 s
    footage      excerpts in which something moves (FOOTAGE: looked at one by one, at 6 frames and their difference)
    moved        footage of a fixed camera (FIXED) seen through a window that moves as one known camera

Baseline: mean magnitude of Farneback's flow between frames half a second apart, the camera's part not removed, as
Data-Juicer (threshold 0.25) and VideoX-Fun (2) measure motion: OpenCV reads every frame, flow at the clip's size.

Pictures and scores are the same in every run. x264's lookahead is not, to the bit: last digits differ from run to run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import psutil
from motion_clips import PAN, ROLL, SAMPLES, SIZE, SPEEDS, ZOOM, Clip, Result, clips, encode

from curation.decode import DecodeConfig, load_tracks
from curation.plan import MeasurePlan
from curation.samples import fetch
from curation.sandbox import Sandbox
from curation.scorers.camera_motion import LABELS, CameraMotion
from curation.scorers.motion import Motion
from curation.video import Span


class Meter:
    """Measures clips with the scorers and with the baseline, and counts the CPU seconds of both."""

    def __init__(self, folder: Path) -> None:
        self.ours = self.farneback = 0.0
        self._folder, self._warm = folder, False
        self._sandbox = Sandbox()
        self._scorers = (Motion.model_validate({}), CameraMotion.model_validate({}))
        self._plan = MeasurePlan(scorers=self._scorers).model_dump(mode="json")

    def measure(self, clip: Clip) -> Result:
        path = self._folder / "clip.mp4"
        encode(clip, path)
        if not self._warm:  # the sandbox starts with its first job
            self._scores(path)
            self._warm = True
        begun = _cpu()
        scores = self._scores(path)
        between = _cpu()
        farneback = baseline(path)
        self.ours += between - begun
        self.farneback += _cpu() - between
        motion, confidence = (
            np.nan if scores[name] is None else scores[name] for name in ("motion", "camera_confidence")
        )
        return Result(
            replace(clip, pictures=()), motion, scores["camera_motion"], confidence, _speed(clip, scores), farneback
        )

    def _scores(self, path: Path) -> dict[str, Any]:
        config = DecodeConfig().model_dump(mode="json")
        with TemporaryDirectory(dir=self._folder) as arrays:
            result = self._sandbox.run("decode", path=str(path), folder=arrays, config=config, plan=self._plan)
            tracks = load_tracks(Path(arrays), result)
            span = Span(0, tracks.frames)
            return {name: value for scorer in self._scorers for name, value in scorer.score(tracks, span).items()}

    def close(self) -> None:
        self._sandbox.close()


def baseline(path: Path) -> float:
    """Mean magnitude of Farneback flow, px, with the parameters of Data-Juicer and VideoX-Fun."""
    capture = cv2.VideoCapture(str(path))
    step = max(1, round(capture.get(cv2.CAP_PROP_FPS) / 2))
    before, means, number = None, [], 0
    while capture.grab():
        if number % step == 0:
            picture = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2GRAY)
            if before is not None:
                flow = np.empty((*picture.shape, 2), np.float32)
                cv2.calcOpticalFlowFarneback(before, picture, flow, 0.5, 3, 15, 3, 5, 1.2, 0)
                means.append(cv2.cartToPolar(flow[..., 0], flow[..., 1])[0].mean())
            before = picture
        number += 1
    capture.release()
    return float(np.mean(means))


def _speed(clip: Clip, scores: dict[str, Any]) -> float | None:
    """Measured over true speed of the camera's one motion."""
    true = {
        "pan": PAN * 100,
        "tilt": -PAN * 100 * SIZE[0] / SIZE[1],
        "zoom": -ZOOM * 100,
        "roll": float(np.degrees(ROLL)),
    }
    column = f"camera_{clip.camera}"
    return (
        scores[column] / (clip.speed * true[clip.camera])
        if clip.camera in true and scores[column] is not None
        else None
    )


def _cpu() -> float:
    """CPU seconds of this process, of the sandbox and of the jobs that it has ended."""
    processes = (psutil.Process(), *psutil.Process().children())
    return sum(sum(process.cpu_times()[:4]) for process in processes)


# --- tables ---------------------------------------------------------------------------------------------------------


def confusion(results: Sequence[Result]) -> None:
    """Rows: what the camera did; columns: the label. Right by speed; measured over true speed at the base speed."""
    print(f"\n| camera | {' | '.join(LABELS)} | right | at 0.4 / 1 / 2 | confidence p5 | speed p5–p95 |")
    print("|---" * (len(LABELS) + 5) + "|")
    for camera in LABELS:
        row = [result for result in results if result.clip.camera == camera]
        right = [result.label == camera for result in row]
        at = (np.mean([r for r, x in zip(right, row, strict=True) if abs(x.clip.speed) == speed]) for speed in SPEEDS)
        shares = " / ".join(f"{share:.0%}" for share in at)
        confidence = np.percentile([result.confidence for result in row], 5)
        ratios = [x.speed for x in row if x.speed is not None and abs(x.clip.speed) == 1]
        speeds = "–".join(f"{edge:.2f}" for edge in np.percentile(ratios, (5, 95))) if ratios else ""
        print(f"| {camera} | {_counts(row)} | {np.mean(right):.1%} | {shares} | {confidence:.2f} | {speeds} |")


def fixed_cameras(results: Sequence[Result]) -> None:
    """Labels of footage as it is, where the camera is known to stand."""
    print(f"\n| fixed camera | {' | '.join(LABELS)} | right | confidence, right labels | wrong labels |")
    print("|---" * (len(LABELS) + 4) + "|")
    for name in dict.fromkeys(result.clip.source.split()[0] for result in results):
        row = [result for result in results if result.clip.source.split()[0] == name]
        right = [result.confidence for result in row if result.label == "static"]
        wrong = [result.confidence for result in row if result.label != "static"]
        ranges = " | ".join(f"{min(some):.2f}–{max(some):.2f}" if some else "" for some in (right, wrong))
        print(f"| {name} | {_counts(row)} | {len(right) / len(row):.1%} | {ranges} |")


def _counts(row: Sequence[Result]) -> str:
    return " | ".join(str(sum(result.label == label for result in row) or "·") for label in LABELS)


def area(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative; ties count half."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left") + np.searchsorted(ordered, positives, "right")
    return float(below.mean() / 2 / len(negatives))


def least_error(positives: np.ndarray, negatives: np.ndarray) -> tuple[float, float]:
    """The best any threshold can do: (mean of the share of negatives that pass and of positives lost, threshold)."""
    return min(
        (((negatives >= threshold).mean() + (positives < threshold).mean()) / 2, float(threshold))
        for threshold in np.unique(np.concatenate([positives, negatives]))
    )


def roc(results: Sequence[Result]) -> None:
    scores = {name: np.array([getattr(result, name) for result in results]) for name in ("motion", "farneback")}
    scores = {name: np.nan_to_num(values, nan=-1.0) for name, values in scores.items()}  # unmeasured never passes
    groups = np.array([result.clip.group for result in results])
    still = np.isin(groups, ("photograph", "frozen"))
    print("\n| moves | does not move | clips | AUC: `motion` | Farneback | least error: `motion` | Farneback |")
    print("|---|---|---|---|---|---|---|")
    for named, moving, against, rest in (
        ("object", ("object",), "photograph", groups == "photograph"),
        ("footage", ("footage",), "photograph, frozen", still),
        ("moved", ("moved",), "photograph, frozen", still),
        ("all three", ("object", "footage", "moved"), "photograph, frozen", still),
    ):
        moves = np.isin(groups, moving)
        pairs = [(values[moves], values[rest]) for values in scores.values()]
        areas = " | ".join(f"{area(*pair):.4f}" for pair in pairs)
        errors = " | ".join("{:.1%} at {:.2f}".format(*least_error(*pair)) for pair in pairs)
        print(f"| {named} | {against} | {moves.sum()} / {rest.sum()} | {areas} | {errors} |")

    print("\n| threshold | photograph passes | frozen passes | object lost | footage lost | moved lost |")
    print("|---|---|---|---|---|---|")
    for name, threshold in (("motion", 0.08), ("motion", 0.1), ("farneback", 0.25), ("farneback", 2.0)):
        passes = scores[name] >= threshold
        shares = [passes[groups == group].mean() for group in ("photograph", "frozen")]
        shares += [1 - passes[groups == group].mean() for group in ("object", "footage", "moved")]
        print(f"| {name} ≥ {threshold:g} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")

    for name, unit in (("motion", "% of diagonal / s"), ("farneback", "px in half a second")):
        print(f"\n| {name}, {unit} | clips | min | p1 | p5 | p50 | p95 | p99 | max |")
        print("|---" * 9 + "|")
        for group in dict.fromkeys(groups):
            values = scores[name][groups == group]
            marks = " | ".join(f"{mark:.3f}" for mark in np.percentile(values, (0, 1, 5, 50, 95, 99, 100)))
            print(f"| {group} | {len(values)} | {marks} |")


def extremes(results: Sequence[Result]) -> None:
    """The clips that come nearest to the wrong side."""
    for group, turn in (("photograph", -1), ("object", 1), ("footage", 1)):
        chosen = sorted((r for r in results if r.clip.group == group), key=lambda r: turn * r.motion)[:6]
        named = (f"{r.clip.source} {r.clip.camera} CRF {r.clip.crf}: {r.motion:.3f}" for r in chosen)
        print(f"\n{'Lowest' if turn == 1 else 'Highest'} `motion`, {group}: {'; '.join(named)}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    cv2.setNumThreads(1)
    videos = {path.stem: path for path in fetch(SAMPLES, "all")}
    with TemporaryDirectory() as folder:
        meter = Meter(Path(folder))
        results = [meter.measure(clip) for clip in clips(videos)]
        spent = _cpu()
        meter.close()
    for group, title in (
        ("photograph", "photographs"),
        ("object", "photographs with an object crossing"),
        ("moved", "footage of fixed cameras through a moving window"),
    ):
        chosen = [result for result in results if result.clip.group == group and result.clip.camera in LABELS]
        print(f"\nCamera labels, {title}: {len(chosen)} clips.")
        confusion(chosen)
    fixed_cameras([result for result in results if result.clip.group == "footage" and result.clip.camera == "static"])
    roc(results)
    extremes(results)
    print(
        f"\n{len(results)} clips, {spent:.0f} CPU s. CPU s a clip: `motion` and `camera_motion` in the guarded decode",
        end="",
    )
    print(f" {meter.ours / len(results):.3f}, Farneback {meter.farneback / len(results):.3f}.")


if __name__ == "__main__":
    main()
