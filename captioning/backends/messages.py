"""How a request becomes chat messages, and what makes its frames unfit: the same for every backend that has pictures.

The prompt's text comes before the pictures, so that requests of one prompt begin with the same tokens: servers compute
a shared prefix once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from captioning.backend import Request

CLOCK = 1000  # ticks a second: frames' times are given to models as whole numbers of these


def chat(prompt: str, pictures: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """One user's message: the text, then `pictures`, content parts in the backend's own form."""
    return [{"role": "user", "content": [{"type": "text", "text": prompt}, *map(dict, pictures)]}]


def unfit(request: Request) -> str:
    """Why no model can take this request, in words; empty where nothing is wrong."""
    if not request.prompt.strip():
        return "the prompt is empty"
    if len(request.seconds) != len(request.frames):
        return f"{len(request.frames)} frames, but {len(request.seconds)} times"
    for number, frame in enumerate(request.frames):
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            kind = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
            return f"frame {number} is not [H, W, 3] uint8 but {kind}"
        if not frame.size:
            return f"frame {number} is empty: {list(frame.shape)}"
        if frame.shape != request.frames[0].shape:
            return f"frame {number} is {list(frame.shape[:2])}, the first one {list(request.frames[0].shape[:2])}"
    times = np.asarray(request.seconds, float)
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        return "the frames' times are not in order"
    return ""


def video(request: Request) -> tuple[np.ndarray, dict[str, Any]]:
    """The frames as one video, and its metadata as transformers' VideoMetadata and vLLM take it.

    Returns ([T, H, W, 3] uint8, metadata). `frames_indices / fps` is each frame's time in seconds, in steps of a
    millisecond, however unevenly they lie; `total_num_frames` is such that the mean rate comes out right for the models
    that know nothing else (Qwen2.5-VL).
    """
    times = np.asarray(request.seconds, float)
    ticks = [round(float(second) * CLOCK) for second in times - times[0]]
    count = len(ticks)
    each = ticks[-1] / (count - 1) if count > 1 and ticks[-1] else CLOCK
    total = max(count, round(count * each))
    height, width = request.frames[0].shape[:2]
    metadata = {
        "total_num_frames": total,
        "fps": float(CLOCK),
        "duration": total / CLOCK,
        "frames_indices": ticks,
        "height": height,
        "width": width,
    }
    return np.stack(list(request.frames)), metadata
