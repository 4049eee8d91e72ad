"""Clips for the six negative labels that are drawn: text, slides, screens; and the footage that all are made of."""

from __future__ import annotations

import importlib.resources
import itertools
from pathlib import Path

import cv2
import numpy as np
from labels_clips import (
    FILMS,
    FPS,
    FRAMES,
    HEIGHT,
    PHOTOGRAPHS,
    WIDTH,
    WORDS,
    Video,
    draw,
    fill,
)
from motion_clips import excerpt


class Drawn:
    """Footage and photographs of one half, and what is drawn from its words."""

    def __init__(self, half: str, videos: dict[str, Path]) -> None:
        self.half, self.videos = half, videos
        self.random = np.random.default_rng(7 if half == "fit" else 1007)
        self.words = WORDS[half]
        self._films = itertools.cycle(FILMS[half])
        self._kept: dict[tuple[str, float], Video] = {}

    def film(self) -> tuple[str, Video]:
        """The next excerpt, at 24 frames a second in effect: frames are repeated where the camera took fewer."""
        name, start = next(self._films)
        if (name, start) not in self._kept:
            shown, fps = excerpt(self.videos[name], start, FRAMES / FPS)
            at = np.minimum(np.arange(FRAMES) * fps / FPS, len(shown) - 1).astype(int)
            self._kept[name, start] = [fill(shown[n]) for n in at]
        return f"{name} {start}", [frame.copy() for frame in self._kept[name, start]]

    def stills(self, count: int) -> list[np.ndarray]:
        """Photographs and frames of film by turns, each at 720 x 405."""
        folder = importlib.resources.files("skimage") / "data"
        found = []
        for number, name in enumerate(self.random.permutation(PHOTOGRAPHS[self.half])[:count]):
            data = np.frombuffer((folder / str(name)).read_bytes(), np.uint8)
            photo = fill(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), 720, 405)
            found.append(photo if number % 2 == 0 else fill(self.film()[1][20], 720, 405))
        return found

    # Text.

    def slide(self, turn: int) -> np.ndarray:
        back, ink = (((250, 250, 250), (40, 40, 40)), ((70, 40, 20), (240, 240, 240)))[turn % 2]
        slide = np.full((HEIGHT, WIDTH, 3), back, np.uint8)
        words = self.random.permutation(self.words)
        draw(slide, str(words[0]), (24, 16), 28, ink)
        for line, text in enumerate(words[1 : 5 + turn % 3]):
            draw(slide, f"- {text}", (34, 66 + 30 * line), 18, ink)
        return slide

    def title(self, turn: int) -> tuple[str, Video]:
        colours = (((0, 0, 0), (255, 255, 255)), ((90, 30, 20), (210, 230, 240)), ((225, 230, 235), (30, 30, 30)))
        back, ink = colours[turn % 3]
        card = np.full((HEIGHT, WIDTH, 3), back, np.uint8)
        for line, text in enumerate(self.random.choice(self.words, 2, replace=False)):
            draw(card, str(text)[:28], (30, 80 + 50 * line), 32, ink)
        return "title card", [cv2.convertScaleAbs(card, alpha=min(1.0, 0.4 + n / 20)) for n in range(FRAMES)]

    def slides(self, turn: int) -> tuple[str, Video]:
        one, two = self.slide(turn), self.slide(turn)
        return "slides", [one if number < 36 else two for number in range(FRAMES)]

    def credits(self, turn: int) -> tuple[str, Video]:
        names = list(self.random.permutation(self.words)) * 5
        roll = np.zeros((26 * len(names), WIDTH, 3), np.uint8)
        for line, text in enumerate(names):
            draw(roll, str(text)[:34], ((60, 110, 150)[line % 3], 26 * line), (16, 20)[turn % 2])
        speed = (2, 3, 4)[turn % 3]
        return "scrolling credits", [roll[60 + speed * n : 60 + speed * n + HEIGHT].copy() for n in range(FRAMES)]

    def words_over(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        words = self.random.permutation(self.words)
        for number, frame in enumerate(film):
            frame[:] = (frame * 0.6).astype(np.uint8)
            for line in range(5):
                draw(frame, str(words[line])[:30], (26, 26 + 44 * line - (number // 3 if turn % 2 else 0)), 28)
        return source, film

    # Screens.

    def terminal(self, turn: int) -> tuple[str, Video]:
        ink = ((210, 210, 210), (120, 230, 120), (90, 200, 230))[turn % 3]
        back = ((12, 12, 12), (40, 20, 30))[turn % 2]
        lines = [f"$ run {n} --seed {self.random.integers(999)}  {self.words[n % len(self.words)]}" for n in range(60)]
        frames: Video = []
        screen = np.empty(0)
        for number in range(FRAMES):
            if number % 4 == 0:
                screen = np.full((HEIGHT, WIDTH, 3), back, np.uint8)
                first = number // 6 if turn % 2 else 0
                for row, text in enumerate(lines[first : first + 15]):
                    if turn % 2 or row <= number // 4:
                        draw(screen, text, (6, 4 + 17.5 * row), 13, ink)
            frames.append(screen)
        return "terminal", frames

    def desktop(self, turn: int) -> tuple[str, Video]:
        """A window that plays a film, its bar, a task bar, icons, a pointer."""
        source, film = self.film()
        back = tuple(int(c) for c in self.random.integers(60, 160, 3))
        frames = []
        for number, inner in enumerate(film):
            screen = np.full((HEIGHT, WIDTH, 3), back, np.uint8)
            screen[HEIGHT - 18 :] = (45, 45, 45)
            for icon in range(5):
                cv2.rectangle(screen, (14, 14 + 42 * icon), (36, 34 + 42 * icon), (200, 180 - 30 * icon, 40 * icon), -1)
                draw(screen, self.words[icon][:7], (6, 36 + 42 * icon), 9)
            w, h = ((288, 162), (352, 198))[turn % 2]
            x, y = 100 - 30 * (turn % 2), 30
            cv2.rectangle(screen, (x - 1, y - 16), (x + w, y + h), (235, 235, 235), -1)
            draw(screen, self.words[turn][:30], (x + 6, y - 14), 11, (40, 40, 40))
            screen[y : y + h, x : x + w] = fill(inner, w, h)
            at = 200 + 2 * number, 120 + number
            cv2.fillPoly(
                screen, [np.array([at, (at[0], at[1] + 12), (at[0] + 9, at[1] + 8)], np.int32)], (255, 255, 255)
            )
            frames.append(screen)
        return f"desktop with {source}", frames

    def hud(self, turn: int) -> tuple[str, Video]:
        source, film = self.film()
        for number, frame in enumerate(film):
            cv2.rectangle(frame, (12, 12), (140, 24), (30, 30, 30), -1)
            cv2.rectangle(frame, (13, 13), (130 - number // 2, 23), (40, 40, 220), -1)
            cv2.rectangle(frame, (12, 28), (110, 38), (30, 30, 30), -1)
            cv2.rectangle(frame, (13, 29), (100, 37), (220, 140, 40), -1)
            cv2.circle(frame, (WIDTH - 44, 44), 34, (60, 70, 50), -1)
            cv2.circle(frame, (WIDTH - 44, 44), 34, (220, 220, 220), 2, cv2.LINE_AA)
            draw(frame, f"SCORE {1200 + 10 * (number // 6)}", (WIDTH / 2 - 40, 8), 16, (80, 240, 250))
            for slot in range(6):
                cv2.rectangle(frame, (150 + 30 * slot, 238), (176 + 30 * slot, 264), (50, 50, 50), -1)
                cv2.rectangle(frame, (150 + 30 * slot, 238), (176 + 30 * slot, 264), (200, 200, 200), 1)
            draw(frame, "30 / 120", (WIDTH - 80, 240), 16)
        return source, film
