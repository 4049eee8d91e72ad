"""BRISQUE: how unnatural the statistics of a picture's detail are, without a reference to compare with."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.video import ClipView, Column, Look, PictureScorer
from orchestration.errors import RushesError

SMALLEST = 32  # px; a smaller side leaves too few pixels to fit distributions to
WINDOW, SIGMA = 7, 7 / 6  # px, of local means
FLAT = 1 / 255  # local deviations below a code say nothing


class Brisque(PictureScorer):
    """BRISQUE (Mittal, Moorthy, Bovik, IEEE TIP 2012) of the clip's pictures."""

    kind: Literal["brisque"] = "brisque"
    pictures: int = Field(default=2, ge=1, le=64, description="pictures of a clip that are looked at, evenly spaced")
    side: int = Field(
        default=768,
        ge=64,
        le=1024,
        description="longer side in px that larger pictures are reduced to; 768 is that of the pictures learned from",
    )

    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "brisque",
                pa.float32(),
                "0-100, low is good",
                "distortion of natural statistics (blur, noise, blocks; empty pictures too), median of the pictures",
                "Mittal et al. 2012, the model of the package brisque (trained on LIVE)",
            ),
        )

    def setup(self) -> Look:
        predict = _model()

        def look(views: Sequence[ClipView]) -> list[dict[str, Any]]:
            scores = ([_quality(picture.rgb, self.side, predict) for picture in view.pictures] for view in views)
            measured = ([score for score in of_clip if score is not None] for of_clip in scores)
            return [{"brisque": float(np.median(of_clip)) if of_clip else None} for of_clip in measured]

        return look


def _quality(rgb: np.ndarray, side: int, predict: Callable[[np.ndarray], float]) -> float | None:
    scale = side / max(rgb.shape[:2])
    if scale < 1:
        size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    found = features(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
    return None if found is None else float(np.clip(predict(found), 0, 100))


def features(luma: np.ndarray) -> np.ndarray | None:
    """[36] float64: 18 of [H, W] uint8 luma, 18 of it at half size; None of a small or flat picture.

    As OpenCV's quality module does it, which the model was trained with: the half is taken without a low-pass filter.
    """
    if min(luma.shape) < SMALLEST:
        return None
    full = luma.astype(np.float64) / 255
    half = cv2.resize(full, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    found = np.array([value for scaled in (full, half) for value in _statistics(scaled)])
    return found if np.isfinite(found).all() else None


def _statistics(luma: np.ndarray) -> list[float]:
    """18 parameters of the distributions of normalised luma and of products of neighbours."""
    mean = cv2.GaussianBlur(luma, (WINDOW, WINDOW), SIGMA)
    deviation = np.sqrt(np.abs(cv2.GaussianBlur(luma * luma, (WINDOW, WINDOW), SIGMA) - mean * mean))
    x = (luma - mean) / (deviation + FLAT)
    alpha, _, left, right = _asymmetric_gaussian(x)
    found = [alpha, (left + right) / 2]
    for one, other in (
        (x[:, :-1], x[:, 1:]),
        (x[:-1], x[1:]),
        (x[:-1, :-1], x[1:, 1:]),
        (x[1:, :-1], x[:-1, 1:]),
    ):
        found += _asymmetric_gaussian(one * other)
    return found


def _asymmetric_gaussian(x: np.ndarray) -> tuple[float, float, float, float]:
    """Shape, mean, left and right variance of an asymmetric generalised Gaussian, by moments; not finite if flat."""
    negative = x < 0
    squares = x * x
    below, above = np.count_nonzero(negative), np.count_nonzero(x > 0)
    if not below or not above:
        return np.nan, np.nan, np.nan, np.nan
    left, right = squares[negative].sum() / below, squares[~negative].sum() / above
    gamma = np.sqrt(left / right)
    ratio = np.abs(x).mean() ** 2 / squares.mean()
    ratio *= (gamma**3 + 1) * (gamma + 1) / (gamma**2 + 1) ** 2
    shapes, ratios, spreads, means = _shapes()
    nearest = min(int(np.searchsorted(ratios, ratio)), len(shapes) - 1)
    mean = (np.sqrt(right) - np.sqrt(left)) * spreads[nearest] * means[nearest]
    return float(shapes[nearest]), float(mean), float(left), float(right)


@cache
def _shapes() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shapes 0.2 to 10, the ratio of moments that each has (ascending), and two factors of its mean."""
    from scipy.special import gammaln

    shape = np.arange(0.2, 10, 0.001)
    one, two, three = (gammaln(k / shape) for k in (1, 2, 3))
    return shape, np.exp(2 * two - one - three), np.exp((one - three) / 2), np.exp(two - one)


class _NumbersOnly(pickle.Unpickler):
    """The package keeps 72 numbers in a pickle; nothing but plain containers and numbers is taken from it."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"holds {module_name}.{global_name}, not numbers")


def _model() -> Callable[[np.ndarray], float]:
    """The package's support vector regression of `features`.

    Its own code is not used: `brisque.BRISQUE.score` (0.2.0) fails with numpy 2.4.
    """
    from libsvm import svmutil

    package = importlib.util.find_spec("brisque")
    folder = Path(next(iter(package.submodule_search_locations or ()))) / "models" if package else Path()
    try:
        with (folder / "normalize.pickle").open("rb") as file:
            ranges = _NumbersOnly(file).load()
        lowest, highest = np.array(ranges["min_"], np.float64), np.array(ranges["max_"], np.float64)
        machine = svmutil.svm_load_model(str(folder / "svm.txt"))
    except (OSError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise RushesError(f"scorer brisque: no model in the package brisque ({error}); pip install brisque") from error

    def predict(found: np.ndarray) -> float:
        scaled = 2 * (found - lowest) / (highest - lowest) - 1
        nodes, _ = svmutil.gen_svm_nodearray(dict(enumerate(scaled.tolist(), 1)))
        return svmutil.libsvm.svm_predict(machine, nodes)

    return predict
