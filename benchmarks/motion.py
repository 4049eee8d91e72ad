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
import importlib.resources
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import cv2
import numpy as np
import psutil

from curation.decode import DecodeConfig, load_tracks
from curation.plan import MeasurePlan
from curation.samples import fetch
from curation.sandbox import Sandbox
from curation.scorers.camera_motion import LABELS, CameraMotion
from curation.scorers.motion import Motion
from curation.video import Span

SAMPLES = Path(__file__).parents[1] / ".cache" / "samples"
SEED = 20261124
SIZE, SECONDS, FPS = (480, 270), 2.0, 24.0
CRFS = (20, 28, 34)
SPEEDS = (0.4, 1.0, 2.0)
PAN, ZOOM, ROLL, SHAKE = 0.08, 0.15, 0.15, 0.004  # widths / s (tilts too), log-scale / s, rad / s, widths RMS a frame
KEN_BURNS = (0.08, 0.06)  # pan, widths / s, and zoom, log-scale / s
WINDOW = 0.75  # of the picture that a moved window shows

# scikit-image's photographs, but for the second eye of its stereo pair; its drawings and scans are none
PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png"),
    *("hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
)
FRAMES = (("vtest", 30), ("box", 7), ("bikes", 6), ("bbb", 12), ("bbb", 35), ("bbb", 227))  # (footage, second)
OBJECTS = (
    ("carphone_pristine", 0, (50, 20, 90)),
    ("box", 9, (205, 140, 220)),
    ("bbb", 16.1, (300, 130, 420)),
)  # x, y, side

# (footage, camera, seconds at which excerpts begin). Something other than the camera moves in each.
FOOTAGE = (
    ("vtest", "static", range(0, 78, 4)),  # people walk
    ("box", "static", (1, 3, 5, 7, 9, 11, 13)),  # a hand turns a box
    ("cup", "static", (0, 2, 4, 6)),  # a hand moves a cup
    ("bbb", "static", (16, 18, 84, 86, 92, 94, 106, 108, 110, 130, 132, 134, 138, 152, 156, 158, 164, 182, 190, 202)),
    ("bbb", "static", (218, 230, 236, 268, 272, 286, 288, 290)),  # animation; little moves at 190, 230, 286, 288, 290
    ("bbb", "", (50, 52, 54, 80, 82, 246, 248)),  # the camera moves, too
    ("bikes", "", (3.2, 5.48, 7.6)),  # street; who holds the camera is not known, nor in the car
    ("carphone_pristine", "", (0, 1.9)),  # a man talks
)
FIXED = (("vtest", (4, 24, 44, 64)), ("box", (9,)), ("bbb", (16, 92, 108, 152, 156, 164, 288)))
PARALLAX = (("bbb", "", (5, 13, 36, 38)),)  # only the camera moves, through scenery


@dataclass(frozen=True)
class Clip:
    """A clip to be made: `pictures` [N, 270, 480, 3] BGR, what is true of it."""

    group: str
    source: str
    camera: str
    speed: float  # of the camera, signed, in base speeds
    pictures: Sequence[np.ndarray]
    fps: float
    crf: int


@dataclass(frozen=True)
class Result:
    """What was measured of a clip."""

    clip: Clip  # without its pictures
    motion: float  # % of diagonal / s
    label: str | None
    confidence: float
    speed: float | None  # measured / true, of the camera's one motion
    farneback: float  # px in half a second


# --- pictures -------------------------------------------------------------------------------------------------------


def excerpt(video: Path, start: float, seconds: float) -> tuple[list[np.ndarray], float]:
    """BGR frames of `[start, start + seconds)`, and their rate."""
    pictures: list[np.ndarray] = []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        tick = float(stream.time_base or 0)
        first = (stream.start_time or 0) * tick
        container.seek(int((start + first) * av.time_base))
        for frame in container.decode(stream):
            time_s = (frame.pts or 0) * tick - first
            if time_s >= start + seconds - 1e-3:
                break
            if time_s >= start - 1e-3:
                pictures.append(frame.to_ndarray(format="bgr24"))
        return pictures, float(stream.average_rate or 0)


