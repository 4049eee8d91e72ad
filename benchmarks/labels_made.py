"""One half of the clips for the six negative labels: found footage, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
from labels_clips import (
    FPS,
    FRAMES,
    HEIGHT,
    HELD_ONLY,
    ORDINARY,
    WIDTH,
    Clip,
    Video,
    draw,
    fill,
)
from labels_drawn import Drawn
from motion_clips import excerpt


class Maker(Drawn):
    """Makes one half."""

    def clips(self) -> Iterator[Clip]:
        for name, starts in ORDINARY[self.half].items():
            for start in starts:
                frames, fps = excerpt(self.videos[name], float(start), FRAMES / FPS)
                yield Clip("ordinary", self.half, f"{name} {start}", [fill(frame) for frame in frames], fps)
        for kind, (make, count) in self._kinds().items():
            if self.half == "fit" and kind in HELD_ONLY:
                continue
            for turn in range(count):
                source, frames = make(turn)
                crf = int(self.random.choice((20, 23, 28)))
                clip = Clip(kind, self.half, source, frames, crf=crf)
                if kind == "CRF 47-51":
                    clip.crf = (47, 49, 51)[turn % 3]
                if kind == "MPEG-4 blocks":
                    clip.codec = "mpeg4"
                yield clip
        if self.half == "held":
            yield from self._found()

    def _found(self) -> Iterator[Clip]:
        for start in (3.2, 11.2, 18.0, 33.6, 46.0):
            frames, fps = excerpt(self.videos["trailer_bbb.mp4"], start, FRAMES / FPS)
            yield Clip("titles over film", "held", f"trailer {start}", [fill(frame) for frame in frames], fps)
        for start in (502, 515, 528, 541, 553, 562):
            frames, fps = excerpt(self.videos["bbb.mp4"], start, FRAMES / FPS)
            yield Clip("real credits", "held", f"bbb {start}", [fill(frame) for frame in frames], fps)

    def _kinds(self) -> dict[str, tuple[Callable[[int], tuple[str, Video]], int]]:
        return {
            "split screen": (self.split, 6), "four pictures": (self.four, 4), "picture in picture": (self.inset, 6),
            "blurred bars": (self.blurred_bars, 5), "coloured bars": (self.coloured_bars, 4),
            "border": (self.border, 5), "stickers": (self.stickers, 5), "subtitles": (self.subtitles, 5),
            "ticker": (self.ticker, 5), "flashes": (self.flashes, 4), "kaleidoscope": (self.kaleidoscope, 4),
            "slideshow": (self.slideshow, 6), "dissolves": (self.dissolves, 6),
            "Ken Burns slideshow": (self.ken_burns, 6), "frozen film": (self.frozen, 6), "wipes": (self.wipes, 5),
            "one still": (self.one_still, 4),
            "CRF 47-51": (lambda turn: self.film(), 6), "MPEG-4 blocks": (lambda turn: self.film(), 5),
            "blurred": (self.blurred, 5), "noise": (self.noise, 6), "too dark": (self.dark, 5),
            "too bright": (self.bright, 5), "thumbnail": (self.thumbnail, 5), "shaken": (self.shaken, 6),
            "talking man": (self.talking, 6), "talking man, soft and small": (self.talking_small, 4),
            "lecturer and slide": (self.lecturer, 6),
            "title card": (self.title, 5), "slides": (self.slides, 6), "credits": (self.credits, 5),
            "words over film": (self.words_over, 5),
            "terminal": (self.terminal, 5), "desktop with a video": (self.desktop, 5), "game HUD": (self.hud, 5),
        }  # fmt: skip

    # Edited.

    def split(self, turn: int) -> tuple[str, Video]:
        (a, one), (b, two) = self.film(), self.film()
        gap = (0, 0, 4)[turn % 3]
        frames = []
        for left, right in zip(one, two, strict=True):
            if turn % 2:
                both = [fill(left, WIDTH, HEIGHT // 2), fill(right, WIDTH, HEIGHT - HEIGHT // 2)]
                frame = np.vstack(both)
                frame[HEIGHT // 2 - gap // 2 : HEIGHT // 2 + gap // 2] = 255
            else:
                at = (WIDTH // 2, WIDTH * 2 // 5)[turn % 4 // 2]
                frame = np.hstack([fill(left, at, HEIGHT), fill(right, WIDTH - at, HEIGHT)])
                frame[:, at - gap // 2 : at + gap // 2] = 255
            frames.append(frame)
        return f"{a} | {b}", frames

    def four(self, turn: int) -> tuple[str, Video]:
        films = [self.film()[1] for _ in range(4)]
        half = (WIDTH // 2, HEIGHT // 2)
        return "four films", [
            np.vstack([np.hstack([fill(f, *half) for f in four[:2]]), np.hstack([fill(f, *half) for f in four[2:]])])
            for four in zip(*films, strict=True)
        ]

    def inset(self, turn: int) -> tuple[str, Video]:
        (a, large), (b, small) = self.film(), self.film()
        w = round(WIDTH * self.random.uniform(0.24, 0.38))
        h = round(w * 9 / 16)
        x, y = (16, WIDTH - w - 16)[turn % 2], (14, HEIGHT - h - 14)[turn // 2 % 2]
        rim = (0, 2)[turn % 3 == 0]
        for frame, inner in zip(large, small, strict=True):
            frame[y - rim : y + h + rim, x - rim : x + w + rim] = 235
            frame[y : y + h, x : x + w] = fill(inner, w, h)
        return f"{b} in {a}", large

    def blurred_bars(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        wide = (152, 270, 200)[turn % 3]
        x = (WIDTH - wide) // 2
        frames = []
        for frame in film:
            inner = fill(frame, wide, HEIGHT)
            outer = cv2.GaussianBlur(fill(inner, WIDTH, HEIGHT), (0, 0), 9 + 3 * (turn % 3))
            outer = (outer * (1.0, 0.7)[turn % 2]).astype(np.uint8)
            outer[:, x : x + wide] = inner
            frames.append(outer)
        return source, frames

    def coloured_bars(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        colour = self.random.integers(60, 255, 3)
        frames = []
        for frame in film:
            outer = np.full_like(frame, colour)
            if turn % 2:
                outer[40:-40] = fill(frame, WIDTH, HEIGHT - 80)
            else:
                outer[:, 120:-120] = fill(frame, WIDTH - 240, HEIGHT)
            frames.append(outer)
        return source, frames

    def border(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        period = int(self.random.integers(12, 30))
        pattern = ((rows + columns) // period % 2)[..., None]
        one, two = self.random.integers(0, 255, (2, 3))
        plate = np.where(pattern, one, two).astype(np.uint8) if turn % 2 else np.full_like(film[0], one)
        rim = (14, 22, 30)[turn % 3]
        frames = []
        for frame in film:
            framed = plate.copy()
            framed[rim:-rim, rim:-rim] = fill(frame, WIDTH - 2 * rim, HEIGHT - 2 * rim)
            frames.append(framed)
        return source, frames

    def stickers(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        shapes = [
            (*self.random.uniform((30, 30, 14), (WIDTH - 30, HEIGHT - 30, 34)), self.random.integers(0, 255, 3))
            for _ in range(4 + turn)
        ]
        for frame in film:
            for number, (x, y, r, colour) in enumerate(shapes):
                at, shade, rim = (round(x), round(y)), tuple(int(c) for c in colour), (255, 255, 255)
                if number % 2:
                    cv2.circle(frame, at, round(r) + 3, rim, -1, cv2.LINE_AA)
                    cv2.circle(frame, at, round(r), shade, -1, cv2.LINE_AA)
                else:
                    points = [
                        (
                            x + (r if k % 2 else r / 2) * np.sin(k * np.pi / 5),
                            y + (r if k % 2 else r / 2) * np.cos(k * np.pi / 5),
                        )
                        for k in range(10)
                    ]
                    cv2.fillPoly(frame, [np.array(points, np.int32)], shade, cv2.LINE_AA)
                    cv2.polylines(frame, [np.array(points, np.int32)], True, rim, 2, cv2.LINE_AA)
        return source, film

    def subtitles(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        words = self.random.choice(self.words, 2, replace=False)
        size = (18, 24, 30)[turn % 3]
        for number, frame in enumerate(film):
            text = str(words[number // 30])[:30]
            left = WIDTH / 2 - len(text) * size * 0.25
            for x, y in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                draw(frame, text, (left + x, HEIGHT - 48 + y), size, (0, 0, 0))
            draw(frame, text, (left, HEIGHT - 48), size, ((255, 255, 255), (60, 240, 255))[turn % 2])
        return source, film

    def ticker(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        colour = tuple(int(c) for c in self.random.choice(((150, 30, 20), (20, 20, 160), (30, 30, 30))))
        band = " +++ ".join(self.random.permutation(self.words))
        for number, frame in enumerate(film):
            frame[HEIGHT - 28 :] = colour
            draw(frame, band, (40 - 3 * number, HEIGHT - 25), 18)
            if turn % 2:
                frame[HEIGHT - 60 : HEIGHT - 30, : WIDTH // 2] = (235, 235, 235)
                draw(frame, str(self.words[turn])[:26], (8, HEIGHT - 56), 18, (20, 20, 20))
        return source, film

    def flashes(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        for number, frame in enumerate(film):
            phase = number % (8, 12)[turn % 2]
            if phase < 3:
                frame[:] = cv2.addWeighted(frame, phase / 3, np.full_like(frame, 255), 1 - phase / 3, 0)
            elif phase == 5 and turn > 1:
                frame[:] = 255 - frame
        return source, film

    def kaleidoscope(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        for frame in film:
            frame[:, WIDTH // 2 :] = frame[:, : WIDTH // 2][:, ::-1]
            if turn % 2:
                frame[HEIGHT // 2 :] = frame[: HEIGHT // 2][::-1]
        return source, film

    # Spliced of stills.

    def slideshow(self, turn: int) -> tuple[str, Video]:
        hold = (12, 20, 30)[turn % 3]
        stills = [fill(still) for still in self.stills(-(-FRAMES // hold))]
        return f"stills every {hold} frames", [stills[number // hold] for number in range(FRAMES)]

    def dissolves(self, turn: int) -> tuple[str, Video]:
        hold, over = ((18, 10), (24, 6), (14, 14))[turn % 3]
        stills = [fill(still) for still in self.stills(6)]
        frames = []
        for number in range(FRAMES):
            place, into = divmod(number, hold + over)
            share = max(0.0, (into - hold) / over)
            frames.append(cv2.addWeighted(stills[place + 1], share, stills[place], 1 - share, 0))
        return f"stills dissolve, {hold} + {over} frames", frames

    def ken_burns(self, turn: int) -> tuple[str, Video]:
        hold = (20, 30)[turn % 2]
        stills = self.stills(3)
        frames = []
        for number in range(FRAMES):
            place, into = divmod(number, hold)
            scale = 1 + (0.06 + 0.05 * (turn % 3)) * (into / hold if turn % 2 else 1 - into / hold)
            x = 240 * (1 - 1 / scale)
            move = np.array([[scale * 2 / 3, 0, -x], [0, scale * 2 / 3, -x * 9 / 16]], np.float32)
            frames.append(cv2.warpAffine(stills[place], move, (WIDTH, HEIGHT), flags=cv2.INTER_AREA))
        return f"zoomed stills of {hold} frames", frames

    def frozen(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        if turn % 2:  # the film stops, jumps to another one and stops again
            other = self.film()[1]
            return source, film[:10] + [film[10]] * 18 + [other[30]] * 20 + other[30:42]
        hold = (12, 16, 20)[turn // 2 % 3]
        shown = [film[n // hold * hold] if turn == 0 else film[min(n // hold * hold * 2, 59)] for n in range(FRAMES)]
        return f"{source}, a frame every {hold}", shown

    def wipes(self, turn: int) -> tuple[str, Video]:
        stills = [fill(still) for still in self.stills(5)]
        frames = []
        for number in range(FRAMES):
            place, into = divmod(number, 20)
            edge = round(max(0, into - 10) / 10 * WIDTH)
            frame = stills[place].copy()
            frame[:, :edge] = stills[place + 1][:, WIDTH - edge :] if turn % 2 else stills[place + 1][:, :edge]
            frames.append(frame)
        return "stills pushed and wiped", frames

    def one_still(self, turn: int) -> tuple[str, Video]:
        return "one still", [fill(self.stills(1)[0])] * FRAMES

    # Of low quality.

    def blurred(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        return source, [cv2.GaussianBlur(frame, (0, 0), (2.2, 3.0, 4.0)[turn % 3]) for frame in film]

    def noise(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        strength = (14, 22, 32)[turn % 3]
        return source, [
            np.clip(frame + self.random.normal(0, strength, frame.shape), 0, 255).astype(np.uint8) for frame in film
        ]

    def dark(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        gain = (0.06, 0.1, 0.14)[turn % 3]
        return source, [
            np.clip(frame * gain + self.random.normal(0, 2, frame.shape), 0, 255).astype(np.uint8) for frame in film
        ]

    def bright(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        gain = (2.4, 3.2, 4.5)[turn % 3]
        return source, [np.clip(frame * gain + 50.0, 0, 255).astype(np.uint8) for frame in film]

    def thumbnail(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        w = (72, 96, 120)[turn % 3]
        way = (cv2.INTER_CUBIC, cv2.INTER_LINEAR)[turn % 2]
        return source, [cv2.resize(fill(frame, w, w * 9 // 16), (WIDTH, HEIGHT), interpolation=way) for frame in film]

    def shaken(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        step = (5, 8, 12)[turn % 3]
        offsets = np.clip(self.random.normal(0, step, (FRAMES, 2)), -24, 24)
        frames = []
        for frame, (x, y) in zip(film, offsets, strict=True):
            move = np.array([[1.12, 0, x - 29], [0, 1.12, y - 16]], np.float32)
            frames.append(cv2.warpAffine(frame, move, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT))
        return source, frames

    # Talking.

    def _man(self, turn: int) -> Video:
        """Carphone, 176 x 144: its first 57 frames, or its last."""
        shown = excerpt(self.videos["carphone_pristine.mp4"], 0, 4.1)[0]
        shown = shown[:57] if self.half == "fit" else shown[-57:]
        return [shown[min(56, n)] for n in range(FRAMES)]

    def talking(self, turn: int) -> tuple[str, Video]:
        crop = ((0, 144, 0, 176), (4, 120, 20, 176), (10, 110, 40, 172))[turn % 3]
        flip = 1 if turn >= 3 else -1
        return f"carphone {crop}", [
            np.ascontiguousarray(fill(frame[crop[0] : crop[1], crop[2] : crop[3]])[:, ::flip])
            for frame in self._man(turn)
        ]

    def talking_small(self, turn: int) -> tuple[str, Video]:
        """Before a wide wall: the man takes half of the height."""
        wall = np.full((HEIGHT, WIDTH, 3), self.random.integers(60, 200, 3), np.uint8)
        rows = np.linspace(1.1, 0.8, HEIGHT)[:, None, None]
        wall = np.clip(wall * rows, 0, 255).astype(np.uint8)
        w, h = ((220, 180), (270, 220))[turn % 2]
        frames = []
        for man in self._man(turn):
            frame = wall.copy()
            soft = cv2.GaussianBlur(np.pad(np.ones((h, w - 40), np.float32), ((0, 0), (20, 20))), (0, 0), 8)[..., None]
            part = frame[HEIGHT - h :, 130 : 130 + w]
            part[:] = (part * (1 - soft) + cv2.resize(man, (w, h), interpolation=cv2.INTER_CUBIC) * soft).astype(
                np.uint8
            )
            frames.append(frame)
        return "carphone before a wall", frames

    def lecturer(self, turn: int) -> tuple[str, Video]:
        slide = self.slide(turn)
        w, h = ((132, 108), (160, 130), (200, 164))[turn % 3]
        x, y = ((WIDTH - w - 8, HEIGHT - h - 8), (8, HEIGHT - h - 8))[(turn + (self.half == "held")) % 2]
        frames = []
        for man in self._man(turn):
            frame = slide.copy()
            frame[y : y + h, x : x + w] = cv2.resize(man, (w, h), interpolation=cv2.INTER_CUBIC)
            frames.append(frame)
        return "carphone beside a slide", frames
