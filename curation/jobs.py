"""What the sandbox runs, as functions of plain JSON values. `send` reports progress."""

from __future__ import annotations

import io
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np

from curation import decode as decoding
from curation.container import MAX_PIXELS
from curation.cut import CutConfig, CutRequest, cut_clips
from curation.media.guard import Guard
from curation.plan import MeasurePlan
from curation.read import choose_key_frames, key_frames, read_clip
from curation.report import previews
from curation.scorers import AnyScorer
from curation.shots.adaptive import Adaptive
from curation.stills import StillsMeter
from curation.video import Frame, Span, VideoInfo


def warm() -> None:
    """Let libraries do now, by measuring two made-up frames, what they leave to their first use: jobs are forked."""
    cv2.setNumThreads(1)
    info = VideoInfo("h264", "mov", 320, 192, 1.0, 0, 1.0, "yuv420p", 8, False, False, "")
    plan = MeasurePlan(shots=Adaptive(), scorers=tuple(scorer() for scorer in get_args(get_args(AnyScorer)[0])))
    meters = [*plan.meters(info).values(), StillsMeter(io.BytesIO())]
    noise = np.random.default_rng(0)
    for index in range(2):
        y, u, v = (noise.integers(16, 235, shape, np.uint8) for shape in ((192, 320), (96, 160), (96, 160)))
        for meter in meters:
            meter.see(Frame(index, float(index), (y, u, v), info))
    for meter in meters:
        meter.finish()


def probe(send: Any, path: str) -> dict[str, Any]:
    return decoding.probe(path)


def decode(
    send: Any, path: str, folder: str, config: dict[str, Any], plan: dict[str, Any], images: bool = True
) -> dict[str, Any]:
    cv2.setNumThreads(1)
    settings = decoding.DecodeConfig.model_validate(config)
    return decoding.decode(Path(path), Path(folder), settings, MeasurePlan.model_validate(plan), send, images)


def cut(
    send: Any, path: str, config: dict[str, Any], requests: list[dict[str, Any]], max_pixels: int = MAX_PIXELS
) -> list[dict[str, Any]]:
    cv2.setNumThreads(1)
    wanted = [
        CutRequest(**{**request, "span": Span(*request["span"]), "target": Path(request["target"])})
        for request in requests
    ]
    results = cut_clips(Path(path), wanted, CutConfig.model_validate(config), Guard(send, max_pixels))
    return [asdict(result) for result in results]


def preview(send: Any, row: dict[str, Any], root: str, target: str) -> None:
    """Writes what report.previews.preview makes of a clip to `target`."""
    cv2.setNumThreads(1)
    Path(target).write_bytes(previews.preview(row, partial(read_clip, root=root)))


def frames(
    send: Any, row: dict[str, Any], root: str, indices: list[int], keys: bool, size: list[int], target: str
) -> list[int]:
    """Writes frames of a clip to `target`, [T, H, W, 3] uint8 without a header, and returns their indices.

    `keys`: rather than `indices` as many of the key frames, where the packets tell which those are.
    """
    cv2.setNumThreads(1)
    if keys and (found := key_frames(row, root=root)):
        indices = choose_key_frames(found, int(row["end_frame"]) - int(row["start_frame"]), len(indices))
    pictures = read_clip(row, indices, (size[0], size[1]), root=root, beat=Guard(send).beat)
    Path(target).write_bytes(pictures.data)  # numpy's tofile does not tell a full disk
    return indices
