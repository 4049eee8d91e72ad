"""Clips for benchmarks/text.py: footage with text whose place is known."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from curation.samples import fetch

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
