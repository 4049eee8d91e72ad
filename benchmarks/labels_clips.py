"""Clips for the six negative labels: real footage, and what was made of it; two halves that share no footage.

The half "fit" uses the first 300 s of Big Buck Bunny, vtest, cup, the first 1.9 s of carphone and some photographs; the
half "held" the rest of the film, bikes, box, tree, the trailer, the rest of carphone, and other photographs, words,
pages and layouts, and kinds that "fit" does not have (`HELD_ONLY`). Everything is 480 x 270 and 2.5 s long.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 480, 270
FPS, FRAMES = 24, 60
Video = list[np.ndarray]  # [270, 480, 3] uint8 BGR, a frame each

ORDINARY = {
    "fit": {"bbb.mp4": range(12, 296, 7), "vtest.avi": range(2, 70, 12), "cup.mp4": (0.5, 4.0)},
    "held": {
        "bbb.mp4": range(303, 484, 7),
        "bikes.mp4": (0.0, 1.6, 3.2, 4.8, 6.0, 7.4),
        "box.mp4": (0.5, 3.5, 6.5, 9.5, 12.0),
        "tree.avi": (1.0, 6.0, 11.0, 16.0, 21.0, 26.0),
    },
}
FILMS = {  # shots that something is made of: file, second; none has a cut
    "fit": [("bbb.mp4", s) for s in (19, 61, 82, 110, 131, 152, 173, 201, 236)] + [("vtest.avi", 12), ("cup.mp4", 2.0)],
    "held": [("bbb.mp4", s) for s in (310, 331, 345, 359, 387)]
    + [("bikes.mp4", 1.4), ("bikes.mp4", 5.7), ("box.mp4", 4.0), ("box.mp4", 8.0), ("tree.avi", 9.0)],
}
PHOTOGRAPHS = {
    "fit": ("coffee.png", "chelsea.png", "rocket.jpg", "brick.png", "grass.png", "ihc.png"),
    "held": ("motorcycle_left.png", "hubble_deep_field.jpg", "camera.png", "coins.png", "gravel.png", "moon.png"),
}
WORDS = {
    "fit": (
        "Results of the second quarter", "Revenue grew by nine percent", "Costs of transport fell", "Next steps",
        "The river rose by two metres overnight", "Sports: a late goal decides the match", "What we have learned",
        "Thank you for your attention", "Agenda and open questions", "import numpy as np", "for row in table:",
    ),
    "held": (
        "Chapter 4: Photosynthesis", "Light is absorbed by chlorophyll", "Weather: storms in the north tonight",
        "You will never guess what happened then", "Carbon dioxide becomes sugar", "Exercises for Monday",
        "directed by M. Okafor", "Music recorded at Studio Nine", "SUBSCRIBE for more", "Written and produced by",
    ),
}  # fmt: skip
LABELS = ("editing", "disconnected_motion", "low_quality", "lecture", "text_dominated", "screenshot")
# Kind → (its labels, labels that it may or may not have, which are not counted). All others are wrong for it.
TRUTH: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ordinary": ((), ()),
    "titles over film": (("editing",), ("text_dominated",)),
    **dict.fromkeys(
        ("split screen", "four pictures", "picture in picture", "blurred bars", "coloured bars", "border", "stickers"),
        (("editing",), ()),
    ),
    **dict.fromkeys(("subtitles", "ticker"), (("editing",), ("text_dominated",))),
    "flashes": (("editing",), ("low_quality", "disconnected_motion")),
    "kaleidoscope": (("editing",), ()),
    **dict.fromkeys(
        ("slideshow", "dissolves", "Ken Burns slideshow", "frozen film", "wipes", "one still"),
        (("disconnected_motion",), ("low_quality",)),
    ),
    **dict.fromkeys(
        ("CRF 47-51", "MPEG-4 blocks", "blurred", "noise", "too dark", "too bright", "thumbnail", "shaken"),
        (("low_quality",), ()),
    ),
    "talking man": (("lecture",), ("low_quality",)),
    "talking man, soft and small": (("lecture",), ("low_quality",)),
    "lecturer and slide": (("lecture",), ("editing", "text_dominated", "screenshot", "disconnected_motion")),
    **dict.fromkeys(
        ("title card", "slides", "credits", "real credits", "words over film"),
        (("text_dominated",), ("editing", "screenshot", "disconnected_motion")),
    ),
    **dict.fromkeys(
        ("web page", "code", "table", "terminal", "form", "dark editor"),
        (("screenshot",), ("text_dominated", "disconnected_motion", "editing")),
    ),
    "desktop with a video": (("screenshot",), ("editing", "text_dominated")),
    "game HUD": (("screenshot",), ("editing", "text_dominated")),
}
HELD_ONLY = ("four pictures", "kaleidoscope", "wipes", "MPEG-4 blocks", "real credits", "form", "dark editor")


@dataclass
class Clip:
    kind: str
    half: str  # "fit" or "held"
    source: str
    frames: Video
    fps: float = FPS
    crf: int = 23
    codec: str = "libx264"


def encode(clip: Clip, target: Path) -> None:
    options = {"crf": str(clip.crf), "preset": "veryfast", "threads": "1"}
    if clip.codec == "mpeg4":
        options = {"qmin": "28", "qmax": "31", "threads": "1"}
    with av.open(str(target), "w") as container:
        stream: Any = container.add_stream(clip.codec, Fraction(clip.fps).limit_denominator(1001), options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in clip.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "bgr24")))
        container.mux(stream.encode())


def fill(picture: np.ndarray, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """The middle of a picture at a size."""
    h, w = picture.shape[:2]
    scale = min(w / width, h / height)
    cw, ch = round(width * scale), round(height * scale)
    x, y = (w - cw) // 2, (h - ch) // 2
    way = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    return cv2.resize(picture[y : y + ch, x : x + cw], (width, height), interpolation=way)


def draw(picture: np.ndarray, words: str, at: tuple[float, float], size: float, colour: Any = (255, 255, 255)) -> None:
    """Words into a picture; `at` is the left top, colour is BGR."""
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text(at, words, tuple(colour), ImageFont.load_default(round(size)))
    picture[:] = np.asarray(image)
