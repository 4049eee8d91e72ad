"""Windows: squares of kept clips, decoded once, that batches are cut out of.

    OUTPUT/windows/pixels.bin    uint8 [windows, frames, size, size, 3], RGB
    OUTPUT/windows/stills.bin    uint8 [pictures, 1, size, size, 3], of clips that are pictures
    OUTPUT/windows/index.json    written last: what each is of, and of which settings

Which windows there are is a pure function of the data set's kept clips, the settings and the seed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from captioning.job import FramePlan
from captioning.prefetch import Prefetcher
from captioning.todo import chosen, clip_rows
from curation.read import shown_size
from orchestration.errors import ConfigError, RushesError
from orchestration.progress import Progress
from orchestration.runs import log
from orchestration.storage import Storage
from train.held_out import is_held_out
from train.vae.config import TrainVaeConfig

PIXELS, STILLS, INDEX = "pixels.bin", "stills.bin", "index.json"
MOST_FRAMES = 1024  # of a clip that are decoded at once: what they take of memory is bounded

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Windows:
    """What a training draws from. pixels: uint8 [N, T, S, S, 3]; stills: [M, 1, S, S, 3]; both mapped, not loaded.

    learnt, held_out: which of the N windows are for what. clips: of each window.
    """

    pixels: np.ndarray
    stills: np.ndarray
    learnt: np.ndarray
    held_out: np.ndarray
    clips: list[str]


def load_windows(config: TrainVaeConfig) -> Windows:
    """The windows that `make_windows` left in the output folder. Raises RushesError where they are none or damaged."""
    folder = Path(config.output) / "windows"
    try:
        index = json.loads((folder / INDEX).read_text())
        videos, stills = (_mapped(folder / name, index[name]) for name in (PIXELS, STILLS))
    except (OSError, ValueError, KeyError) as error:
        raise RushesError(f"{folder} is damaged ({error}): remove it, and it is made again") from error
    held = np.array([is_held_out(clip, config.windows.held_out) for clip in index["clips"]], bool)
    return Windows(videos, stills, np.flatnonzero(~held), np.flatnonzero(held), index["clips"])


def make_windows(config: TrainVaeConfig, console: Console) -> None:
    """Decode the windows, unless those of the same settings and clips are there. Raises RushesError without any."""
    storage = Storage(config.dataset)
    folder = Path(config.output) / "windows"
    wanted = chosen(storage)
    about = {
        "windows": config.windows.model_dump(mode="json"),
        "seed": config.seed,
        "clips": hashlib.sha256("\n".join(sorted(wanted)).encode()).hexdigest(),
    }
    if _made(folder) == about:
        return
    skipped: Counter[str] = Counter()
    spans, rows = _choose(config, clip_rows(storage, wanted), skipped)
    videos = [row["clip_id"] for row in rows if not row.get("image")]
    if not videos:
        why = "; ".join(f"{count:,} {reason}" for reason, count in skipped.items()) or "all are pictures"
        raise ConfigError(
            f"dataset: no kept clip of {storage.uri} gives a window ({why}). Lower windows.frames or "
            "windows.size, or add longer or larger videos"
        )
    if all(is_held_out(clip, config.windows.held_out) for clip in videos):
        raise ConfigError(
            f"windows.held_out: all {len(videos)} clips are held out, nothing is left to learn from: lower it"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    clips: list[str] = []
    found = {PIXELS: 0, STILLS: 0}
    with (
        (folder / PIXELS).open("wb") as pixels,
        (folder / STILLS).open("wb") as pictures,
        Progress("Windows", sum(map(len, spans.values())), "windows", 0, console) as progress,
        Prefetcher(config.dataset, config.prefetch, folder) as read,
    ):
        done = 0
        plans = (plan for row in rows for plan in _plans(config, row, spans[row["clip_id"]]))
        for row, frames in read(plans):
            if frames.reason:
                skipped[frames.reason] += 1
                continue
            shown = np.stack(list(frames.frames))
            count = 1 if row.get("image") else config.windows.frames
            name, file = (STILLS, pictures) if row.get("image") else (PIXELS, pixels)
            for at in range(0, len(shown), count):
                for square in _squares(config, row["clip_id"], frames.indices[at], shown[at : at + count]):
                    file.write(square.tobytes())
                    found[name] += 1
                    if name == PIXELS:
                        clips.append(row["clip_id"])
                done += 1
            progress.update(done, 0, 0, {"squares": sum(found.values())}, [])
    for reason, count in skipped.most_common():
        log.warning("%d clips or parts of clips give no window: %s", count, reason)
        console.print(f"{count:,} clips or parts of clips give no window: {reason}", soft_wrap=True)
    if all(is_held_out(clip, config.windows.held_out) for clip in clips):
        raise RushesError(f"dataset: no clip of {storage.uri} that is learnt from gives a window: {dict(skipped)}")
    size = config.windows.size
    shapes = {PIXELS: [found[PIXELS], config.windows.frames, size, size, 3], STILLS: [found[STILLS], 1, size, size, 3]}
    (folder / INDEX).write_text(json.dumps({"about": about, **shapes, "clips": clips}))


def _choose(
    config: TrainVaeConfig, rows: Iterator[Row], skipped: Counter[str]
) -> tuple[dict[str, list[int]], list[Row]]:
    """First frames of windows by clip, and the rows of those clips in the order they are read."""
    candidates: list[tuple[bytes, str, int]] = []
    by_id: dict[str, Row] = {}
    for row in rows:
        frames = 1 if row.get("image") else config.windows.frames
        length = 1 if row.get("image") else int(row["end_frame"]) - int(row["start_frame"])
        size = _size(row, max(config.windows.short_sides))
        if length < frames:
            skipped[f"shorter than {frames} frames"] += 1
        elif size is None or min(size) < config.windows.size:
            skipped[f"smaller than {config.windows.size} px, or of unknown size"] += 1
        else:
            by_id[row["clip_id"]] = row
            for start in range(0, length - frames + 1, frames):
                order = hashlib.sha256(f"{config.seed} {row['clip_id']} {start}".encode()).digest()
                candidates.append((order, row["clip_id"], start))
    taken: dict[str, list[int]] = defaultdict(list)
    for _, clip, start in sorted(candidates)[: max(1, config.windows.count // config.windows.squares)]:
        taken[clip].append(start)
    return {clip: sorted(starts) for clip, starts in taken.items()}, [by_id[clip] for clip in sorted(taken)]


def _plans(config: TrainVaeConfig, row: Row, starts: list[int]) -> Iterator[tuple[Row, FramePlan]]:
    """What is read of a clip: all its windows, as many at once as memory should hold."""
    frames = 1 if row.get("image") else config.windows.frames
    at_once = max(1, MOST_FRAMES // frames)
    for number in range(0, len(starts), at_once):
        some = starts[number : number + at_once]
        indices = tuple(start + i for start in some for i in range(frames))
        sides = config.windows.short_sides
        short = sides[_draw(config, row["clip_id"], some[0], len(sides))[0]]
        size = _size(row, short) or (0, 0)
        if min(size) < config.windows.size:  # this one of the short sides is too small
            size = _size(row, config.windows.size) or (0, 0)
        yield row, FramePlan(indices, tuple(float(index) for index in indices), size)


def _size(row: Row, short: int) -> tuple[int, int] | None:
    """(height, width) of pictures whose shorter side is `short`, or less where they are smaller; aspect kept."""
    try:
        height, width = shown_size(row)
    except ValueError:
        return None
    scale = min(1.0, short / min(height, width))
    return round(height * scale), round(width * scale)


def _squares(config: TrainVaeConfig, clip: str, start: int, frames: np.ndarray) -> Iterator[np.ndarray]:
    """[T, H, W, 3] -> squares [T, S, S, 3], the place of each drawn by clip and frame."""
    size = config.windows.size
    for number in range(config.windows.squares):
        y, x = _draw(config, f"{clip} {number}", start, frames.shape[1] - size + 1, frames.shape[2] - size + 1)
        yield np.ascontiguousarray(frames[:, y : y + size, x : x + size])


def _draw(config: TrainVaeConfig, name: str, number: int, *limits: int) -> list[int]:
    """A number below each limit, equal each time."""
    digest = hashlib.sha256(f"{config.seed} {name} {number}".encode()).digest()
    return [int(n) for n in np.random.default_rng(list(digest)).integers(0, limits)]


def _made(folder: Path) -> Any:
    """What the windows in a folder are of; None where they are none, or a kill cut them off."""
    try:
        return json.loads((folder / INDEX).read_text())["about"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mapped(path: Path, shape: list[int]) -> np.ndarray:
    if path.stat().st_size != int(np.prod(shape)):
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, not those of {shape}")
    return np.memmap(path, np.uint8, "r", shape=tuple(shape)) if shape[0] else np.zeros(shape, np.uint8)
