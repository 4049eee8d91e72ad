"""Pictures as clips of one frame: how much damage is noticed, and what a picture costs.

    python benchmarks/images.py

Saves a frame of bikes.mp4 (of the samples) in each format. A copy that is cut off, or in which a bit is flipped, is a
picture that a decoder may fill up in silence: those that come out otherwise than they should are counted. Bits are
drawn from a fixed seed. The cost is that of the decode with all scorers that look at every frame, in CPU seconds of
one thread. Prints two Markdown tables.
"""

from __future__ import annotations

import io
import random
import resource
import tempfile
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from PIL import Image

from curation.container import NotVideo
from curation.decode import DecodeConfig, decode
from curation.media.pixels import View
from curation.media.still import read_still
from curation.plan import MeasurePlan
from curation.read import read_clip
from curation.samples import fetch
from curation.scorers import AnyScorer
from curation.shots.adaptive import Adaptive

SAMPLES = Path(__file__).parents[1] / ".cache" / "samples"
KINDS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "jpeg", "quality": 90},
    "JPEG, progressive": {"format": "jpeg", "quality": 90, "progressive": True},
    "PNG": {"format": "png"},
    "WebP": {"format": "webp", "quality": 90},
    "WebP, lossless": {"format": "webp", "lossless": True},
}
CUTS, FLIPS, SMALL = 100, 200, (320, 136)
SIZES = ((640, 272), (1920, 816), (4000, 1700))


def main() -> None:
    (footage,) = (path for path in fetch(SAMPLES, "small") if path.name == "bikes.mp4")
    row = {"clip_id": "frame", "uri": str(footage), "start_frame": 100, "end_frame": 101}
    frame = Image.fromarray(read_clip(row)[0])
    print("| format | bytes | cut off: noticed | a bit flipped: noticed | same pixels | other pixels |")
    print("|---|---|---|---|---|---|")
    for name, how in KINDS.items():
        data = saved(frame.resize(SMALL), how)
        truth = shown(data)
        assert truth is not None
        lengths = np.linspace(16, len(data) - 1, CUTS).astype(int)
        short = sum(shown(data[:length]) is None for length in lengths)
        noticed = same = 0
        draw = random.Random(0)
        for _ in range(FLIPS):
            broken = bytearray(data)
            broken[draw.randrange(16, len(data))] ^= 1 << draw.randrange(8)
            found = shown(bytes(broken))
            noticed += found is None
            same += found is not None and np.array_equal(found, truth)
        other = FLIPS - noticed - same
        print(f"| {name} | {len(data):,} | {short} of {CUTS} | {noticed} of {FLIPS} | {same} | {other} |")
    print(f"\n| format | {' | '.join(f'{w} x {h}' for w, h in SIZES)} |")
    print(f"|---|{'---|' * len(SIZES)}")
    for name, how in KINDS.items():
        seconds = [cost(saved(frame.resize(size, Image.Resampling.BICUBIC), how)) for size in SIZES]
        print(f"| {name} | {' | '.join(f'{s:.3f}' for s in seconds)} |")


def saved(picture: Image.Image, how: dict[str, Any]) -> bytes:
    target = io.BytesIO()
    picture.save(target, **how)
    return target.getvalue()


def shown(data: bytes) -> np.ndarray | None:
    """[H, W, 3] uint8 as readers see it; None where it is refused."""
    try:
        still = read_still(io.BytesIO(data))
        if still is None:
            return None
        container, stream = still.open()
        with container:
            return View(still.rotation).render(still.plain(still.frame(container, stream)))
    except NotVideo:
        return None


def cost(data: bytes) -> float:
    """CPU seconds, the better of two."""
    scorers = MeasurePlan(scorers=tuple(scorer() for scorer in get_args(get_args(AnyScorer)[0]))).frame_scorers
    best = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        path.write_bytes(data)
        for _ in range(2):
            before = cpu()
            decode(path, Path(folder), DecodeConfig(), MeasurePlan(shots=Adaptive(), scorers=scorers), lambda _: None)
            best = min(best, cpu() - before)
    return best


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
