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
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from text_clips import OVERLAY, SAMPLES, WORDS, Clip, clips, excerpt, through_codec

from curation.samples import fetch
from curation.scorers.text_boxes import share
from curation.scorers.text_detection import DETECTION, Detector, package_model
from curation.scorers.text_persistence import tell_apart

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
