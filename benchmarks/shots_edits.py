"""Edits for benchmarks/shots.py: real footage joined by transitions that are known to the frame, or disturbed by what
is no transition.

Two pools of footage. `unseen`: four films that no threshold of the detectors was set on. `seen`: the films that they
were set on, cut into shots by the hand-checked list. A shot is a stretch of one of them, seen through a window that
stands, drifts or shakes, sometimes mirrored and graded.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from curation.video import Span

HEIGHT, WIDTH, FPS = 180, 320, 24
KEPT_WIDTH = 640  # footage is kept no wider
CRFS = (20, 26, 32)
LIST = Path(__file__).with_name("bbb_cuts.csv")

# How many of each are made of a pool.
TRANSITIONS = {"cut": 100, "blend": 60, "dissolve": 80, "fade": 50, "wipe": 50}
A_VIDEO = 10  # transitions in one video
SHORT, LONG = (56, 100), (120, 160)  # frames of a shot; the long ones have two dissolves and a second of their own
DISTURBED = 150  # videos of one shot each
DISTURBANCES = ("flash", "inserted frame", "whip pan", "strobe", "crossing", "exposure jump", "compression pop")
APART = 50  # frames from one disturbance to the next

BIKES = (0, 30, 76, 137, 187, 242, 250)


@dataclass(frozen=True)
class Event:
    """Something at the frames `span`: a transition, whose span is empty at a hard cut, or a disturbance."""

    kind: str
    span: Span
    detail: str = ""


@dataclass
class Edit:
    """A video to be made: `pictures` [180, 320, 3] BGR, and all that happens in it."""

    name: str
    group: str  # a kind of transition, or "distractors"
    pictures: list[np.ndarray]
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True)
class Stretch:
    """Frames of one film between two cuts."""

    film: str
    span: Span


class Footage:
    """A pool of films, decoded when first needed; frames in BGR, at most 640 wide."""

    def __init__(self, stretches: list[tuple[Path, Span | None]]):
        self._paths = {path.stem: path for path, _ in stretches}
        self._frames: dict[str, list[np.ndarray]] = {}
        self.stretches = [Stretch(path.stem, span or Span(0, _count(path))) for path, span in stretches]

    def frames(self, stretch: Stretch, start: int, count: int) -> list[np.ndarray]:
        """`count` frames from the stretch's frame `start`, to and fro where it is shorter."""
        length = stretch.span.end - stretch.span.start
        to_and_fro = [*range(length), *range(length - 2, 0, -1)] if length > 1 else [0]
        held = self._held(stretch)
        return [held[to_and_fro[(start + k) % len(to_and_fro)]] for k in range(count)]

    def _held(self, stretch: Stretch) -> list[np.ndarray]:
        key = f"{stretch.film}{stretch.span}"
        if key not in self._frames:
            if len(self._frames) > 12:  # the films of a pool do not all fit
                self._frames.pop(next(iter(self._frames)))
            self._frames[key] = list(_decoded(self._paths[stretch.film], stretch.span))
        return self._frames[key]


def footage(videos: Path, pool: str) -> Footage:
    """A pool, from the folder of the sample videos."""
    if pool == "unseen":
        return Footage([(videos / "camera" / name, None) for name in ("vtest.avi", "tree.avi", "cup.mp4", "box.mp4")])
    bikes = [(videos / "small" / "bikes.mp4", Span(a, b)) for a, b in itertools.pairwise(BIKES) if b - a > 40]
    film = [(videos / "film" / "bbb.mp4", span) for span in film_shots() if span.end - span.start >= 48]
    return Footage([*film[::2], *bikes, (videos / "small" / "carphone_pristine.mp4", None)])


def listed() -> list[tuple[Event, bool]]:
    """The hand-checked transitions of Big Buck Bunny, and whether each is beyond doubt."""
    with LIST.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        (Event(row["kind"], Span(int(row["start"]), int(row["end"])), row["note"]), row["sure"] == "yes")
        for row in rows
    ]


def film_shots(margin: int = 3) -> list[Span]:
    """What lies between the film's transitions, without its title and credits."""
    events = [event.span for event, _ in listed()]
    between = [Span(a.end + margin, b.start - margin) for a, b in itertools.pairwise(events)]
    return [span for span in between if span.start > 820 and span.end < 11_000]


# --- edits ----------------------------------------------------------------------------------------------------------


