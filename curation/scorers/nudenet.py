"""NudeNet's detector of faces and of parts of the body: a YOLOv8 network that the package nudenet carries."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from curation.scorers.runtime import onnx_session
from orchestration.errors import RushesError

STRIDE = 32  # the network's picture sides are multiples of this
OVERLAP = 0.45  # intersection over union of two boxes of one thing
FAINTEST = 0.2  # of a score that is reported, as in the package


class Part(NamedTuple):
    """A box as shares of the picture: left, top, width and height; `name` is the network's class."""

    name: str
    score: float
    x: float
    y: float
    w: float
    h: float


def package_model() -> Path:
    """320n.onnx in nudenet's package. Raises RushesError where it is absent."""
    package = importlib.util.find_spec("nudenet")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (path := Path(folder) / "320n.onnx").is_file():
            return path
    raise RushesError("nudenet's package with 320n.onnx is not installed; pip install nudenet, or set a path")


class Detector:
    """Finds faces and parts of the body, scaled so that the picture's longer side is `side`.

    As the package does, with two differences. The shorter side is padded to the network's stride only, not to a square,
    which halves the cost of wide pictures. The network is shown RGB: the package (3.4.2) swaps the channels twice
    and shows it BGR, which finds fewer small faces (benchmarks/faces.py).
    """

    def __init__(self, model: str | Path, side: int, device: str) -> None:
        try:
            self._session = onnx_session(model, device)
            self._names = ast.literal_eval(self._session.get_modelmeta().custom_metadata_map["names"])
        except RushesError:
            raise
        except Exception as error:  # onnxruntime has a class of its own for each kind of bad file
            raise RushesError(f"{model} is no YOLO network that ONNX Runtime can load: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self._side = side

    @property
    def names(self) -> list[str]:
        """The classes that the network tells apart."""
        return list(self._names.values())

    def __call__(self, rgb: np.ndarray) -> list[Part]:
        """What is in [H, W, 3] uint8, best first."""
        height, width = rgb.shape[:2]
        scale = self._side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        inner = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        padded = np.zeros((-(-size[1] // STRIDE) * STRIDE, -(-size[0] // STRIDE) * STRIDE, 3), np.float32)
        padded[: size[1], : size[0]] = inner / np.float32(255)
        (found,) = self._session.run(None, {self._input: padded.transpose(2, 0, 1)[None]})
        return self._decoded(found[0].T, size)

    def _decoded(self, found: np.ndarray, size: tuple[int, int]) -> list[Part]:
        """[N, 4 + classes]: centre, width and height in px, scores."""
        best = found[:, 4:].argmax(1)
        scores = found[np.arange(len(found)), 4 + best]
        clear = scores >= FAINTEST
        found, best, scores = found[clear], best[clear], scores[clear]
        low = np.clip((found[:, :2] - found[:, 2:4] / 2) / size, 0, 1)
        high = np.clip((found[:, :2] + found[:, 2:4] / 2) / size, 0, 1)
        boxes = np.concatenate([low, high - low], 1)
        kept = cv2.dnn.NMSBoxes((boxes * 1000).tolist(), scores.tolist(), FAINTEST, OVERLAP)
        order = np.array(kept, int).ravel()
        return [
            Part(self._names[int(best[i])], float(scores[i]), *(float(side) for side in boxes[i]))
            for i in order[np.argsort(-scores[order], kind="stable")]
        ]
