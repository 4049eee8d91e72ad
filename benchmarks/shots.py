"""How well shot detectors find transitions that are known to the frame, and what they take for one.

    python benchmarks/shots.py [--share 1.0] [--pools unseen seen film] [--transnetv2] [--errors]

Videos are edited from real footage (shots_edits.py) and encoded as H.264 at CRF 20, 26 or 32. Two pools of footage:
`unseen`, four films that no threshold was set on, and `seen`, those that they were set on. `film` is Big Buck Bunny
itself against the hand-checked list in bbb_cuts.csv; what is doubtful there counts on neither side.

Each detector runs as a scan runs it (decoded in the sandbox; long shots are not split), beside PySceneDetect's and
TransNetV2's own answers with their defaults. A transition is found if what was reported lies within 2 frames of it;
each report counts for one transition. Precision is of the videos with this kind of transition. "Clean": no frame that
mixes two shots is in a clip.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import scenedetect
from shots_edits import CRFS, FPS, Edit, Event, edits, encode, footage, listed

from curation.decode import DecodeConfig, load_tracks
from curation.plan import MeasurePlan
from curation.samples import fetch
from curation.sandbox import Sandbox
from curation.shots import Shots
from curation.shots.adaptive import Adaptive
from curation.shots.content import Content
from curation.shots.refine import find_gaps
from curation.shots.transnetv2 import TransNetV2, transitions_of
from curation.video import Span, Tracks

SAMPLES = Path(__file__).parents[1] / ".cache" / "samples"
SLACK = 2  # frames
SEED = 20261201
T = TypeVar("T")
GRADUAL = ("dissolve", "fade", "wipe")

OURS: dict[str, Shots] = {"adaptive (default)": Adaptive(max_s=None), "content": Content(max_s=None)}
LEARNED = TransNetV2(max_s=None, device="cpu")


@dataclass
class Tally:
    """What one detector did on one kind of video."""

    true: int = 0
    found: int = 0
    false: int = 0
    clean: int = 0
    lost: int = 0  # frames of pure shots that were left out of clips, beside found transitions
    frames: int = 0

    @property
    def f1(self) -> float:
        return 2 * self.found / max(2 * self.found + self.false + self.true - self.found, 1)

    def add(self, truths: Sequence[Event], ignored: Sequence[Event], gaps: Sequence[Span], frames: int) -> Verdict:
        verdict = judge(truths, ignored, gaps)
        self.true += len(truths)
        self.found += len(verdict.found)
        self.false += len(verdict.false)
        self.frames += frames
        for truth in truths:
            self.clean += all(any(g.start <= k < g.end for g in gaps) for k in range(*truth.span))
        for truth, gap in verdict.found:
            self.lost += max(0, truth.span.start - gap.start) + max(0, gap.end - truth.span.end)
        return verdict

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass
class Verdict:
    found: list[tuple[Event, Span]] = field(default_factory=list)
    missed: list[Event] = field(default_factory=list)
    false: list[Span] = field(default_factory=list)


def judge(truths: Sequence[Event], ignored: Sequence[Event], gaps: Sequence[Span]) -> Verdict:
    """Match transitions with reports, one to one, both in the order of time."""
    left, verdict = list(gaps), Verdict()
    for truth in truths:
        near = [gap for gap in left if _touch(gap, truth.span)]
        if near:
            # An exact report before one that only comes near: two cuts may lie close to each other.
            best = min(near, key=lambda gap: abs(gap.start - truth.span.start) + abs(gap.end - truth.span.end))
            left.remove(best)
            verdict.found.append((truth, best))
        else:
            verdict.missed.append(truth)
    verdict.false = [gap for gap in left if not any(_touch(gap, event.span) for event in ignored)]
    return verdict


def _touch(gap: Span, truth: Span) -> bool:
    return gap.start <= truth.end + SLACK and gap.end >= truth.start - SLACK


class Detectors:
    """Runs all detectors on a video: the transitions that each reports, and its CPU seconds beside the decode."""

    def __init__(self, folder: Path, learned: bool):
        self._folder, self._learned = folder, learned
        self._sandbox = Sandbox()
        self.cpu: dict[str, float] = defaultdict(float)
        self.frames = 0

    def gaps(self, path: Path) -> tuple[dict[str, list[Span]], int]:
        found: dict[str, list[Span]] = {}
        frames = 0
        for name, detector in OURS.items():
            with TemporaryDirectory(dir=self._folder) as arrays:
                plan, config = MeasurePlan(shots=detector), DecodeConfig()
                settings = {"config": config.model_dump(mode="json"), "plan": plan.model_dump(mode="json")}
                result = self._sandbox.run("decode", None, path=str(path), folder=arrays, **settings)
                tracks = load_tracks(Path(arrays), result)
                found[name] = self._timed(name, _gaps, detector, tracks)
                frames = tracks.frames
                if self._learned and name == next(iter(OURS)):
                    found |= self._network(tracks)
        found["PySceneDetect Adaptive"] = self._timed("PySceneDetect Adaptive", _theirs, path, "AdaptiveDetector")
        found["PySceneDetect Content"] = self._timed("PySceneDetect Content", _theirs, path, "ContentDetector")
        self.frames += frames
        return found, frames

    def _network(self, tracks: Tracks) -> dict[str, list[Span]]:
        thumbs = tracks.meters["thumbs"]["rgb"]
        single, every = self._timed("TransNetV2 alone", LEARNED.predict, thumbs)
        ours = find_gaps(thumbs, FPS, transitions_of(single, every, LEARNED.threshold, LEARNED.extent))
        # The authors' own rule: runs of the first head above one half are transitions.
        marked = np.diff(np.concatenate(([0], single > 0.5, [0])).astype(int))
        runs = zip(np.flatnonzero(marked > 0).tolist(), np.flatnonzero(marked < 0).tolist(), strict=True)
        alone = [Span(start + 1, max(start + 1, end)) for start, end in runs]
        return {"transnetv2": ours, "TransNetV2 alone": alone}

    def _timed(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        begun = time.process_time()
        try:
            return function(*arguments)
        finally:
            self.cpu[name] += time.process_time() - begun

    def close(self) -> None:
        self._sandbox.close()


def _theirs(path: Path, detector: str) -> list[Span]:
    cuts = scenedetect.detect(str(path), getattr(scenedetect, detector)())
    return [Span(scene[0].frame_num, scene[0].frame_num) for scene in cuts[1:]]


def _gaps(detector: Shots, tracks: Tracks) -> list[Span]:
    """What lies between shots; a video that begins or ends without one counts there, too."""
    frames = tracks.frames
    edges = [Span(0, 0), *detector.shots(tracks), Span(frames, frames)]
    gaps = [Span(a.end, b.start) for a, b in pairwise(edges)]
    return [gap for gap in gaps if gap.end > 0 and gap.start < frames]


Tallies = dict[str, dict[str, Tally]]  # detector -> kind of video -> tally


def measure(videos: Iterator[Edit], detectors: Detectors, folder: Path, errors: bool) -> tuple[Tallies, Tallies]:
    """Tallies by kind of video, and false reports by kind of disturbance."""
    tallies: Tallies = defaultdict(lambda: defaultdict(Tally))
    blamed: Tallies = defaultdict(lambda: defaultdict(Tally))
    for number, edit in enumerate(videos):
        path = folder / f"{edit.name}.mp4"
        crf = CRFS[number % len(CRFS)]
        encode(edit, path, crf)
        truths = [] if edit.group == "distractors" else edit.events
        found, frames = detectors.gaps(path)
        for name, gaps in found.items():
            verdict = tallies[name][edit.group].add(truths, [], gaps, frames)
            for gap in verdict.false:
                near = [e for e in edit.events if _touch(gap, Span(e.span.start - 3, e.span.end + 3))]
                blamed[name][near[0].kind if near and not truths else "nothing"].false += 1
            if errors and name == next(iter(OURS)):
                _explain(edit, crf, verdict)
        path.unlink() if not errors else None
    return tallies, blamed


def _explain(edit: Edit, crf: int, verdict: Verdict) -> None:
    for event in verdict.missed:
        print(f"  {edit.name} crf {crf}: missed {event}")
    for gap in verdict.false:
        near = [event for event in edit.events if _touch(gap, Span(event.span.start - 10, event.span.end + 10))]
        print(f"  {edit.name} crf {crf}: false {gap} near {near}")


def film(path: Path, detectors: Detectors) -> Tallies:
    events = listed()
    sure, doubtful = [e for e, certain in events if certain], [e for e, certain in events if not certain]
    found, frames = detectors.gaps(path)
    tallies: Tallies = defaultdict(lambda: defaultdict(Tally))
    for name, gaps in found.items():
        verdict = tallies[name]["film"].add(sure, doubtful, gaps, frames)
        if name == next(iter(OURS)):
            for event in verdict.missed:
                print(f"  missed {event}")
            for gap in verdict.false:
                print(f"  false {gap}")
    return tallies


def show(tallies: Tallies, blamed: Tallies) -> None:
    print("\n| detector | kind | transitions | precision | recall | F1 | clean | frames lost beside one |")
    print("|---|---|---|---|---|---|---|---|")
    for name, kinds in tallies.items():
        sums = {"**cut, blend**": ("cut", "blend"), "**gradual**": GRADUAL}
        rows = {kind: tally for kind, tally in kinds.items() if kind != "distractors"}
        rows |= {
            title: sum((kinds[k] for k in of), Tally()) for title, of in sums.items() if all(k in kinds for k in of)
        }
        for kind, t in rows.items():
            precision = t.found / max(t.found + t.false, 1)
            clean = f"{100 * t.clean / t.true:.0f} %" if kind != "cut" and t.true else ""
            print(
                f"| {name} | {kind} | {t.true} | {precision:.3f} | {t.found / max(t.true, 1):.3f} | {t.f1:.3f} "
                f"| {clean} | {t.lost / max(t.found, 1):.1f} |"
            )
    kinds = sorted({kind for row in blamed.values() for kind in row})
    if not any("distractors" in row for row in tallies.values()):
        return
    print(f"\n| false cuts | in 10 minutes | {' | '.join(kinds)} |\n|---|---|{'---|' * len(kinds)}")
    for name, row in tallies.items():
        t = row["distractors"]
        counts = " | ".join(str(blamed[name][kind].false) for kind in kinds)
        minutes = t.frames / FPS / 60
        print(f"| {name} | **{10 * t.false / minutes:.2f}** ({t.false} in {minutes:.0f}) | {counts} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the videos")
    parser.add_argument("--pools", nargs="+", default=["unseen", "seen", "film"], choices=["unseen", "seen", "film"])
    parser.add_argument("--transnetv2", action="store_true", help="the network, too: 30 ms of CPU a frame")
    parser.add_argument("--errors", action="store_true", help="say what the default got wrong, keep the videos")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    fetch(SAMPLES, "all")
    with TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        detectors = Detectors(folder, options.transnetv2)
        for pool in options.pools:
            print(f"\n## {pool}\n", flush=True)
            if pool == "film":
                show(film(SAMPLES / "videos" / "film" / "bbb.mp4", detectors), {})
            else:
                videos = edits(footage(SAMPLES / "videos", pool), pool, options.seed, options.share)
                show(*measure(videos, detectors, folder, options.errors))
        detectors.close()
        print("\n| beside the decode | CPU ms a frame |\n|---|---|")
        for name, seconds in detectors.cpu.items():
            print(f"| {name} | {1000 * seconds / max(detectors.frames, 1):.2f} |")


if __name__ == "__main__":
    main()