def edits(footage: Footage, pool: str, seed: int, share: float = 1.0) -> Iterator[Edit]:
    """All videos of a pool, or a share of them, one after the other."""
    for kind, (group, count) in enumerate(TRANSITIONS.items()):
        for number in range(round(share * count / A_VIDEO)):
            yield joined(footage, f"{pool}-{group}-{number}", group, np.random.default_rng([seed, kind, number]))
    for number in range(round(share * DISTURBED)):
        yield disturbed(footage, f"{pool}-distractors-{number}", np.random.default_rng([seed, 99, number]))


def joined(footage: Footage, name: str, kind: str, random: np.random.Generator) -> Edit:
    """Shots joined by transitions of one kind."""
    edit = Edit(name, kind, [])
    shots = _unlike(footage, A_VIDEO + 1, SHORT if kind in ("cut", "blend") else LONG, random)
    edit.pictures = next(shots)
    for new in shots:
        join(edit, new, kind, random)
    return edit


def join(edit: Edit, new: list[np.ndarray], kind: str, random: np.random.Generator) -> None:
    """Put `new` behind what the edit has, with a transition of this kind."""
    old = edit.pictures
    if kind == "cut":
        edit.events.append(Event(kind, Span(len(old), len(old))))
        edit.pictures = old + new
    elif kind == "fade":
        _fade(edit, new, random)
    else:
        if kind == "blend":
            length, detail = (1 if random.random() < 0.7 else 2), ""
        elif kind == "dissolve":
            length, detail = int(random.integers(8, 49)), ("even", "even", "smooth")[random.integers(3)]
        else:
            length, detail = int(random.integers(8, 33)), WIPES[random.integers(len(WIPES))]
        done = np.arange(1, length + 1) / (length + 1)
        if detail == "smooth":
            done = done * done * (3 - 2 * done)
        start = len(old) - length
        masks = _masks(detail, done) if kind == "wipe" else done
        mixed = [_mix(old[start + k], new[k], mask) for k, mask in enumerate(masks)]
        edit.pictures = old[:start] + mixed + new[length:]
        edit.events.append(Event(kind, Span(start, start + length), f"{length} {detail}".strip()))


def _fade(edit: Edit, new: list[np.ndarray], random: np.random.Generator) -> None:
    """Out, in, or both; through black, or white, with nothing held or up to half a second of it."""
    old = edit.pictures
    blank = np.full_like(new[0], 255 if random.random() < 0.25 else 0)
    shape = ("both", "both", "out", "in")[random.integers(4)]
    length, hold = int(random.integers(8, 33)), int(random.integers(0, 13))
    done = np.arange(1, length + 1) / (length + 1)
    leaving = length if shape != "in" else 0
    coming = length if shape != "out" else 0
    start = len(old) - leaving
    out = [_mix(old[start + k], blank, done[k]) for k in range(leaving)]
    into = [_mix(blank, new[k], done[k]) for k in range(coming)]
    edit.pictures = old[:start] + out + [blank] * hold + into + new[coming:]
    edit.events.append(Event("fade", Span(start, start + leaving + hold + coming), f"{length} {shape} {hold}"))


WIPES = ("left", "right", "up", "down", "diagonal", "iris", "clock", "soft left")


def _masks(shape: str, done: np.ndarray) -> Iterator[np.ndarray]:
    """How much of the new picture each place shows, [180, 320, 1] of 0 to 1."""
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    order = {
        "left": x,
        "right": 1 - x,
        "up": y,
        "down": 1 - y,
        "diagonal": (x + y) / 2,
        "iris": np.hypot(x - 0.5, y - 0.5) / np.hypot(0.5, 0.5),
        "clock": (np.arctan2(y - 0.5, x - 0.5) + np.pi) / (2 * np.pi),
        "soft left": x,
    }[shape]
    soft = 0.2 if shape.startswith("soft") else 0.005
    for share in done:
        yield np.clip((share * (1 + soft) - order) / soft, 0, 1)[..., None].astype(np.float32)


def _mix(old: np.ndarray, new: np.ndarray, alpha: float | np.ndarray) -> np.ndarray:
    if isinstance(alpha, np.ndarray):
        return (old * (1 - alpha) + new * alpha + 0.5).astype(np.uint8)
    return cv2.addWeighted(old, 1 - float(alpha), new, float(alpha), 0)


# --- shots ----------------------------------------------------------------------------------------------------------


