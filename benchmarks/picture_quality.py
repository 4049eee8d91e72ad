"""BRISQUE of footage as it is and with known damage, by the size that larger pictures are reduced to.

    python benchmarks/picture_quality.py [--sides 512 768]

Medians of the pictures, black ones left out. Damage is done at the size in which scorers get pictures; `half` is the
same picture at half its size. The baseline is the package brisque with its trainer's features (`BRISQUE.score` fails
with numpy 2.4), on bikes, box and the photographs. CPU seconds are this process's, one thread.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable

import av
import cv2
import numpy as np
from brisque import BRISQUE, BRISQUETrainer
from faces import INFO, SAMPLES, read
from skimage import data

from curation.samples import fetch
from curation.scorers.brisque import Brisque
from curation.video import ClipView, Picture

Damage = Callable[[np.ndarray], np.ndarray]


def h264(rgb: np.ndarray, crf: int) -> np.ndarray:
    """The picture as the key frame of a video."""
    height, width = rgb.shape[0] & ~1, rgb.shape[1] & ~1
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": str(crf), "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24")
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    file.seek(0)
    with av.open(file) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def noisy(rgb: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(rgb + np.random.default_rng(0).normal(0, sigma, rgb.shape), 0, 255).astype(np.uint8)


DAMAGE: dict[str, Damage] = {
    "as is": lambda rgb: rgb,
    "half": lambda rgb: cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "CRF 23": lambda rgb: h264(rgb, 23),
    "CRF 35": lambda rgb: h264(rgb, 35),
    "CRF 45": lambda rgb: h264(rgb, 45),
    "blur 2 px": lambda rgb: cv2.GaussianBlur(rgb, (0, 0), 2),
    "noise 10": lambda rgb: noisy(rgb, 10),
    "noise 25": lambda rgb: noisy(rgb, 25),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 768])
    sides = parser.parse_args().sides
    cv2.setNumThreads(1)
    at = {path.name: path for which in ("small", "film", "camera") for path in fetch(SAMPLES, which)}
    footage = {
        "photographs": [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()],
        "bikes (street)": read(at["bikes.mp4"], (15, 45, 105, 125, 175, 225)),
        "carphone, pristine": read(at["carphone_pristine.mp4"], (10, 50, 90)),
        "carphone, distorted": read(at["carphone_distorted.mp4"], (10, 50, 90)),
        "vtest (fixed camera)": read(at["vtest.avi"], (50, 250, 450)),
        "box (hand-held)": read(at["box.mp4"], (100, 250, 400)),
        "cup (white wall)": read(at["cup.mp4"], (30, 130)),
        "bbb (animation)": read(at["bbb.mp4"], range(600, 12000, 600)),
    }
    names = " | ".join(DAMAGE)
    print(f"| footage | side | {names} |\n|---|---|" + "---|" * len(DAMAGE))
    for side in sides:
        look = Brisque(side=side).setup()
        for name, pictures in footage.items():
            cells = []
            for damage in DAMAGE.values():
                views = [ClipView([Picture(0, 0.0, damage(rgb))], {}, INFO) for rgb in pictures]
                scores = [row["brisque"] for row in look(views)]
                cells.append(f"{np.median([score for score in scores if score is not None]):.0f}")
            print(f"| {name} | {side} | " + " | ".join(cells) + " |")
    spent(footage["bikes (street)"] + footage["box (hand-held)"] + footage["photographs"])


def spent(pictures: list[np.ndarray]) -> None:
    """CPU of ours and of the package on the same pictures, and how far their scores are apart."""
    look, trainer, package = Brisque().setup(), BRISQUETrainer(), BRISQUE()
    views = [ClipView([Picture(0, 0.0, rgb)], {}, INFO) for rgb in pictures]
    look(views[:1])
    started = time.process_time()
    ours = [row["brisque"] for row in look(views)]
    middle = time.process_time()
    grey = [cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in pictures]
    theirs = [package.calculate_image_quality_score(trainer._extract_features(luma)) for luma in grey]
    ended = time.process_time()
    apart = [abs(one - np.clip(other, 0, 100)) for one, other in zip(ours, theirs, strict=True)]
    cpu = [1000 * seconds / len(views) for seconds in (middle - started, ended - middle)]
    print("\n| | ours | the package's |\n|---|---|---|")
    print(f"| CPU ms a picture | {cpu[0]:.0f} | {cpu[1]:.0f} |")
    print(f"| apart | median {np.median(apart):.1f}, most {max(apart):.1f} | |")


if __name__ == "__main__":
    main()
