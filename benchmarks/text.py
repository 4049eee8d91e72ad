"""Text: area, and overlays told from scene text, on real footage with text of known place, by detector side limit.

    python benchmarks/text.py [--sides 256 320 416 512 640 736 960] [--tune]

Overlays are drawn into excerpts of footage with the fonts that OpenCV and Pillow carry; signs are planted into
photographs and into footage of a fixed camera, in perspective, softened, and seen by a camera that moves as known. The
three pictures of a clip go through H.264 (CRF 20 to 30). `--tune` draws other footage, words and seeds: thresholds were
set on those, none on what is reported.

Area: pixels of the three pictures. Recall is what is covered of the rectangles around ink; a prediction is wrong where
it is further from one than half its height. Clips: one has an overlay if `overlay_text` is at least 0.002. The baseline
calls a box an overlay if it overlaps (IoU above 0.5) with one in another picture. CPU seconds are this process's.
"""

from __future__ import annotations

import argparse
import io
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from curation.samples import fetch
from curation.scorers.text_boxes import share
from curation.scorers.text_detection import DETECTION, Detector, package_model
from curation.scorers.text_persistence import tell_apart

SAMPLES = Path(__file__).parents[1] / ".cache" / "samples"
OVERLAY = 0.002  # share of the picture from which on a clip has an overlay
WORDS = {
    "latin": (
        "Yesterday at the harbour",
        "Chapter seven",
        "Breaking: markets rally again",
        "He never came back",
        "LIVE",
    ),
    "cyrillic": ("Она ждала до утра", "Новости дня", "Где ты был вчера?", "Седьмая глава", "ПРЯМОЙ ЭФИР"),
    "cjk": ("昨天晚上在海边", "第七章 归来", "最新消息 市场回升", "今日もいい天気", "다시 돌아온 사람"),
}
TUNE_WORDS = {
    "latin": ("We should leave now", "Part one", "Sports update tonight", "Tell me the truth", "Channel 9"),
    "cyrillic": ("Нам пора идти", "Часть первая", "Спорт и погода", "Скажи мне правду", "Канал девять"),
    "cjk": ("我们现在走吧", "第一部 开始", "体育新闻 今晚", "本当のことを言って", "우리 지금 가자"),
}
SIGNS = ("BAKERY", "Exit 12", "Hotel Mira", "NO PARKING", "Books & Tea", "Аптека", "出口")
TUNE_SIGNS = ("PHARMACY", "Gate 4", "Cafe Luna", "FOR SALE", "Flowers", "Хлеб", "入口")


@dataclass
class Clip:
    group: str
    pictures: list[np.ndarray]  # [H, W, 3] uint8 RGB
    truth: list[list[tuple[np.ndarray, str]]] = field(default_factory=list)  # a picture: corners [4, 2] px, kind
    script: str = ""


