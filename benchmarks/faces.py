"""Faces, people and NSFW on footage whose people were counted by hand, and how small a face is still found.

    python benchmarks/faces.py [--sides 320 480 640]

Footage: pictures named below; a face counts if a person is sure of it, a body if any of it is seen. Found faces beyond
those are false, which those of drawn animals are, too. Small faces: three people (a photograph, a profile, a driver)
pasted into pictures without people, at faces of known height. The default side and the channel order were chosen on
other frames of the animation and other backgrounds, with the same three people: there are no more. The baseline is the
LBP cascade of scikit-image. CPU seconds are this process's, one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from skimage import data
from skimage.feature import Cascade

from curation.samples import fetch
from curation.scorers.faces import Faces, bodies
from curation.scorers.nsfw import Nsfw
from curation.scorers.nudenet import Detector, Part, package_model
from curation.video import ClipView, Picture, VideoInfo

SAMPLES = Path(__file__).parents[1] / ".cache" / "samples"
INFO = VideoInfo("h264", "mov", 640, 360, 24.0, 0, 1.0, "yuv420p", 8, False, False, "")
LARGEST = 1024  # px, as scorers get pictures
HEIGHTS = (0.05, 0.08, 0.12, 0.18, 0.27)  # of a pasted face, of the picture's
DRIVER, STREET = "carphone, pristine (a man, close)", "bikes (street)"
THINGS, FILM = "tree; a cat, coffee, a rocket", "bbb (animation, animals only)"
Find = Callable[[np.ndarray], list[Part]]


@dataclass
class Footage:
    name: str
    pictures: list[np.ndarray]  # [H, W, 3] uint8 RGB
    faces: int  # by hand, of all pictures
    people: int


def read(path: Path, frames: Sequence[int]) -> list[np.ndarray]:
    """RGB frames, halved until their longer side is at most `LARGEST`."""
    capture, wanted, found = cv2.VideoCapture(str(path)), set(frames), []
    for number in range(max(frames) + 1):
        if not capture.grab():
            break
        if number in wanted:
            bgr = capture.retrieve()[1]
            while max(bgr.shape[:2]) > LARGEST:
                bgr = cv2.resize(bgr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            found.append(np.ascontiguousarray(bgr[..., ::-1]))
    return found


def footage() -> list[Footage]:
    at = {path.name: path for which in ("small", "film", "camera") for path in fetch(SAMPLES, which)}
    photographs = [data.chelsea(), data.coffee(), data.rocket()]
    return [
        Footage(DRIVER, read(at["carphone_pristine.mp4"], range(8, 120, 10)), 12, 12),
        Footage("carphone, distorted", read(at["carphone_distorted.mp4"], range(8, 120, 10)), 12, 12),
        Footage(STREET, read(at["bikes.mp4"], range(15, 250, 20)), 3, 6),
        Footage("astronaut, cameraman (photographs)", [data.astronaut(), np.stack([data.camera()] * 3, -1)], 2, 2),
        Footage("vtest (pedestrians, faces of 12 px)", read(at["vtest.avi"], (150, 350, 550, 750)), 0, 26),
        Footage("box, cup (hands)", read(at["box.mp4"], range(20, 450, 80)) + read(at["cup.mp4"], (40, 110)), 0, 8),
        Footage(THINGS, read(at["tree.avi"], (50, 250)) + photographs, 0, 0),
        Footage(FILM, read(at["bbb.mp4"], range(520, 12500, 240)), 0, 0),
    ]


def pasted(backgrounds: Sequence[np.ndarray], people: Sequence[tuple[np.ndarray, float]], height: float):
    """Pictures of 640x360 with one person, and where from left to right the person is."""
    for background in backgrounds:
        for person, share in people:
            rows = round(360 * height / share)
            columns = round(rows * person.shape[1] / person.shape[0])
            if rows > 360:
                continue
            picture, left = cv2.resize(background, (640, 360)), (640 - columns) // 2
            picture[360 - rows :, left : left + columns] = cv2.resize(
                person, (columns, rows), interpolation=cv2.INTER_AREA
            )
            yield picture, (left / 640, (left + columns) / 640)


def network(side: int, swapped: bool = False) -> Find:
    detect, least = Detector(package_model(), side, "cpu"), Faces().least

    def find(rgb: np.ndarray) -> list[Part]:
        shown = np.ascontiguousarray(rgb[..., ::-1]) if swapped else rgb
        return [part for part in detect(shown) if part.score >= least]

    return find


def cascade() -> Find:
    known = Cascade(data.lbp_frontal_face_cascade_filename())

    def find(rgb: np.ndarray) -> list[Part]:
        height, width = rgb.shape[:2]
        smallest = max(24, round(0.1 * height))
        boxes = known.detect_multi_scale(rgb, 1.2, 1, (smallest, smallest), (height, height))
        return [
            Part("FACE", 1.0, b["c"] / width, b["r"] / height, b["width"] / width, b["height"] / height) for b in boxes
        ]

    return find


def faces_of(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if "FACE" in part.name]


def count(all_footage: Sequence[Footage], finders: dict[str, Find]) -> None:
    print("| footage | pictures | faces, people by hand | " + " | ".join(finders) + " |")
    print("|---|---|---|" + "---|" * len(finders))
    spent, looked = dict.fromkeys(finders, 0.0), 0
    for part in all_footage:
        looked += len(part.pictures)
        cells = []
        for name, find in finders.items():
            started = time.process_time()
            found = [find(picture) for picture in part.pictures]
            spent[name] += time.process_time() - started
            faces = sum(len(faces_of(parts)) for parts in found)
            people = faces + sum(len(bodies(parts)) for parts in found)
            cells.append(f"{min(faces, part.faces)} + {max(0, faces - part.faces)} false; {people}")
        print(f"| {part.name} | {len(part.pictures)} | {part.faces}, {part.people} | " + " | ".join(cells) + " |")
    print("| CPU ms a picture | | | " + " | ".join(f"{1000 * spent[name] / looked:.0f}" for name in finders) + " |")


def small(all_footage: Sequence[Footage], finders: dict[str, Find]) -> None:
    pictures = {part.name: part.pictures for part in all_footage}
    street, things, film = (pictures[name] for name in (STREET, THINGS, FILM))
    backgrounds = [street[0], street[7], things[1], things[3], film[10]]
    drivers = [pictures[DRIVER][place] for place in (1, 6, 11)]
    people = [(data.astronaut()[:360, 50:400], 0.27), (np.stack([data.camera()[60:]] * 3, -1), 0.17)]
    people += [(driver, 0.4) for driver in drivers]
    print("\n| face's height | " + " | ".join(finders) + " |\n|---|" + "---|" * len(finders))
    for height in HEIGHTS:
        cells = []
        for find in finders.values():
            hits = [
                any(left < face.x + face.w / 2 < right for face in faces_of(find(picture)))
                for picture, (left, right) in pasted(backgrounds, people, height)
            ]
            cells.append(f"{sum(hits)}/{len(hits)}")
        print(f"| {height:.0%} | " + " | ".join(cells) + " |")


def clips(all_footage: Sequence[Footage]) -> None:
    """Three neighbouring pictures a clip, as the scorers take them."""
    talks, first, second = Faces().setup(), Nsfw().setup(), Nsfw(model="nudenet").setup()
    spent = [0.0, 0.0]
    print("\nAfter the semicolon: clips above 0.2, 0.5 and 0.8; all of them are false alarms.")
    print("\n| footage | clips | talking_head | nsfw: open-nsfw | nsfw: nudenet |\n|---|---|---|---|---|")
    for part in all_footage:
        if part.name.startswith("astronaut"):
            continue
        taken = [part.pictures[start : start + 3] for start in range(0, len(part.pictures) - 2, 3)]
        views = [ClipView([Picture(i, i / 2, rgb) for i, rgb in enumerate(three)], {}, INFO) for three in taken]
        heads = [row["talking_head"] for row in talks(views)]
        cells = [f"median {np.median(heads):.2f}, max {max(heads):.2f}"]
        for place, look in enumerate((first, second)):
            started = time.process_time()
            scores = [row["nsfw"] for row in look(views)]
            spent[place] += (time.process_time() - started) / (3 * len(views))
            above = [sum(score > limit for score in scores) for limit in (0.2, 0.5, 0.8)]
            cells.append(f"median {np.median(scores):.2f}, max {max(scores):.2f}; {above[0]}, {above[1]}, {above[2]}")
        print(f"| {part.name} | {len(views)} | " + " | ".join(cells) + " |")
    print("| CPU ms a picture | | | " + " | ".join(f"{1000 * s / (len(all_footage) - 1):.0f}" for s in spent) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[320, 480, 640])
    sides = parser.parse_args().sides
    cv2.setNumThreads(1)
    all_footage = footage()
    finders = {f"{side} px": network(side) for side in sides}
    finders[f"{Faces().side} px, BGR"] = network(Faces().side, swapped=True)
    finders["LBP cascade"] = cascade()
    count(all_footage, finders)
    small(all_footage, finders)
    clips(all_footage)


if __name__ == "__main__":
    main()
