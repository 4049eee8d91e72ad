"""Clips for benchmarks/motion.py: stills and footage with a camera and objects that are known."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import cv2
import numpy as np

from curation.scorers.camera_motion import LABELS

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