class Draw:
    """Draws clips of every group from some footage."""

    def __init__(self, seed: int, words: dict[str, tuple[str, ...]], signs: Sequence[str]) -> None:
        self.random = np.random.default_rng(seed)
        self.words, self.signs = words, signs

    def text(self, words: str, height: float, font: str) -> np.ndarray:
        """[h, w] float32 coverage, cropped to the ink; a line of the font would be `height` px high."""
        size = max(8, round(height))
        wide, tall = round(size * (len(words) + 2) * 1.3), size * 3
        if font == "pillow":
            canvas = Image.new("L", (wide, tall))
            ImageDraw.Draw(canvas).text((size, size), words, 255, ImageFont.load_default(size))
            ink = np.array(canvas)
        elif font == "hershey":
            ink = np.zeros((tall, wide), np.uint8)
            weight = max(1, round(size / 12))
            cv2.putText(ink, words, (size, 2 * size), cv2.FONT_HERSHEY_DUPLEX, size / 30, 255, weight, cv2.LINE_AA)
        else:
            ink = np.zeros((tall, wide, 3), np.uint8)
            cv2.putText(
                ink, words, (size, 2 * size), (255, 255, 255), cv2.FontFace(font), size, self.random.choice((400, 700))
            )
            ink = ink[..., 0]
        rows, columns = np.nonzero(ink.max(1) > 64)[0], np.nonzero(ink.max(0) > 64)[0]
        return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32) / 255

    def some(self) -> tuple[str, str]:
        """A script, and a font that has it."""
        script = str(self.random.choice(("latin", "latin", "cyrillic", "cjk")))
        fonts = ("pillow", "hershey", "sans", "italic", "uni") if script == "latin" else ("sans", "uni")
        return script, str(self.random.choice(fonts))

    def lay(
        self,
        picture: np.ndarray,
        ink: np.ndarray,
        at: tuple[float, float],
        colour: Sequence[int] = (255, 255, 255),
        alpha: float = 1.0,
        outline: bool = False,
    ) -> np.ndarray | None:
        """Ink laid into the picture, its top left at `at`; returns the corners of what is inside of the picture."""
        height, width = picture.shape[:2]
        if outline:
            edge = cv2.dilate(np.pad(ink, 2), np.ones((5, 5)))
            self.lay(picture, edge, (at[0] - 2, at[1] - 2), (0, 0, 0))
        x, y = round(at[0]), round(at[1])
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + ink.shape[1], width), min(y + ink.shape[0], height)
        if right - left < 8 or bottom - top < 4:
            return None
        cover = ink[top - y : bottom - y, left - x : right - x, None] * alpha
        part = picture[top:bottom, left:right]
        part[:] = (part * (1 - cover) + np.array(colour, np.float32) * cover).round().astype(np.uint8)
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)

    # Overlays: each draws into the clip's pictures and notes what it drew.

    def subtitle(self, clip: Clip) -> None:
        clip.script, font = self.some()
        height, width = clip.pictures[0].shape[:2]
        size = height * self.random.uniform(0.05, 0.08)
        colour = ((255, 255, 255), (255, 240, 80))[self.random.integers(2)]
        boxed = self.random.random() < 0.3
        base = height * self.random.uniform(0.86, 0.94)
        order = self.random.permutation(len(self.words[clip.script]))
        shows = ((0, 1, 2), (0, 0, 1), (0, None, 1), (None, 0, 0))[self.random.integers(4)]
        for number, which in enumerate(shows):
            if which is None:
                continue
            ink = self.text(self.words[clip.script][order[which]], size, font)
            at = ((width - ink.shape[1]) / 2, base - ink.shape[0])
            if boxed:
                plate = np.ones((ink.shape[0] + 12, ink.shape[1] + 20), np.float32)
                self.lay(clip.pictures[number], plate, (at[0] - 10, at[1] - 6), (0, 0, 0), 0.6)
            self.note(clip, number, self.lay(clip.pictures[number], ink, at, colour, 1.0, not boxed), "subtitle")

    def caption(self, clip: Clip) -> None:
        clip.script, font = self.some()
        height, width = clip.pictures[0].shape[:2]
        left, top = width * self.random.uniform(0.04, 0.12), height * self.random.uniform(0.68, 0.8)
        lines = self.random.choice(self.words[clip.script], 2, replace=False)
        inks = [self.text(line, height * size, font) for line, size in zip(lines, (0.065, 0.045), strict=True)]
        wide = max(ink.shape[1] for ink in inks) + 24
        tall = round(sum(ink.shape[0] for ink in inks) + 30)
        colour = tuple(int(c) for c in self.random.choice(((20, 40, 120), (150, 20, 20), (245, 245, 245))))
        for number in range(3):
            self.lay(clip.pictures[number], np.ones((tall, wide), np.float32), (left, top), colour, 0.8)
            y = top + 8
            for ink in inks:
                white = (255, 255, 255) if sum(colour) < 500 else (20, 20, 20)
                self.note(clip, number, self.lay(clip.pictures[number], ink, (left + 12, y), white), "overlay")
                y += ink.shape[0] + 12

    def title(self, clip: Clip) -> None:
        clip.script, font = self.some()
        height, width = clip.pictures[0].shape[:2]
        ink = self.text(
            str(self.random.choice(self.words[clip.script])), height * self.random.uniform(0.09, 0.16), font
        )
        ink = ink[:, : round(width * 0.9)]
        at = ((width - ink.shape[1]) / 2, height * self.random.uniform(0.3, 0.6))
        colour = tuple(int(c) for c in self.random.choice(((255, 255, 255), (250, 210, 60), (10, 10, 10))))
        for number in range(3):
            self.note(clip, number, self.lay(clip.pictures[number], ink, at, colour), "overlay")

    def ticker(self, clip: Clip) -> None:
        clip.script, font = self.some()
        height, width = clip.pictures[0].shape[:2]
        ink = self.text("  +  ".join(self.words[clip.script] * 2), height * self.random.uniform(0.045, 0.06), font)
        top = height * self.random.choice((0.9, 0.03))
        for number in range(3):
            bar = np.ones((ink.shape[0] + 14, width), np.float32)
            self.lay(clip.pictures[number], bar, (0, top - 7), (160, 20, 30), 0.9)
            at = (width * 0.3 - number * width * 0.47, top)
            self.note(clip, number, self.lay(clip.pictures[number], ink, at), "overlay")

    def logo(self, clip: Clip) -> None:
        self._mark(clip, self.random.uniform(0.045, 0.07), self.random.uniform(0.45, 0.9), corner=True)

    def faint(self, clip: Clip) -> None:
        """Low contrast: the mark of a picture agency."""
        self._mark(clip, self.random.uniform(0.07, 0.12), self.random.uniform(0.2, 0.35), corner=False)

    def _mark(self, clip: Clip, size: float, alpha: float, corner: bool) -> None:
        clip.script, font = self.some()
        height, width = clip.pictures[0].shape[:2]
        ink = self.text(self.words[clip.script][4 if corner else 1], height * size, font)
        right, bottom = self.random.integers(2, size=2)
        edge = height * 0.05
        at = (
            (edge, width - edge - ink.shape[1])[right] if corner else (width - ink.shape[1]) / 2,
            (edge, height - edge - ink.shape[0])[bottom] if corner else height * 0.45,
        )
        for number in range(3):
            kind = "watermark" if corner else "overlay"
            self.note(clip, number, self.lay(clip.pictures[number], ink, at, alpha=alpha), kind)

    def moving(self, clip: Clip) -> None:
        """A title that slides in."""
        clip.script, font = self.some()
        height, width = clip.pictures[0].shape[:2]
        ink = self.text(str(self.random.choice(self.words[clip.script])), height * self.random.uniform(0.07, 0.1), font)
        y = height * self.random.uniform(0.2, 0.7)
        for number in range(3):
            at = (width * (0.4 - 0.18 * number), y)
            self.note(clip, number, self.lay(clip.pictures[number], ink, at), "overlay")

    @staticmethod
    def note(clip: Clip, number: int, corners: np.ndarray | None, kind: str) -> None:
        while len(clip.truth) <= number:
            clip.truth.append([])
        if corners is not None:
            clip.truth[number].append((corners, kind))

    # Scene text

    def sign(self, world: list[np.ndarray], camera: str) -> Clip:
        """A sign in the world, which a window of five eighths of it looks at."""
        height, width = world[0].shape[:2]
        words = str(self.random.choice(self.signs))
        font = "sans" if not words.isascii() else str(self.random.choice(("pillow", "sans", "uni")))
        ink = self.text(words, 80, font)
        ink = np.pad(ink, ((16, 16), (20, 20)))
        tall = height * self.random.uniform(0.07, 0.14)
        wide = tall * ink.shape[1] / ink.shape[0]
        first, *rest = (scene.astype(np.float32) for scene in world)
        change = np.abs(np.stack(rest) - first).max((0, 3))
        change = cv2.blur(change, (round(wide), round(tall)))  # nothing may walk behind a sign
        centres = np.array([width, height]) * self.random.uniform(0.4, 0.6, (40, 2))
        centre = min(centres, key=lambda at: change[int(at[1]), int(at[0])])
        corners = np.array([[-wide, -tall], [wide, -tall], [wide, tall], [-wide, tall]]) / 2
        corners = centre + corners + self.random.uniform(-0.14, 0.14, (4, 2)) * (tall * 1.5, tall)
        source = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * ink.shape[::-1]
        plane = cv2.getPerspectiveTransform(source.astype(np.float32), corners.astype(np.float32))
        blur = self.random.uniform(0.6, 1.3)
        cover = cv2.GaussianBlur(cv2.warpPerspective(ink, plane, (width, height), flags=cv2.INTER_AREA), (0, 0), blur)
        plate = cv2.GaussianBlur(cv2.warpPerspective(np.ones_like(ink), plane, (width, height)), (0, 0), blur)
        dark, light = self.random.uniform(20, 80, 3), self.random.uniform(170, 235, 3)
        front, back = (dark, light) if self.random.random() < 0.5 else (light, dark)
        words_at = np.array(
            [[20, 16], [ink.shape[1] - 20, 16], [ink.shape[1] - 20, ink.shape[0] - 16], [20, ink.shape[0] - 16]]
        )
        words_at = cv2.perspectiveTransform(words_at[None].astype(np.float32), plane)[0]
        clip = Clip(f"sign, {camera}", [])
        speed = self.random.uniform(0.08, 0.16) * self.random.choice((-1, 1))
        for number, scene in enumerate(world):
            light_falls = np.linspace(0.85, 1.05, width)[None, :, None]
            seen = scene * (1 - plate[..., None]) + light_falls * (
                back * (plate - cover)[..., None] + front * cover[..., None]
            )
            seen = np.clip(seen + self.random.normal(0, 2.5, seen.shape), 0, 255).astype(np.uint8)
            x, y, zoom = 0.0, 0.0, 0.625
            if camera == "pan":
                x, y = (number - 1) * speed, (number - 1) * speed / 4
            elif camera == "zoom":
                zoom *= 1 + (number - 1) * speed * 1.5
            elif camera == "hand":
                x, y = self.random.uniform(-0.012, 0.012, 2)
            size = np.array([width, height]) * zoom
            left, top = np.array([width / 2 + x * width, height / 2 + y * height]) - size / 2
            out = (round(width * 0.625), round(height * 0.625))
            into = np.array(
                [[out[0] / size[0], 0, -left * out[0] / size[0]], [0, out[1] / size[1], -top * out[1] / size[1]]]
            )
            clip.pictures.append(cv2.warpAffine(seen, into, out, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT))
            clip.truth.append([((words_at @ into[:, :2].T + into[:, 2]).astype(np.float32), "scene")])
        return clip


