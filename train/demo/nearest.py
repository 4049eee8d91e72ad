"""Which training clip a sampled video looks most like: by EfficientNet's features, and by its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curation.scorers.encoders import DEFAULT, encoder
from latents.show import psnr


@dataclass(frozen=True)
class Likeness:
    """Of N samples and M clips. features: cosine of their mean features. psnr: dB. Both [N, M], more is nearer."""

    features: np.ndarray
    psnr: np.ndarray

    def own(self, clips: Sequence[int]) -> list[bool]:
        """Of each sample: is the clip of that number the nearest of all, by features and by pixels?"""
        nearest = zip(self.features.argmax(1), self.psnr.argmax(1), clips, strict=True)
        return [bool(by_features == clip == by_pixels) for by_features, by_pixels, clip in nearest]


def likeness(samples: Sequence[np.ndarray], clips: Sequence[np.ndarray], device: str = "cpu") -> Likeness:
    """Videos are uint8 RGB [T, H, W, 3], all of one shape."""
    network = encoder(DEFAULT, None, device)

    def vectors(videos: Sequence[np.ndarray]) -> np.ndarray:
        means = np.stack([network.unit(list(video)).mean(0) for video in videos])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    pixels = np.array([[psnr(clip, sample) for clip in clips] for sample in samples])
    return Likeness(vectors(samples) @ vectors(clips).T, pixels)


def shuffled(count: int) -> list[int]:
    """Places of `count` captions, none in its own."""
    return [(place + 1) % count for place in range(count)]
