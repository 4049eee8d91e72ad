"""Is what `rushes curate` left of the hostile files true? Through the tables and read_clip, file by file."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.dataset as ds
from av.error import FFmpegError
from hostile_reel import number_of
from hostile_truth import Made

from curation.container import frame_hash
from curation.fetch import uri_of
from curation.media.pixels import View
from curation.media.verify import frames_hash
from curation.read import ClipUnreadable, read_clip

ALIKE_DB = 20.0  # of an encoded clip's pictures to those that were encoded
MOST_READ = 40  # clips of a file whose pictures are read; of others the scan's hashes are compared
REMEMBERED = 100  # frames
UNTRUE = "its frames are not frames of the source in order, without a gap and undamaged"
FEWEST = 0.3  # share of an undamaged file's frames that clips must hold
# What a reason may not say: a fault of ours, or a decoder that took more than it should.
OURS = re.compile(r"Traceback|File \"|internal error|crashed|hung|too slow|ended early|\b\w+Error\b")


@dataclass
class Verdict:
    """What became of a file: ok, failed, duplicate or missing, and everything that is wrong with that."""

    made: Made
    status: str
    reason: str = ""
    clips: int = 0  # kept ones
    frames: int = 0  # in them
    complaints: list[str] = field(default_factory=list)
    unseen: int = 0  # clips with damage that nothing in the file's format gives away


class Reference:
    """An undamaged file as PyAV decodes it, with nothing of rushes in between but the hash."""

    def __init__(self, path: str):
        self.path = path
        hashes: list[int] = []
        self.numbers: list[int | None] = []  # that the frames carry
        for frame in self._frames():
            hashes.append(frame_hash(frame))
            self.numbers.append(number_of(frame.to_ndarray(format="rgb24")))
        self.hashes = np.array(hashes, np.uint64)  # [N]
        self._shown: dict[View, list[np.ndarray]] = {}

    def _frames(self) -> Iterator[av.VideoFrame]:
        with av.open(self.path, metadata_errors="replace") as container:
            yield from container.decode(video=_main(container))

    def find(self, length: int, wanted: str) -> Iterator[int]:
        """Where `length` frames with that frames_hash begin."""
        return (start for start in range(len(self.hashes) - length + 1) if self.is_at(start, length, wanted))

    def is_at(self, start: int, length: int, wanted: str) -> bool:
        return frames_hash(self.hashes[start : start + length]) == wanted

    def pictures(self, start: int, length: int, view: View) -> list[np.ndarray]:
        """Those of the first REMEMBERED frames are rendered once."""
        if start + length > REMEMBERED:
            return [view.render(frame) for frame in itertools.islice(self._frames(), start, start + length)]
        if view not in self._shown:
            self._shown[view] = [view.render(frame) for frame in itertools.islice(self._frames(), REMEMBERED)]
        return self._shown[view][start : start + length]


@functools.lru_cache(maxsize=8)
def reference(path: str) -> Reference:
    return Reference(path)


def _main(container: Any) -> int:
    """Which of the video streams players show."""
    default = [bool(stream.disposition.value & 1) for stream in container.streams.video]
    return default.index(True) if True in default else 0


def judge(files: Sequence[Made], folder: Path, dataset: Path) -> list[Verdict]:
    """A verdict a file; `folder` has raw/ and masters/."""
    videos = {row["uri"]: row for row in _rows(dataset / "videos")}
    kept = {row["clip_id"] for row in _rows(dataset / "selection.parquet") if row["kept"]}
    clips = defaultdict(list)
    for row in _rows(dataset / "clips"):
        if row["clip_id"] in kept:
            clips[row["video_id"]].append(row)
    verdicts = []
    for made in sorted(files, key=lambda made: made.reference):  # so that each reference is decoded once
        video = videos.get(uri_of(os.path.abspath(folder / "raw" / made.name)))
        if video is None:
            verdicts.append(Verdict(made, "missing", complaints=["no row"]))
            continue
        mine: list[dict[str, Any]] = []
        if video["status"] == "ok":
            mine = sorted(clips[video["video_id"]], key=lambda row: row["start_frame"])
        verdict = Verdict(made, video["status"], video["reason"] or "", len(mine))
        verdict.frames = sum(row["end_frame"] - row["start_frame"] for row in mine)
        verdict.complaints += _row(made, video)
        wrong = _clips(made, video, mine, folder, dataset, verdict.frames)
        unseen = [text for text in wrong if made.unseen and text.endswith(UNTRUE)]  # no other fault is forgiven
        verdict.unseen = len(unseen)
        verdict.complaints += [text for text in wrong if text not in unseen]
        verdicts.append(verdict)
    return verdicts


def _rows(path: Path) -> list[dict[str, Any]]:
    return ds.dataset(path, format="parquet").to_table().to_pylist()


def _row(made: Made, video: dict[str, Any]) -> list[str]:
    status, reason = video["status"], video["reason"]
    found = []
    if status not in {"either": ("ok", "failed"), "duplicate": ("duplicate", "ok")}.get(made.expect, (made.expect,)):
        found.append(f"is {status} ({reason}), not {made.expect}")
    if status == "failed":
        if not reason or len(reason) > 300 or "\n" in reason or OURS.search(reason):
            found.append(f"the reason is for nobody: {reason!r}")
    elif reason:
        found.append(f"a reason without a failure: {reason}")
    if status == "ok" and made.expect == "ok":
        if made.size and made.size != (video["width"], video["height"]):
            found.append(f"size {video['width']}x{video['height']}, not {made.size}")
        if made.rotation != video["rotation"]:
            found.append(f"rotation {video['rotation']}, not {made.rotation}")
        if made.seconds and abs(made.seconds - video["duration_s"]) > 0.02 * made.seconds + 0.1:
            found.append(f"{video['duration_s']} s, not {made.seconds}")
        if made.whole and video["frames_decoded"] != len(made.numbers):
            found.append(f"{video['frames_decoded']} frames of {len(made.numbers)}")
    return found


def _clips(
    made: Made, video: dict[str, Any], clips: list[dict[str, Any]], folder: Path, dataset: Path, frames: int
) -> list[str]:
    if made.whole and made.expect == "ok" and video["status"] == "ok" and frames < FEWEST * len(made.numbers):
        return [f"only {frames} frames of {len(made.numbers)} are in clips; {video['decode_errors']} count as damaged"]
    if not clips:
        return []
    if made.kind == "pictures":
        return [] if [clip["image"] for clip in clips] == [True] else ["no clip of one picture"]
    path = folder / "masters" / made.reference if made.reference else folder / "raw" / made.name
    try:
        truth = reference(os.fspath(path))
    except (FFmpegError, IndexError):  # changes of the codec: nothing to compare with
        return []
    found = []
    told = [number for number in truth.numbers if number is not None]
    if made.whole and told and not made.reference and tuple(truth.numbers) != made.numbers:
        found.append("the reference is not what it should be")
    end = 0
    looked_at = {round(place) for place in np.linspace(0, len(clips) - 1, MOST_READ)}
    for place, clip in enumerate(clips):
        if clip["start_frame"] < end or clip["end_frame"] <= clip["start_frame"] or clip["end_s"] <= clip["start_s"]:
            found.append(f"{clip['clip_id']} does not follow the one before")
        end = clip["end_frame"]
        row, read = {**video, **clip}, place in looked_at
        complaint = _clip(made, row, truth, dataset, read)
        if complaint and made.other:
            complaint = _clip(made, row, reference(str(folder / "masters" / made.other)), dataset, read)
        if complaint:
            found.append(f"{clip['clip_id']} ({clip['cut']}): {complaint}")
    return found


def _clip(made: Made, row: dict[str, Any], truth: Reference, dataset: Path, read: bool) -> str:
    length = row["end_frame"] - row["start_frame"]
    wanted = row["frames_hash"]
    if made.whole:
        hidden = truth.numbers.index(made.numbers[0]) if made.reference and made.numbers[0] in truth.numbers else 0
        place = row["start_frame"] + hidden
        start = place if truth.is_at(place, length, wanted) else None
    else:
        start = next(truth.find(length, wanted), None)
    if start is None:
        return UNTRUE
    if not read:
        return ""
    # Black bars may not be cut off here: the numbers are at the edge.
    row = row | dict.fromkeys(("crop_x", "crop_y", "crop_w", "crop_h"))
    try:
        pictures = read_clip(row, root=str(dataset))
    except (ClipUnreadable, ValueError) as error:
        return f"cannot be read: {type(error).__name__}: {error}"
    if len(pictures) != length:
        return f"{len(pictures)} pictures for {length} frames"
    view = View(made.rotation, row["pixel_aspect"] or 1.0, hdr=row["hdr"] or "")
    shown = truth.pictures(start, length, view)
    for index, (picture, wanted) in enumerate(zip(pictures, shown, strict=True)):
        number = number_of(np.rot90(picture, made.rotation // 90))
        if number is not None and number != truth.numbers[start + index]:
            return f"picture {index} is number {number}, not {truth.numbers[start + index]}"
        if number is None and truth.numbers[start + index] is not None and min(picture.shape[:2]) >= 64:
            return f"picture {index} carries no number"
        if row["interlaced"]:  # readers make it progressive
            continue
        if row["cut"] != "encode" and not np.array_equal(picture, wanted):
            return f"picture {index} is not the source's"
        if row["cut"] == "encode" and (db := _psnr(picture, wanted)) < ALIKE_DB:
            return f"picture {index} is unlike the source's, {db:.1f} dB"
    return ""


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    height, width = min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1])  # encoding takes an odd row or column off
    error = float(np.mean((a[:height, :width].astype(np.float32) - b[:height, :width]) ** 2))
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))