def excerpt(path: Path, start: float, seconds: float) -> list[np.ndarray]:
    """The three pictures [H, W, 3] RGB that stand for an excerpt, at its sixths 1, 3 and 5."""
    capture = cv2.VideoCapture(str(path))
    pictures = []
    for part in (1, 3, 5):
        capture.set(cv2.CAP_PROP_POS_FRAMES, round((start + seconds * part / 6) * capture.get(cv2.CAP_PROP_FPS)))
        ok, picture = capture.read()
        assert ok, f"{path.name} ends before {start + seconds} s"
        pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    capture.release()
    return pictures


def through_codec(clip: Clip, crf: int) -> Clip:
    """Through H.264, and halved to what picture scorers see (longer side at most 1024)."""
    height, width = (side & ~1 for side in clip.pictures[0].shape[:2])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": str(crf), "preset": "veryfast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in clip.pictures:
            frame = np.ascontiguousarray(picture[:height, :width])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        out.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    truth = clip.truth or [[] for _ in pictures]
    while max(pictures[0].shape) > 1024:
        pictures = [cv2.resize(p, (p.shape[1] // 2, p.shape[0] // 2), interpolation=cv2.INTER_AREA) for p in pictures]
        truth = [[(corners / 2, kind) for corners, kind in texts] for texts in truth]
    truth = truth + [[] for _ in range(len(pictures) - len(truth))]
    return Clip(clip.group, pictures, truth, clip.script)


def clips(tune: bool) -> Iterator[Clip]:
    videos = {path.stem: path for name in ("small", "film", "camera") for path in fetch(SAMPLES, name)}
    if tune:
        draw = Draw(11, TUNE_WORDS, TUNE_SIGNS)
        footage = [("bikes", 0.05, 1.1), ("bikes", 4.3, 1.1), ("bikes", 5.6, 1.8), ("bikes", 7.6, 2.0)]
        footage += [("cup", 0, 3), ("cup", 4, 3), ("bigbuckbunny", 0, 3), ("bigbuckbunny", 2, 3)]
        footage += [("vtest", 50, 3), ("vtest", 66, 3), ("box", 12, 3)]
        fixed = [("vtest", 55, 3), ("vtest", 62, 3), ("vtest", 70, 3), ("cup", 4, 3)]
        moved = [("bikes", 2, 0.5), ("bigbuckbunny", 1, 3), ("bikes", 7.7, 0.5), ("bigbuckbunny", 2, 3)]
    else:
        draw = Draw(21, WORDS, SIGNS)
        footage = [("bbb", t, 3) for t in (75.8, 100, 127, 156.3, 181, 226.6, 266.3, 346.5)]
        footage += [("vtest", 10, 3), ("vtest", 35, 3), ("box", 0, 3), ("box", 6, 3), ("carphone_pristine", 0.5, 3)]
        fixed = [("vtest", 20, 3), ("vtest", 26, 3), ("vtest", 43, 3), ("box", 4, 3)]
        moved = [("bbb", t, 3) for t in (92, 151, 234, 286, 357, 445.5)]
    overlays: list[tuple[Callable[[Clip], None], int]] = [
        (draw.subtitle, 12), (draw.caption, 8), (draw.title, 8), (draw.ticker, 8),
        (draw.logo, 12), (draw.faint, 8), (draw.moving, 8),
    ]  # fmt: skip
    turn = 0
    for overlay, count in overlays:
        for _ in range(count):
            name, *when = footage[turn % len(footage)]
            clip = Clip(overlay.__name__, excerpt(videos[name], *when))
            overlay(clip)
            yield through_codec(clip, int(draw.random.integers(20, 31)))
            turn += 1
    for camera, count in (("pan", 8), ("zoom", 8), ("hand", 8), ("fixed", 8)):
        for number in range(count):
            if camera in ("pan", "zoom") and number % 2:
                name, *when = moved[number // 2 % len(moved)]
                world = excerpt(videos[name], *when)[:1] * 3
            else:
                name, *when = fixed[number // 2 % len(fixed) if camera in ("pan", "zoom") else number % len(fixed)]
                world = excerpt(videos[name], *when)
            yield through_codec(draw.sign(world, camera), int(draw.random.integers(20, 31)))
    for number in range(6):
        name, *when = moved[number % len(moved)]
        clip = draw.sign(excerpt(videos[name], *when)[:1] * 3, "pan")
        clip.group = "sign, pan + subtitle"
        draw.subtitle(clip)
        yield through_codec(clip, int(draw.random.integers(20, 31)))
    for name, *when in footage:
        yield through_codec(Clip("clean", excerpt(videos[name], *when)), 20)


TITLED = [("trailer_bbb", t, 2.5) for t in (4, 9.5, 14, 18, 48)] + [("bbb", t, 3) for t in (20, 500, 520, 575)]
STREET = [("bikes", t, 1) for t in (0.05, 1.25, 3.05, 4.3, 5.6, 8)]  # with signs and number plates in some


def as_found(detect: Detector) -> Iterator[str]:
    """What is said of footage as it was published."""
    videos = {path.stem: path for name in ("small", "film") for path in fetch(SAMPLES, name)}
    for what, excerpts in (("film's own titles and credits", TITLED), ("street with signs", STREET)):
        overlays = 0
        for name, start, seconds in excerpts:
            clip = through_codec(Clip("", excerpt(videos[name], start, seconds)), 18)
            told = tell_apart(clip.pictures, [detect(picture) for picture in clip.pictures])
            laid = [[box.corners for box in boxes if box.kind != "scene"] for boxes in told]
            shares = [share(p.shape[:2], boxes) for p, boxes in zip(clip.pictures, laid, strict=True)]
            overlays += float(np.mean(shares)) >= OVERLAY
        yield f"- {what}: {overlays} of {len(excerpts)} clips called overlay"


def cover(shape: tuple[int, int], boxes: Sequence[np.ndarray], margin: float = 0.0) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for corners in boxes:
        one = np.zeros(shape, np.uint8)
        cv2.fillConvexPoly(one, corners.round().astype(np.int32), 1)
        if margin:
            tall = min(np.linalg.norm(corners[1] - corners[0]), np.linalg.norm(corners[3] - corners[0]))
            grown = 2 * round(margin * float(tall)) + 1
            one = cv2.dilate(one, cv2.getStructuringElement(cv2.MORPH_RECT, (grown, grown)))
        mask = cv2.bitwise_or(mask, one)
    return mask > 0


@dataclass
class Result:
    """What was found in a clip: pixels of truth, of it found, of predictions, of them right; the same for overlays."""

    clip: Clip
    area: np.ndarray
    overlay: np.ndarray
    overlay_text: float
    baseline: float
    lines: list[tuple[float, str, bool]]  # height as a share of the picture's, script, found
    kinds: list[tuple[str, str]]  # of found truth: its kind, and what it was taken for
    cpu: tuple[float, float]  # detection, the rest


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def judge(clip: Clip, detect: Detector) -> Result:
    begin = cpu()
    found = [detect(picture) for picture in clip.pictures]
    detected = cpu()
    told = tell_apart(clip.pictures, found)
    spent = (detected - begin, cpu() - detected)
    result = Result(clip, np.zeros(4), np.zeros(4), 0.0, baseline(clip, found), [], [], spent)
    shares = []
    for picture, truth, boxes in zip(clip.pictures, clip.truth, told, strict=True):
        shape = picture.shape[:2]
        shares.append(share(shape, [box.corners for box in boxes if box.kind != "scene"]))
        result.area += _pixels(shape, [c for c, _ in truth], [box.corners for box in boxes])
        result.overlay += _pixels(
            shape, [c for c, kind in truth if kind != "scene"], [box.corners for box in boxes if box.kind != "scene"]
        )
        for corners, kind in truth:
            here = cover(shape, [corners])
            by_kind = {k: (here & cover(shape, [b.corners for b in boxes if b.kind == k])).sum() for k in KINDS}
            hit = bool(sum(by_kind.values()) > 0.5 * here.sum())
            result.lines.append((float(np.ptp(corners[:, 1])) / shape[0], clip.script, hit))
            if hit:
                result.kinds.append((kind, max(by_kind, key=lambda k: by_kind[k])))
    result.overlay_text = float(np.mean(shares))
    return result


KINDS = ("scene", "overlay", "subtitle", "watermark")


def _pixels(shape: tuple[int, int], truth: list[np.ndarray], found: list[np.ndarray]) -> np.ndarray:
    ink, near, said = cover(shape, truth), cover(shape, truth, 0.5), cover(shape, found)
    return np.array([ink.sum(), (ink & said).sum(), said.sum(), (near & said).sum()], float) / ink.size


def baseline(clip: Clip, found: Sequence[np.ndarray]) -> float:
    """overlay_text by position alone: a box that overlaps with one in another picture."""

    def iou(one: np.ndarray, two: np.ndarray) -> float:
        low, high = np.maximum(one.min(0), two.min(0)), np.minimum(one.max(0), two.max(0))
        both = float(np.maximum(high - low, 0).prod())
        return both / (float(np.ptp(one, axis=0).prod() + np.ptp(two, axis=0).prod()) - both)

    shares = []
    for number, boxes in enumerate(found):
        rest = [other for at, others in enumerate(found) if at != number for other in others]
        shares.append(share(clip.pictures[number].shape[:2], [b for b in boxes if any(iou(b, o) > 0.5 for o in rest)]))
    return float(np.mean(shares))


def ratio(right: float, of: float) -> str:
    return f"{right / of:.2f}" if of else "–"


def summary(side: int, results: list[Result]) -> str:
    area, overlay = np.sum([r.area for r in results], axis=0), np.sum([r.overlay for r in results], axis=0)
    has = [any(kind != "scene" for texts in r.clip.truth for _, kind in texts) for r in results]
    cells = [str(side), ratio(area[3], area[2]), ratio(area[1], area[0])]
    cells += [ratio(overlay[3], overlay[2]), ratio(overlay[1], overlay[0])]
    for score in (lambda r: r.overlay_text, lambda r: r.baseline):
        said = [score(r) >= OVERLAY for r in results]
        right = sum(s and h for s, h in zip(said, has, strict=True))
        cells += [ratio(right, sum(said)), ratio(right, sum(has))]
    pictures = 3 * len(results)
    cells += [f"{sum(r.cpu[part] for r in results) / pictures:.3f}" for part in (0, 1)]
    return "| " + " | ".join(cells) + " |"


def by_group(results: list[Result]) -> Iterator[str]:
    yield (
        "| clips | n | area precision | recall | called overlay | by overlap alone "
        "| median overlay_text | found text of the right kind |"
    )
    yield "|" + "---|" * 8
    for group in dict.fromkeys(r.clip.group for r in results):
        some = [r for r in results if r.clip.group == group]
        area = np.sum([r.area for r in some], axis=0)
        seen, base = (
            sum(s >= OVERLAY for s in scores) for scores in ([r.overlay_text for r in some], [r.baseline for r in some])
        )
        kinds = [pair for r in some for pair in r.kinds]
        right = sum((truth == "scene") == (said == "scene") for truth, said in kinds)
        exact = sum(truth == said for truth, said in kinds)
        yield (
            f"| {group} | {len(some)} | {ratio(area[3], area[2])} | {ratio(area[1], area[0])} | {seen} | {base} "
            f"| {np.median([r.overlay_text for r in some]):.3f} "
            f"| {right}/{len(kinds)} (exactly {exact}) |"
        )


def by_size(results: dict[int, list[Result]]) -> Iterator[str]:
    sizes = ((0, 0.035), (0.035, 0.05), (0.05, 0.07), (0.07, 0.1), (0.1, 1))
    yield "| side | " + " | ".join(f"{low:.1%}–{high:.1%}" for low, high in sizes) + " | latin | cyrillic | cjk |"
    yield "|" + "---|" * (len(sizes) + 4)
    for side, some in results.items():
        lines = [line for r in some for line in r.lines]
        cells = []
        for low, high in sizes:
            hits = [hit for tall, _, hit in lines if low <= tall < high]
            cells.append(f"{ratio(sum(hits), len(hits))} of {len(hits)}")
        for script in WORDS:
            hits = [hit for _, written, hit in lines if written == script]
            cells.append(ratio(sum(hits), len(hits)))
        yield f"| {side} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 320, 416, 512, 640, 736, 960])
    parser.add_argument("--default", type=int, default=416, help="the side whose groups are shown")
    parser.add_argument("--tune", action="store_true", help="the footage that thresholds were set on")
    arguments = parser.parse_args()
    made = list(clips(arguments.tune))
    results = {}
    print("| side | area precision | recall | overlay pixels: precision | recall | overlay clips: precision | recall "
          "| by overlap alone: precision | recall | CPU-s a picture: detection | telling apart |")  # fmt: skip
    print("|" + "---|" * 11)
    for side in arguments.sides:
        detect = Detector(package_model(DETECTION), side, "cpu")
        detect(made[0].pictures[0])
        results[side] = [judge(clip, detect) for clip in made]
        print(summary(side, results[side]), flush=True)
    if arguments.default in results:
        print(f"\nAt {arguments.default}:\n", *by_group(results[arguments.default]), sep="\n")
        detect = Detector(package_model(DETECTION), arguments.default, "cpu")
        print("\nFootage as published:\n", *as_found(detect), sep="\n")
    print("\nLines found, by height as a share of the picture's, and by script:\n", *by_size(results), sep="\n")


if __name__ == "__main__":
    main()