def _unlike(
    footage: Footage, count: int, frames: tuple[int, int], random: np.random.Generator
) -> Iterator[list[np.ndarray]]:
    """Shots of which each shows another stretch than the one before, or in one case of eight another part of it."""
    before: Stretch | None = None
    zoom = 0.0
    for _ in range(count):
        same = before is not None and random.random() < 0.125
        others = [stretch for stretch in footage.stretches if stretch != before]
        stretch = before if same and before is not None else others[random.integers(len(others))]
        zoom = (0.4 if zoom > 0.7 else 0.95) if same else float(random.uniform(0.45, 1.0))
        yield shot(footage, stretch, int(random.integers(*frames)), zoom, random)
        before = stretch


def shot(footage: Footage, stretch: Stretch, count: int, zoom: float, random: np.random.Generator) -> list[np.ndarray]:
    """`count` pictures of a stretch, through a window that shows `zoom` of the picture's width."""
    camera = ("stands", "stands", "drifts", "shakes")[random.integers(4)]
    path = np.zeros((count, 3))
    if camera == "drifts":
        path = np.linspace(-0.5, 0.5, count)[:, None] * random.uniform(-0.15, 0.15, 3)
    elif camera == "shakes":
        path[:, :2] = cv2.GaussianBlur(random.normal(0, 0.02, (count, 2)), (1, 9), 2)
    path += (*random.uniform(0.3, 0.7, 2), np.log(zoom))
    return filmed(footage, stretch, path, random)


