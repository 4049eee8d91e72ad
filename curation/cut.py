"""Cutting clips out of a video: packets copied and checked, encoded where that cannot be, or not at all.

Runs in the guarded child process: the file is untrusted, decoding is single-threaded, and a clip that cannot be made is
a result with its reason, never an exception.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from curation.container import NotVideo
from curation.media.encode import encode_clips
from curation.media.guard import MEDIA_ERRORS, Guard, fault
from curation.media.remux import CannotCopy, Run, copy_clips, plan, survey
from curation.media.still import Still, read_still
from curation.media.verify import verify_copy
from curation.video import Span
from orchestration.config import Config


class CutConfig(Config):
    """How clips become files."""

    mode: Literal["copy", "encode", "none"] = "copy"  # none: no files; spans are read from the source
    audio: bool = False  # keep the sound
    verify: Literal["ends", "full"] = "ends"  # what a copy must prove; full decodes every frame (curation.media.verify)
    # Encoder for what cannot be copied: libx264, libx265, or h264_nvenc and hevc_nvenc on an NVIDIA GPU.
    codec: Literal["libx264", "libx265", "h264_nvenc", "hevc_nvenc"] = "libx264"
    quality: int = 18  # CRF (x264, x265) or CQ (NVENC): lower is better and larger
    preset: str = ""  # of the encoder; empty: veryfast, or p4 with NVENC
    gop: int = 48  # frames between keyframes at most: how far a reader has to decode to reach a frame


@dataclass(frozen=True)
class CutRequest:
    """One clip to cut, as the scan saw it. Times are in the video stream's time base."""

    span: Span  # by decoded-frame index
    start_pts: int | None  # timestamp of the first frame; None where the file has none
    end_pts: int | None  # timestamp at which the last frame ends
    first_hash: int  # container.frame_hash of the first frame
    last_hash: int
    frames_hash: str  # XXH3-128 over all frames' hashes as little-endian uint64
    target: Path


@dataclass
class CutResult:
    """What became of a request. `cut` is none where no file was made."""

    cut: Literal["copy", "encode", "none"]
    reason: str | None = None  # why it is not a copy; None for copies and where cutting is off
    verified: str = ""  # what was proven of a copy: ends or full; of an encoded clip: count
    suffix: str = ".mp4"  # of the file, which is the request's target with this suffix


def cut_clips(
    source: Path, requests: Sequence[CutRequest], config: CutConfig, guard: Guard | None = None
) -> list[CutResult]:
    """Make the clips of one file, in the order of `requests`. A picture's clip is the file itself, byte by byte.

    Never raises for what the file holds; a full disk is an OSError.
    """
    guard = guard or Guard()
    if config.mode == "none":
        return [CutResult("none") for _ in requests]
    try:
        still = read_still(source)
    except NotVideo as error:
        return [CutResult("none", str(error)) for _ in requests]
    if still is not None:
        return [_copy_still(source, still, request.target) for request in requests]
    results: dict[int, CutResult] = {}
    reasons = dict.fromkeys(range(len(requests)), "configured")
    if config.mode == "copy":
        results, reasons = _copy(source, requests, config, guard)
    if reasons:
        clips = sorted(reasons)
        outcomes = encode_clips(source, [requests[clip] for clip in clips], config, guard)
        for clip, failure in zip(clips, outcomes, strict=True):
            if failure is None:
                results[clip] = CutResult("encode", reasons[clip], "count")
            else:
                results[clip] = CutResult("none", f"{reasons[clip]}; {failure}")
    return [results[clip] for clip in range(len(requests))]


def _copy_still(source: Path, still: Still, target: Path) -> CutResult:
    try:
        shutil.copyfile(source, target.with_suffix(still.suffix))
    except OSError as error:
        return CutResult("none", fault(error), suffix=still.suffix)
    return CutResult("copy", None, "full", still.suffix)


def _copy(
    source: Path, requests: Sequence[CutRequest], config: CutConfig, guard: Guard
) -> tuple[dict[int, CutResult], dict[int, str]]:
    """Copy what can be copied: results of the copies, and reasons for the others."""
    runs: dict[int, Run] = {}
    reasons: dict[int, str] = {}
    try:
        until = max((request.end_pts for request in requests if request.end_pts is not None), default=None)
        surveyed = survey(source, until, max(request.span.end for request in requests), guard)
        for clip, request in enumerate(requests):
            try:
                runs[clip] = plan(surveyed, request)
            except CannotCopy as error:
                reasons[clip] = str(error)
        clips = list(runs)
        failures = copy_clips(source, [requests[c] for c in clips], [runs[c] for c in clips], config.audio, guard)
    except MEDIA_ERRORS as error:
        reason = fault(error)
        return {}, {clip: reasons.get(clip, reason) for clip in range(len(requests))}
    reasons |= {clip: failure for clip, failure in zip(clips, failures, strict=True) if failure is not None}
    written = [clip for clip in clips if clip not in reasons]
    results: dict[int, CutResult] = {}
    for clip in written:
        failure, checked = verify_copy(requests[clip], runs[clip], config.verify == "full", guard)
        if failure is None:
            results[clip] = CutResult("copy", None, checked)
        else:
            requests[clip].target.unlink(missing_ok=True)
            reasons[clip] = f"copy did not verify: {failure}"
    return results, reasons
