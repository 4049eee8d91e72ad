"""Near-duplicates by embedding: copies that are found, other shots that are not. One command:

    python benchmarks/duplicates.py [--set KEY=VALUE ...]

Films are scanned as `rushes curate` would (cuts, black bars, embedding; one worker without Ray). Clips of them are then
copied in the ways in which copies turn up: encoded again, scaled, cropped, cut shorter, with a logo, recoloured. Each
copy is scanned as a file of its own, so its pictures are taken at other instants than the original's.

Recall: copies that are as similar to their original as the threshold asks. Precision: pairs of clips of the films that
are called alike, by what they have in common. That is found without embeddings, from the frames themselves (64 x 36
pixels): frames that the trailer shares with the film, clips with no cut between them. The default threshold was chosen
on clips of the first half of the film; copies are made of clips of the second half and of other videos.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from curation.config import CurateConfig
from curation.dataset.publish import publish
from curation.dataset.records import embeddings
from curation.duplicates.choose import ranked
from curation.duplicates.config import NearDuplicates
from curation.duplicates.search import rounded
from curation.duplicates.vectors import gather
from curation.ingest import list_input
from curation.samples import fetch
from curation.scan import ScanWorker
from orchestration.config import parse_config
from orchestration.storage import Storage
from orchestration.tables import snapshot

SAMPLES = Path(__file__).parents[1] / ".cache" / "samples"
THRESHOLDS = (0.95, 0.9, 0.85, 0.8, 0.75)
HALF = 300.0  # s of bbb.mp4; earlier clips were tuned on
COPIED = 16  # clips of the film
EVEN = "trunc({}/2)*2"
KINDS = {  # ffmpeg's filters and encoder settings
    "encoded again (x264, crf 28)": ("null", "-crf 28"),
    "encoded again (x264, crf 40)": ("null", "-crf 40"),
    "other codec (MPEG-4, q 12)": ("null", "-c:v mpeg4 -q:v 12"),
    "scaled to a third": (f"scale={EVEN.format('iw/3')}:-2", "-crf 26"),
    "cropped by 10 %": (f"crop={EVEN.format('iw*0.9')}:{EVEN.format('ih*0.9')}", ""),
    "cropped by 20 %": (f"crop={EVEN.format('iw*0.8')}:{EVEN.format('ih*0.8')}", ""),
    "first fifth cut off": ("trim=start={fifth},setpts=PTS-STARTPTS", ""),
    "last fifth cut off": ("trim=end={rest}", ""),
    "logo and a line of captions": (
        "drawbox=x=iw*0.78:y=ih*0.06:w=iw*0.16:h=ih*0.12:color=white:t=fill,"
        "drawbox=x=iw*0.1:y=ih*0.85:w=iw*0.8:h=ih*0.06:color=yellow@0.8:t=fill",
        "",
    ),
    "brighter, more colour": ("eq=brightness=0.12:contrast=1.15:saturation=1.4", ""),
    "darker": ("eq=brightness=-0.12:gamma=0.8", ""),
    "warmer": ("colorbalance=rs=.2:gs=.05:bs=-.2", ""),
    "black and white": ("hue=s=0", ""),
    "mirrored": ("hflip", ""),
    "letterboxed": (f"pad=iw:{EVEN.format('ih*1.33')}:0:(oh-ih)/2", ""),
    "15 frames a second": ("fps=15", ""),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the embedding")
    settings = dict(item.split("=", 1) for item in parser.parse_args().set)
    videos = [*fetch(SAMPLES, "film"), *fetch(SAMPLES, "camera"), *fetch(SAMPLES, "small")]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        films = Scan(root / "films", videos, {"kind": "adaptive"}, settings)
        report_others(films)
        made = copies_of(films, root)
        report_copies(Scan(root / "copies", list(made), {"kind": "none"}, settings), made)


class Scan:
    """A dataset of videos: its clips, in order, and the cosine of each two of them."""

    def __init__(self, output: Path, videos: list[Path], shots: dict, settings: dict[str, str]):
        scorers = [{"kind": "borders"}, {"kind": "sharpness"}, {"kind": "embedding", **settings}]
        data = {"input": "none", "output": str(output), "shots": shots, "scorers": scorers, "cut": {"mode": "none"}}
        config = parse_config(CurateConfig, data, "the benchmark")
        scanner = ScanWorker(config, str(output / "scratch"))()
        for video in videos:
            (item,) = list_input(str(video))
            receipt = scanner({"listing_id": item.listing_id, **item._asdict(), "run": 1}, lambda frames, label: None)
            assert receipt["status"] == "ok", receipt
        storage = Storage(output)
        publish(storage, config.scorers)
        uris = {row["video_id"]: Path(row["uri"]) for table in snapshot(storage, "videos") for row in table.to_pylist()}
        rows = {row["clip_id"]: row for table in snapshot(storage, "clips") for row in table.to_pylist()}
        with tempfile.TemporaryDirectory() as folder:
            vectors = gather(embeddings(storage).read(["clips"]), Path(folder))
            self.vectors = vectors.rows(slice(None))
        self.clips = [rows[name] | {"path": uris[rows[name]["video_id"]]} for name in vectors.clip_ids.to_pylist()]

    def alike(self, other: Scan) -> np.ndarray:
        return rounded(self.vectors @ other.vectors.T)


def copies_of(films: Scan, root: Path) -> dict[Path, tuple[Path, str]]:
    """File of an original (up to 4 s of a clip, 640 pixels wide) or of a copy of one → (its original, kind)."""
    film = [clip for clip in films.clips if clip["path"].name == "bbb.mp4" and clip["start_s"] >= HALF]
    film = sorted((clip for clip in film if clip["duration_s"] >= 1.5), key=lambda clip: clip["start_s"])
    film = [film[i] for i in np.linspace(0, len(film) - 1, COPIED).round().astype(int)]
    other = [clip for clip in films.clips if clip["path"].name in ("bikes.mp4", "carphone_pristine.mp4")]
    made = {}
    for clip in (*film, *other):
        start, length = clip["start_s"] + 0.5 / 24, min(clip["duration_s"], 4.0) - 1 / 24
        original = root / f"{clip['clip_id']}.mp4"
        made[original] = original, ""
        part = ("-ss", f"{start:.4f}", "-t", f"{length:.4f}", "-i", str(clip["path"]))
        encode(*part, "-vf", "scale='min(640,iw)':-2", "-crf", "12", target=original)
        for number, (kind, (picture, settings)) in enumerate(KINDS.items()):
            path = root / f"{clip['clip_id']}-{number}.mp4"
            picture = picture.format(fifth=length / 5, rest=length * 4 / 5)
            encode("-i", str(original), "-vf", picture, *settings.split(), target=path)
            made[path] = original, kind
    return made


def encode(*arguments: str, target: Path) -> None:
    codec = () if "-c:v" in arguments else ("-c:v", "libx264", "-preset", "veryfast")
    ffmpeg(*arguments, "-an", *codec, "-pix_fmt", "yuv420p", str(target))


def ffmpeg(*arguments: str) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def report_copies(copies: Scan, made: dict[Path, tuple[Path, str]]) -> None:
    cosine, near = copies.alike(copies), NearDuplicates()
    places = {clip["path"]: place for place, clip in enumerate(copies.clips)}
    found: dict[str, list[float]] = defaultdict(list)
    stays: dict[str, int] = defaultdict(int)
    for path, (original, kind) in made.items():
        if not kind:
            continue
        pair = places[original], places[path]
        found[kind].append(float(cosine[pair]))
        values = [np.array([copies.clips[place].get(name) for place in pair], float) for name in near.columns]
        stays[kind] += int(ranked(values, [higher for _, higher in near.order], np.zeros(2, bool))[0] == 0)
    everything = np.concatenate([np.array(values) for values in found.values()])
    print(f"\nCopies that are found: of {len(made) - len(everything)} clips, one of each kind\n")
    table("copy", [*(f">= {limit}" for limit in THRESHOLDS), "lowest", "the original is the better one"])
    for kind in KINDS:
        values = np.array(found[kind])
        cells = [f"{share(values, limit):.0%}" for limit in THRESHOLDS]
        row(kind, [*cells, f"{values.min():.3f}", f"{stays[kind] / len(values):.0%}"])
    total = f"{sum(stays.values()) / len(everything):.0%}"
    row("all", [*(f"{share(everything, limit):.0%}" for limit in THRESHOLDS), f"{everything.min():.3f}", total])


def report_others(films: Scan) -> None:
    """Pairs of clips of the films by what they have in common."""
    cosine, look = films.alike(films), Look(films)
    found: dict[str, list[float]] = defaultdict(list)
    highest: dict[str, str] = {}
    for a in range(len(films.clips)):
        for b in range(a + 1, len(films.clips)):
            kind = look.relation(a, b)
            if not found[kind] or cosine[a, b] > max(found[kind]):
                highest[kind] = ", ".join(
                    f"{c['path'].name} {c['start_s']:.0f} s" for c in (films.clips[a], films.clips[b])
                )
            found[kind].append(float(cosine[a, b]))
    print(f"\nPairs of the {len(films.clips)} clips of the films that are called alike\n")
    table("clips", ["pairs", *(f">= {limit}" for limit in THRESHOLDS), "highest", "of"])
    for kind in RELATIONS:
        values = found[kind]
        counts = [f"{(rounded(values) >= rounded(limit)).sum():,}" for limit in THRESHOLDS]
        row(kind, [f"{len(values):,}", *counts, f"{max(values):.3f}", highest[kind]] if values else ["0"])
    drops = [dropped(films, cosine, look, limit) for limit in THRESHOLDS]
    for kind in RELATIONS:
        row(f"dropped clips: {kind}", [str(len(films.clips)), *(str(drop[kind]) for drop in drops), "", ""])


def dropped(films: Scan, cosine: np.ndarray, look: Look, limit: float) -> Counter[str]:
    """How many clips go where the longer one stays, by what they have most in common with one that does."""
    found: Counter[str] = Counter()
    stay: list[int] = []
    for place in sorted(range(len(films.clips)), key=lambda place: -films.clips[place]["duration_s"]):
        alike = [other for other in stay if cosine[place, other] >= rounded(limit)]
        if alike:
            found[min((look.relation(place, other) for other in alike), key=RELATIONS.index)] += 1
        else:
            stay.append(place)
    return found


SAME, TAKE, SCENE, OTHER = RELATIONS = (
    "the same frames in the film and its trailer",
    "parts of one take",
    "other shots of one video or film",
    "of different films",
)
BUNNY = {"bbb.mp4", "trailer_bbb.mp4", "bigbuckbunny.mp4"}
ONE_TAKE = {"vtest.avi", "tree.avi", "cup.mp4", "box.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4"}
STILL = 6.0  # mean difference of 64 x 36 pixels, 8-bit codes, between consecutive frames of one take
EQUAL = 0.995  # correlation of two frames that are the same picture, as graded and encoded twice


class Look:
    """Tells what two clips have in common by their frames, 64 x 36 pixels each."""

    def __init__(self, films: Scan):
        self._clips = films.clips
        scale = "scale=64:36:flags=area"
        self._frames = {
            path: np.frombuffer(
                ffmpeg(
                    "-i",
                    str(path),
                    "-vf",
                    scale,
                    "-fps_mode",
                    "passthrough",
                    "-pix_fmt",
                    "rgb24",
                    "-f",
                    "rawvideo",
                    "-",
                ),
                np.uint8,
            ).reshape(-1, 36 * 64 * 3)
            for path in {clip["path"] for clip in films.clips}
        }

    def relation(self, a: int, b: int) -> str:
        one, two = sorted((self._clips[a], self._clips[b]), key=lambda clip: (clip["path"].name, clip["start_frame"]))
        names = {one["path"].name, two["path"].name}
        if len(names) > 1:
            if not names <= BUNNY:
                return TAKE if all(name.startswith("carphone") for name in names) else OTHER
            return SAME if self._same(one, two) else SCENE
        if names <= ONE_TAKE:
            return TAKE
        return TAKE if self._joined(one, two) else SCENE

    def _joined(self, one: dict, two: dict) -> bool:
        """No cut lies between the two."""
        frames = self._frames[one["path"]][one["end_frame"] - 1 : two["start_frame"] + 1].astype(np.int16)
        return (
            two["start_frame"] - one["end_frame"] < 500 and np.abs(np.diff(frames, axis=0)).mean(axis=1).max() < STILL
        )

    def _same(self, one: dict, two: dict) -> bool:
        """A frame of the shorter clip, from its middle half, is among those of the other."""
        if one["duration_s"] > two["duration_s"]:
            one, two = two, one
        start, end = one["start_frame"], one["end_frame"]
        some = _pattern(self._frames[one["path"]][[start + (end - start) * k // 8 for k in (2, 4, 6)]])
        others = _pattern(self._frames[two["path"]][two["start_frame"] : two["end_frame"]])
        return float((some @ others.T).max()) >= EQUAL


def _pattern(frames: np.ndarray) -> np.ndarray:
    """[n, pixels] float32 without brightness and contrast: their products are correlations."""
    pattern = frames - frames.mean(axis=1, keepdims=True, dtype=np.float32)
    return pattern / np.maximum(np.linalg.norm(pattern, axis=1, keepdims=True), 1e-6)


def share(values: np.ndarray, limit: float) -> float:
    return float((rounded(values) >= rounded(limit)).mean())


def table(first: str, names: list[str]) -> None:
    row(first, names)
    print("|---" * (len(names) + 1) + "|")


def row(first: str, cells: list[str]) -> None:
    print(f"| {first} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