def filmed(footage: Footage, stretch: Stretch, path: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """Pictures from anywhere in a stretch along a camera's path [N, 3]: the window's middle, and log of its size."""
    pictures = footage.frames(stretch, int(random.integers(0, 10_000)), len(path))
    mirrored, gain, offset = random.random() < 0.5, random.uniform(0.8, 1.2), random.uniform(-12, 12)
    speed = np.abs(np.gradient(path[:, 0])) * WIDTH / np.exp(path[:, 2]) if len(path) > 1 else np.zeros(1)
    made = []
    for picture, (x, y, size), fast in zip(pictures, path, speed, strict=True):
        view = window(picture, np.array([x, y]), float(np.exp(size)))
        blur = int(fast * 0.5) | 1  # a shutter open for half of the time
        view = cv2.blur(view, (blur, 1)) if blur > 3 else view
        made.append(cv2.convertScaleAbs(view[:, ::-1] if mirrored else view, alpha=gain, beta=offset))
    return made


def window(picture: np.ndarray, centre: np.ndarray, zoom: float) -> np.ndarray:
    """[180, 320, 3] around `centre` (shares of the picture), `zoom` of its width; mirrored beyond its edges."""
    height, width = picture.shape[:2]
    scale = zoom * min(width / WIDTH, height / HEIGHT)
    if scale > 1.5:  # shrink first: bilinear warping would skip pixels
        picture = cv2.resize(picture, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
        height, width = picture.shape[:2]
        scale = 1.0
    left, top = centre[0] * width - scale * WIDTH / 2, centre[1] * height - scale * HEIGHT / 2
    matrix = np.array([[scale, 0, left], [0, scale, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


# --- disturbances ---------------------------------------------------------------------------------------------------


def disturbed(footage: Footage, name: str, random: np.random.Generator) -> Edit:
    """One shot of twelve seconds, in which something happens every two that is no transition."""
    count, at = 12 * FPS, int(random.integers(30, APART))
    planned = []
    while at < count - 40:
        kind = DISTURBANCES[random.integers(len(DISTURBANCES))]
        planned.append((kind, at))
        at += APART + int(random.integers(0, 20))
    stretch = footage.stretches[random.integers(len(footage.stretches))]
    swings = [at for kind, at in planned if kind == "whip pan"]
    zoom = random.uniform(0.4, 0.55 if swings else 1.0)
    path = np.tile((0.5, random.uniform(0.4, 0.6), np.log(zoom)), (count, 1))
    edit = Edit(name, "distractors", [])
    for at in swings:
        edit.events.append(Event("whip pan", Span(at, at + _swing(path, at, random))))
    edit.pictures = filmed(footage, stretch, path, random)
    for kind, at in planned:
        if kind != "whip pan":
            edit.events.append(Event(kind, Span(at, at + _disturb(edit.pictures, at, kind, footage, random))))
    return edit


def _swing(path: np.ndarray, at: int, random: np.random.Generator) -> int:
    """From frame `at` the camera swings across the scene within a quarter to half a second, and stays there."""
    length, now = int(random.integers(6, 13)), path[at, 0]
    way = random.uniform(0.3, 0.5) * (1 if now < 0.4 or (now < 0.6 and random.random() < 0.5) else -1)
    progress = np.clip((np.arange(len(path)) - at + 1) / length, 0, 1)
    path[:, 0] += way * progress * progress * (3 - 2 * progress)
    return length


def _disturb(pictures: list[np.ndarray], at: int, kind: str, footage: Footage, random: np.random.Generator) -> int:
    """Do it, in place; returns how many frames the change takes."""
    white = np.full_like(pictures[at], 255)
    if kind == "flash":
        spot = None if random.random() < 0.6 else _spot(random)
        shares = np.array([1.0, 0.7, 0.4, 0.2][: random.integers(1, 5)]) * random.uniform(0.6, 1.0)
        for k, share in enumerate(shares, at):
            pictures[k] = _mix(pictures[k], white if spot is None else cv2.add(pictures[k], spot), share)
        return len(shares)
    if kind == "inserted frame":
        other = footage.stretches[random.integers(len(footage.stretches))]
        strange = shot(footage, other, 1, float(random.uniform(0.45, 1.0)), random)[0]
        pictures[at] = (strange, np.zeros_like(white), white)[random.integers(3)]
        return 1
    if kind == "strobe":
        period, length = int(random.integers(2, 6)), int(random.integers(8, 24))
        share = random.uniform(0.5, 0.95)
        for k in range(length):
            if k % period < period / 2:
                pictures[at + k] = cv2.addWeighted(pictures[at + k], 1 - share, white, share, 0)
        return length
    if kind == "crossing":
        return _cross(pictures, at, random)
    if kind == "exposure jump":
        gain, ramp = random.choice((0.55, 0.7, 1.35, 1.6)), int(random.integers(1, 4))
        for k in range(at, len(pictures)):
            share = min(1.0, (k - at + 1) / ramp)
            pictures[k] = cv2.convertScaleAbs(pictures[k], alpha=1 + share * (gain - 1))
        return ramp
    assert kind == "compression pop"
    quality, length = int(random.integers(4, 12)), int(random.integers(12, 40))
    for k in range(at, min(at + length, len(pictures))):
        jpeg = cv2.imencode(".jpg", pictures[k], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        pictures[k] = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    return length


def _spot(random: np.random.Generator) -> np.ndarray:
    """A light at one place."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    cx, cy, radius = random.uniform(0, WIDTH), random.uniform(0, HEIGHT), random.uniform(60, 160)
    glow = 255 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2))
    return np.repeat(glow[..., None], 3, 2).astype(np.uint8)


def _cross(pictures: list[np.ndarray], at: int, random: np.random.Generator) -> int:
    """Something large and near passes before the lens."""
    length, size = int(random.integers(6, 16)), random.uniform(0.5, 1.2)
    colour = random.integers(20, 220, 3)
    grain = random.normal(0, 18, (HEIGHT // 6, WIDTH // 6, 3))
    texture = np.clip(cv2.resize(grain, (WIDTH, HEIGHT)) + colour, 0, 255).astype(np.float32)
    width = size * WIDTH
    for k in range(length):
        left = -width + (WIDTH + width) * (k + 0.5) / length
        x = np.arange(WIDTH)
        inside = np.clip(np.minimum(x - left, left + width - x) / 6 + 0.5, 0, 1)  # soft edges: it is out of focus
        pictures[at + k] = _mix(pictures[at + k], texture, inside[None, :, None].astype(np.float32))
    return length


# --- files ----------------------------------------------------------------------------------------------------------


def encode(edit: Edit, target: Path, crf: int) -> None:
    """H.264, one thread: the same file in every run of the same library."""
    with av.open(str(target), "w") as container:
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264", Fraction(FPS), options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in edit.pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "bgr24")))
        container.mux(stream.encode())


def _count(path: Path) -> int:
    return sum(1 for _ in _decoded(path, None))


def _decoded(path: Path, span: Span | None) -> Iterator[np.ndarray]:
    """BGR frames of a span, at most 640 wide."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate, first = float(stream.average_rate or FPS), 0
        if span is not None and span.start > 500:  # long films have an even rate: frame numbers are times
            tick = float(stream.time_base or 0)
            container.seek(int((span.start - 250) / rate / tick) + (stream.start_time or 0), stream=stream)
        for number, frame in enumerate(container.decode(stream)):
            if span is not None:
                if span.start > 500:
                    first = round(((frame.pts or 0) - (stream.start_time or 0)) * float(stream.time_base or 0) * rate)
                else:
                    first = number
                if first < span.start:
                    continue
                if first >= span.end:
                    return
            width = min(frame.width, KEPT_WIDTH)
            height = round(frame.height * width / frame.width / 2) * 2
            yield frame.to_ndarray(width=width, height=height, format="bgr24", interpolation="AREA")
