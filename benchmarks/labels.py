"""The six negative labels: recall on clips of each kind, and false alarms, on footage that no weight was fitted to.

    python benchmarks/labels.py [--fit] [--rows FILE]

labels_clips.py says of what the clips are made. Each is encoded and goes through the real decode, frame scorers, text,
faces, BRISQUE and labels. Film is cut into shots first; made clips are taken whole. `--fit` prints the table of weights
for curation/scorers/labels.py, fitted to the half "fit"; what counts is the half "held". `--rows` keeps what was
measured in a file and uses it again. The baseline is the single column that someone would use without labels, at the
threshold that docs/scorers.md suggests for it. CPU seconds are this process's, without Chromium's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from labels_clips import HELD_ONLY, LABELS, TRUTH, Clip, encode
from labels_made import Maker
from labels_screens import recordings
from scipy.optimize import minimize

from curation.decode import DecodeConfig, decode, load_tracks
from curation.plan import MeasurePlan
from curation.samples import fetch
from curation.scorers.blockiness import Blockiness
from curation.scorers.borders import Borders
from curation.scorers.brisque import Brisque
from curation.scorers.camera_motion import CameraMotion
from curation.scorers.exposure import Exposure
from curation.scorers.faces import Faces
from curation.scorers.freeze import Freeze
from curation.scorers.graphics import graphics
from curation.scorers.labels import CLASSIFIERS, Classifier, Labels, classify, signals
from curation.scorers.motion import Motion
from curation.scorers.sharpness import Sharpness
from curation.scorers.text import Text
from curation.shots.adaptive import Adaptive
from curation.stills import Stills
from curation.video import ClipView, Span, Tracks

ROOT = Path(__file__).parents[1]
FRAME_SCORERS = tuple(
    scorer.model_validate({}) for scorer in (Motion, CameraMotion, Freeze, Borders, Sharpness, Exposure, Blockiness)
)
CUT_FILMS = ("bbb", "bikes", "trailer")
FOUND = ("ordinary", "titles over film", "real credits")
LONGEST = ", longest shot"
# What may be evidence for each label.
EVIDENCE = {
    "editing": ("seam", "pair of seams", "soft sides", "corners", "overlay"),
    "disconnected_motion": ("jump", "frozen"),
    "low_quality": ("soft", "blown up", "unnatural", "blocky", "noisy", "dark", "bright", "shaken"),
    "lecture": ("talking head", "face on a drawing"),
    "text_dominated": ("text", "lines of text"),
    "screenshot": ("lines about text", "few colours", "flat", "drawn text", "lines of text"),
}
ENOUGH = ("soft", "blocky", "noisy", "dark", "bright", "shaken")  # each plain defect is low quality by itself
ORDINARY_WEIGHT = 2.0  # a false alarm on film is worse than one on made clips
SHRINK = 0.005  # of squared weights


@dataclass
class Row:
    kind: str
    half: str
    source: str
    columns: dict[str, Any]
    signals: dict[str, float]
    several: bool

    def truth(self, label: str) -> bool | None:
        """None: may or may not be."""
        has, ignored = TRUTH[self.kind.removesuffix(LONGEST)]
        return True if label in has else None if label in ignored else False


class Measure:
    """Measures clips as a scan does."""

    def __init__(self) -> None:
        self.seconds = 0.0  # CPU, of labels alone
        self._config, self._plan = Labels(), MeasurePlan(shots=Adaptive(), scorers=FRAME_SCORERS)
        self._looks = [(scorer, scorer.setup()) for scorer in (Text(), Faces(), Brisque())]

    def __call__(self, clip: Clip) -> Iterator[Row]:
        """The clip's row. Found film is cut into shots first; spliced stills are measured whole, and again cut."""
        with tempfile.TemporaryDirectory() as folder:
            path, arrays = Path(folder) / "clip.mp4", Path(folder) / "arrays"
            arrays.mkdir()
            encode(clip, path)
            tracks = load_tracks(arrays, decode(path, arrays, DecodeConfig(), self._plan, lambda _: None))
            whole, longest = (
                Span(0, tracks.frames),
                max(Adaptive().shots(tracks), key=lambda shot: shot.end - shot.start),
            )
            if clip.kind in FOUND and clip.source.startswith(CUT_FILMS):
                yield self._row(clip, clip.kind, tracks, longest)
            else:
                yield self._row(clip, clip.kind, tracks, whole)
                if "disconnected_motion" in TRUTH[clip.kind][0] and longest != whole:
                    yield self._row(clip, clip.kind + LONGEST, tracks, longest)

    def _row(self, clip: Clip, kind: str, tracks: Tracks, span: Span) -> Row:
        row, stills = self._plan.score(tracks, span), Stills(tracks)
        for scorer, look in self._looks:
            pictures, middle = stills.pictures(span, scorer.pictures, row)
            row |= look([ClipView(pictures, row, tracks.info, middle)])[0] if pictures else {}
        pictures, _ = stills.pictures(span, self._config.pictures, row)
        begun = time.process_time()
        evidence = signals(row, graphics([picture.rgb for picture in pictures]))
        self.seconds += time.process_time() - begun
        columns = {name: value for name, value in row.items() if not name.endswith("boxes")}
        return Row(kind, clip.half, clip.source, columns, evidence, len(pictures) > 1)


