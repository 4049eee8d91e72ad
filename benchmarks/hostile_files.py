"""The set of hostile files: what there is of each kind, and making all of it, or a little, in a folder."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from hostile_damage import Damaged, damages, front_gone, joined
from hostile_foreign import Canary, baits, references
from hostile_lies import bombs, lies
from hostile_masters import H264_LONG, MASTERS, TELLING, Masters
from hostile_names import disguised, named, no_videos
from hostile_odd import odd_files
from hostile_reel import encode, reel
from hostile_truth import Item, Made, written

SMALL_MASTERS = ("h264.mp4", "h264.mkv", "h264.ts", "vp9.webm", "mpeg4.avi", "mpeg2.mpg")
MANY = 15  # files of a kind, of which two are in the small set
CHIEF = (
    *SMALL_MASTERS,
    "hevc.mp4",
    "av1.mp4",
    "vp8.webm",
    "mjpeg.avi",
    "prores.mov",
    "wmv2.wmv",
    "theora.ogv",
    "ffv1.mkv",
)
OTHERS_EACH = 4  # broken copies of a master that is none of the chief ones
HEAVY = 9 * 10**5  # bytes; of larger masters no broken copies are made
HOURS = 10
LONG_KIND = "10 h at 1 frame a second"
NOT_MAKING = ("hostile_check.py", "hostile_tools.py")


def make_files(folder: Path, canary: Canary, small: bool = False, seed: int = 0) -> list[Made]:
    """Makes the set in `folder`/raw, undamaged files in `folder`/masters; what is there from an earlier call stays.

    `small`: one or two of every kind. `seed`: of the broken ones. Files that name the canary are written anew: its
    server's address changes.
    """
    raw, masters = folder / "raw", Masters(folder / "masters")
    _forget_older(folder, seed)
    raw.mkdir(parents=True, exist_ok=True)
    masters.folder.mkdir(exist_ok=True)
    made = []
    seen: set[bytes] = set()
    items = plan(masters, canary, SMALL_MASTERS if small else tuple(MASTERS), seed)
    for facts, make in _few(items) if small else items:
        path = raw / facts.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or facts.name.startswith("foreign/"):
            make(path)
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest in seen and facts.expect != "duplicate":  # two damages came to the same
            path.unlink()
            continue
        seen.add(digest)
        made.append(facts)
    return made


def plan(masters: Masters, canary: Canary, broken: tuple[str, ...], seed: int) -> Iterator[Item]:
    """Every file and what makes it; of the masters `broken` there are damaged copies."""
    yield from disguised(masters)
    yield from odd_files(masters)
    yield from _long()
    for name in broken:
        yield from _damaged(masters, name, seed)
    yield from lies(masters)
    yield from bombs()
    yield from no_videos()
    yield from baits(canary)
    yield from references(canary, masters)
    yield from named(masters)


def _few(items: Iterator[Item]) -> list[Item]:
    """Of each kind the first and, where there are many, the last; none of those that take minutes."""
    kinds: dict[str, list[Item]] = {}
    for item in items:
        kinds.setdefault(item[0].kind, []).append(item)
    kinds.pop(LONG_KIND)
    chosen = [item for found in kinds.values() for item in (found[:1] if len(found) < MANY else (found[0], found[-1]))]
    return [item for item in chosen if item[0].size != (12000, 12000)] + kinds["12000x12000"][:1]


def _long() -> Iterator[Item]:
    count = HOURS * 3600
    numbers = tuple(number % 3000 for number in range(count))
    made = Made("long/10 h.mp4", LONG_KIND, "h264", "ok", numbers, whole=True, seconds=count, size=(64, 32))

    def make(path: Path) -> None:
        pictures = reel(range(3000), (64, 32))
        encode(path, pictures[np.array(numbers)], *H264_LONG, rate=1)

    yield made, make


def _damaged(masters: Masters, name: str, seed: int) -> Iterator[Item]:
    data = masters.data(name)
    if len(data) > HEAVY:
        return
    draw = f"{name}{seed or ''}"
    others = [other for other in MASTERS if Path(other).suffix == Path(name).suffix and other != name]
    found = list(damages(data, draw, 2))
    found += [Damaged("front gone", *front_gone(data, share), f"the first {share:.0%}") for share in (0.1, 0.5)]
    found += [Damaged("halves of two files", *joined(data, masters.data(other)), other) for other in others[:1]]
    if name not in CHIEF:
        found = random.Random(draw).sample(found, OTHERS_EACH)
    numbers = tuple(range(MASTERS[name].frames))
    clean = Made("", "", name, "either", numbers, reference=name)
    for number, broken in enumerate(found):
        told = broken.kind in ("cut off", "tail zeroed") or (broken.kind == "holes" and "zeros" in broken.note)
        made = replace(
            clean,
            name=f"{broken.kind}/{number:02d}.{name}",
            kind=broken.kind,
            other=broken.note if broken.kind.startswith("halves") else "",
            touched=broken.touched,
            unseen=not (told and name in TELLING),
            note=broken.note,
        )
        yield written(made, broken.data)


def _forget_older(folder: Path, seed: int) -> None:
    """What another version of the generator made, or another seed, is made anew."""
    sources = sorted(Path(__file__).parent.glob("hostile_*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources if path.name not in NOT_MAKING)).hexdigest()
    digest, stamp = f"{digest} {seed}", folder / "generator"
    if not stamp.exists() or stamp.read_text() != digest:
        for name in ("raw", "masters"):
            shutil.rmtree(folder / name, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(digest)