def fit(picture: np.ndarray) -> np.ndarray:
    """The middle of a picture at SIZE."""
    height, width = picture.shape[:2]
    scale = min(width / SIZE[0], height / SIZE[1])
    w, h = round(SIZE[0] * scale), round(SIZE[1] * scale)
    x, y = (width - w) // 2, (height - h) // 2
    shrinks = scale > 1
    return cv2.resize(picture[y : y + h, x : x + w], SIZE, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def poses(camera: str, speed: float, frames: int, fps: float, random: np.random.Generator) -> np.ndarray:
    """[N, 4] the window's place, in its widths right and down of the middle, log of its size, and its angle, rad."""
    t = speed * (np.arange(frames) - (frames - 1) / 2) / fps
    pose = np.zeros((frames, 4))
    if camera == "Ken Burns":
        pose[:, 0], pose[:, 2] = KEN_BURNS[0] * t * random.choice((-1, 1)), KEN_BURNS[1] * t
    elif camera == "shake":
        pose[:, :2] = random.normal(0, SHAKE * abs(speed), (frames, 2))
    elif camera != "static":
        column, rate = {"pan": (0, PAN), "tilt": (1, PAN), "zoom": (2, ZOOM), "roll": (3, ROLL)}[camera]
        pose[:, column] = rate * t
    return pose


def ready(picture: np.ndarray) -> np.ndarray:
    """A picture for `window`, shrunk where the window would show less than every pixel of it."""
    height, width = picture.shape[:2]
    scale = WINDOW * min(width / SIZE[0], height / SIZE[1])
    if scale <= 1:
        return picture
    return cv2.resize(picture, (round(width / scale), round(height / scale)), interpolation=cv2.INTER_AREA)


def window(picture: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """What the window shows of a picture; beyond its edges the picture is mirrored."""
    height, width = picture.shape[:2]
    scale = WINDOW * min(width / SIZE[0], height / SIZE[1])  # px of the picture in one of the window
    x, y, log_size, angle = pose
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    step = scale * np.exp(log_size) * turn
    centre = np.array([width - 1, height - 1]) / 2 + scale * SIZE[0] * np.array([x, y])
    matrix = np.column_stack([step, centre - step @ ((np.array(SIZE) - 1) / 2)])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, matrix, SIZE, flags=flags, borderMode=cv2.BORDER_REFLECT)


def crossing(
    views: Sequence[np.ndarray], path: np.ndarray, patch: np.ndarray, random: np.random.Generator
) -> list[np.ndarray]:
    """Views of a window on `path` [N, 4] with an oval of `patch` in the scene, a quarter to a third of the view high,
    that moves at 0.15 to 0.3 widths a second past what is behind it."""
    side = round(SIZE[1] * random.uniform(1 / 4, 1 / 3))
    speed = random.uniform(0.15, 0.3) * SIZE[0] / FPS * random.choice((-1, 1))
    patch = cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA)
    oval = np.zeros((side, side), np.uint8)
    cv2.circle(oval, (side // 2, side // 2), side // 2 - 4, 255, -1)
    cut = np.dstack([patch, cv2.GaussianBlur(oval, (0, 0), 1.0)])
    y = random.uniform(-0.2, 0.2) * SIZE[1]
    made = []
    for number, (view, (right, down, log_size, angle)) in enumerate(zip(views, path, strict=True)):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * np.exp(-log_size)
        x = speed * (number - (len(views) - 1) / 2)
        corner = np.array([x, y]) - (side - 1) / 2 - SIZE[0] * np.array([right, down])  # from the window's middle
        place = np.column_stack([turn, turn @ corner + (np.array(SIZE) - 1) / 2])
        shown = cv2.warpAffine(cut, place, SIZE)
        left, top, width, height = cv2.boundingRect(shown[..., 3].copy())
        box = np.s_[top : top + height, left : left + width]
        view, alpha = view.copy(), shown[box][..., 3:].astype(np.float32) / 255
        view[box] = view[box] + (shown[box][..., :3].astype(np.float32) - view[box]) * alpha
        made.append(view)
    return made


# --- clips ----------------------------------------------------------------------------------------------------------


def stills(videos: dict[str, Path]) -> dict[str, np.ndarray]:
    """The photographs, then frames of footage."""
    folder = importlib.resources.files("skimage") / "data"
    coded = {name: np.frombuffer((folder / name).read_bytes(), np.uint8) for name in PHOTOGRAPHS}
    read = {name: np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)) for name, data in coded.items()}
    return read | {f"{name} {start}": excerpt(videos[name], start, 0.12)[0][0] for name, start in FRAMES}


def clips(videos: dict[str, Path]) -> Iterator[Clip]:
    """All clips. Each draws directions, places and shake from a seed of its own; qualities and speeds take turns."""
    frames = round(SECONDS * FPS)
    patches = []
    for name, start, (x, y, side) in OBJECTS:
        picture = excerpt(videos[name], start, 0.12)[0][0]
        patches.append(picture[y : y + side, x : x + side])
    for number, (source, still) in enumerate(stills(videos).items()):
        still = ready(still)
        for turn, (camera, (step, speed)) in enumerate(product((*LABELS, "Ken Burns"), enumerate(SPEEDS))):
            random = np.random.default_rng([SEED, number, turn])
            signed, crf = speed * random.choice((-1, 1)), CRFS[(number + turn + step) % 3]
            path = poses(camera, signed, frames, FPS, random)
            views = [window(still, pose) for pose in path]
            yield Clip("photograph", source, camera, signed, views, FPS, crf)
            if camera != "Ken Burns":
                patch = patches[random.integers(len(patches))]
                yield Clip("object", source, camera, signed, crossing(views, path, patch, random), FPS, crf)
    for group, listed in (("footage", FOOTAGE), ("parallax", PARALLAX)):
        excerpts = ((name, camera, start) for name, camera, starts in listed for start in starts)
        for number, (name, camera, start) in enumerate(excerpts):
            shown, fps = excerpt(videos[name], start, SECONDS)
            pictures = [fit(picture) for picture in shown]
            yield Clip(group, f"{name} {start}", camera, 0, pictures, fps, CRFS[number % 3])
            if group == "footage":
                yield Clip(
                    "frozen", f"{name} {start}", "static", 0, [pictures[0]] * len(pictures), fps, CRFS[(number + 1) % 3]
                )
    for number, (name, start) in enumerate((name, start) for name, starts in FIXED for start in starts):
        shown, fps = excerpt(videos[name], start, SECONDS)
        shown = [ready(picture) for picture in shown]
        for turn, (camera, (step, speed)) in enumerate(product(LABELS, enumerate(SPEEDS))):
            random = np.random.default_rng([SEED, 1000 + number, turn])
            signed = speed * random.choice((-1, 1))
            path = poses(camera, signed, len(shown), fps, random)
            views = [window(picture, pose) for picture, pose in zip(shown, path, strict=True)]
            yield Clip("moved", f"{name} {start}", camera, signed, views, fps, CRFS[(number + turn + step) % 3])


def encode(clip: Clip, target: Path) -> None:
    with av.open(str(target), "w") as container:
        options = {"crf": str(clip.crf), "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264", Fraction(clip.fps).limit_denominator(1001), options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for picture in clip.pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode())


# --- measuring ------------------------------------------------------------------------------------------------------


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