def all_clips() -> Iterator[Clip]:
    videos = {path.name: path for name in ("small", "film", "camera") for path in fetch(ROOT / ".cache/samples", name)}
    for half in ("fit", "held"):
        yield from Maker(half, videos).clips()
    yield from recordings(ROOT)


def fit(rows: Sequence[Row], label: str) -> Classifier:
    """Weights of at least 0, of a defect that is enough 2.5; clips with and without the label count as much in sum."""
    names = EVIDENCE[label]
    used = [row for row in rows if row.truth(label) is not None]
    x = np.array([[row.signals[name] for name in names] for row in used])
    y = np.array([row.truth(label) for row in used], float)
    share = np.where(y == 1, 1.0, [ORDINARY_WEIGHT if row.kind == "ordinary" else 1.0 for row in used])
    share = np.where(y == 1, share / share[y == 1].sum(), share / share[y == 0].sum()) / 2

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        score = parameters[0] + x @ parameters[1:]
        error = share * (1 / (1 + np.exp(-score)) - y)
        value = float(share @ (np.logaddexp(0, score) - y * score)) + SHRINK / 2 * float(
            parameters[1:] @ parameters[1:]
        )
        return value, np.array([error.sum(), *(error @ x + SHRINK * parameters[1:])])

    least = [(2.5 if name in ENOUGH else 0, None) for name in names]
    start = np.array([-2.0, *np.ones(len(names))])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(None, None), *least])
    bias, *weights = (round(float(value), 1) for value in found.x)
    return Classifier(bias, {name: weight for name, weight in zip(names, weights, strict=True) if weight})


def labelled(row: Row, label: str) -> bool:
    value = classify(row.columns, row.signals, row.several)[f"label_{label}"]
    return value is not None and value > 0.5


def baseline(row: Row, label: str) -> bool:
    """One column against the threshold that is suggested for it."""
    column, above, threshold = {
        "editing": ("overlay_text", True, 0.002),
        "disconnected_motion": ("freeze", True, 0.2),
        "low_quality": ("sharpness", False, 4.0),
        "lecture": ("talking_head", True, 0.5),
        "text_dominated": ("text_area", True, 0.07),
        "screenshot": ("text_area", True, 0.07),
    }[label]
    value = row.columns.get(column)
    return value is not None and (value > threshold if above else value < threshold)


def count(rows: Sequence[Row], label: str, decide: Any = labelled) -> str:
    return f"{sum(decide(row, label) for row in rows)}/{len(rows)}"


def report(of_half: Sequence[Row], half: str) -> None:
    print(f"\nHalf {half!r}, at 0.5; in brackets one column at its threshold.\n")
    print("| label | found | false alarms on film | on other made clips |\n|---|---|---|---|")
    for label in LABELS:
        groups = (
            [row for row in of_half if row.truth(label)],
            [row for row in of_half if row.kind == "ordinary"],
            [row for row in of_half if row.kind != "ordinary" and row.truth(label) is False],
        )
        cells = (f"{count(group, label)} ({count(group, label, baseline)})" for group in groups)
        print(f"| {label} | {' | '.join(cells)} |")
    print("\n| kind | " + " | ".join(LABELS) + " |\n|---|" + "---|" * len(LABELS))
    for kind in TRUTH:
        of_kind = [row for row in of_half if row.kind == kind]
        if of_kind:
            wanted = [
                ("**{}**" if label in TRUTH[kind][0] else "({})" if label in TRUTH[kind][1] else "{}")
                for label in LABELS
            ]
            cells = (form.format(count(of_kind, label)) for form, label in zip(wanted, LABELS, strict=True))
            print(f"| {kind}{' *' if kind in HELD_ONLY else ''} | {' | '.join(cells)} |")
    print("\nBold: it has the label. In brackets: it may have it. *: no such kind was fitted to.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="print the weights, and report with these")
    parser.add_argument("--rows", type=Path, help="file for what was measured")
    arguments = parser.parse_args()
    if arguments.rows and arguments.rows.is_file():
        rows = [Row(**row) for row in json.loads(arguments.rows.read_text())]
    else:
        measure = Measure()
        rows = [row for clip in all_clips() for row in measure(clip)]
        print(f"{len(rows)} clips, {time.process_time():.0f} CPU s; labels {measure.seconds / len(rows):.3f} a clip.\n")
        if arguments.rows:
            arguments.rows.write_text(json.dumps([asdict(row) for row in rows], default=float))
    whole = [row for row in rows if not row.kind.endswith(LONGEST)]
    if arguments.fit:
        for label in LABELS:
            found = fit([row for row in whole if row.half == "fit"], label)
            CLASSIFIERS[f"label_{label}"] = found
            print(f'    "label_{label}": Classifier({found.bias}, {found.weights}),')
    for half in ("fit", "held"):
        report([row for row in whole if row.half == half], half)
    print("\nOf spliced stills in which shots were found, the longest shot; it is one still, moved or not.\n")
    print("| kind | label_disconnected_motion |\n|---|---|")
    cut = [row for row in rows if row.kind.endswith(LONGEST) and row.half == "held"]
    for kind in dict.fromkeys(row.kind for row in cut):
        print(f"| {kind} | {count([row for row in cut if row.kind == kind], 'disconnected_motion')} |")


if __name__ == "__main__":
    main()
