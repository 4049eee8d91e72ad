"""Where text is in a picture, and what it says: PP-OCR's networks, which rapidocr's package carries.

Only the networks and rapidocr's decoding of their output are used. Its facade would rescale pictures to a size of its
own, load networks that are not needed, fetch what is absent and write to the terminal.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from curation.scorers.runtime import onnx_session
from orchestration.errors import RushesError

DETECTION = "PP-OCRv6_det_small.onnx"
RECOGNITION = "PP-OCRv6_rec_small.onnx"
STEP = 32  # the detector's picture sides are multiples of this
ENLARGED = 2.0  # small pictures are enlarged up to this: nothing is gained beyond
THING = 0.4  # of the shorter side; what is thicker than this is a thing, no line of text
LINE_HEIGHT = 48  # px, the recognition network's input
LONGEST_LINE = 32  # widths over height; a longer line is squeezed
MOST_LINES = 64  # lines of a picture that are read, largest first


def package_model(name: str) -> Path:
    """A network in rapidocr's package. Raises RushesError where the package or this file is absent."""
    package = importlib.util.find_spec("rapidocr")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (path := Path(folder) / "models" / name).is_file():
            return path
    raise RushesError(f"scorer text: rapidocr's package does not hold {name}; pip install rapidocr, or set a path")


def _session(path: str | Path, device: str) -> Any:
    try:
        return onnx_session(path, device)
    except RushesError:
        raise
    except Exception as error:  # onnxruntime has a class of its own for each kind of bad file
        raise RushesError(f"scorer text: {path} is no network that ONNX Runtime can load: {error}") from error


class Detector:
    """PP-OCR's text detection (differentiable binarization, Liao et al., AAAI 2020)."""

    def __init__(self, model: str | Path, side: int, device: str) -> None:
        from rapidocr.ch_ppocr_det.utils import DBPostProcess

        self._session = _session(model, device)
        self._input = self._session.get_inputs()[0].name
        self._side = side
        # rapidocr's own settings; fewer candidates bound the time that noise takes.
        self._boxes = DBPostProcess(
            thresh=0.3, box_thresh=0.5, max_candidates=500, unclip_ratio=1.6, score_mode="fast", use_dilation=True
        )

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """[N, 4, 2] float32: corners (x, y) in px of lines and words in [H, W, 3] uint8, clockwise from top left."""
        height, width = rgb.shape[:2]
        scale = min(self._side / max(height, width), ENLARGED)
        size = [max(STEP, round(side * scale / STEP) * STEP) for side in (width, height)]
        shrinks = scale < 1
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        batch = ((small[..., ::-1].astype(np.float32) / 127.5) - 1).transpose(2, 0, 1)[None]  # trained on BGR
        (score,) = self._session.run(None, {self._input: np.ascontiguousarray(batch)})
        boxes, _ = self._boxes(score, (height, width))
        corners = np.asarray(boxes, np.float32).reshape(-1, 4, 2)
        across = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1)
        along = np.linalg.norm(corners[:, 3] - corners[:, 0], axis=1)
        return corners[np.minimum(across, along) < THING * min(height, width)]


class Reader:
    """PP-OCR's recognition: one line at a time, CTC decoded."""

    def __init__(self, model: str | Path, device: str) -> None:
        from rapidocr.ch_ppocr_rec.utils import CTCLabelDecode

        self._session = _session(model, device)
        self._input = self._session.get_inputs()[0].name
        characters = self._session.get_modelmeta().custom_metadata_map.get("character")
        if not characters:
            raise RushesError(f"scorer text: {model} does not hold its alphabet (metadata `character`)")
        self._decode = CTCLabelDecode(character=characters.splitlines())

    def __call__(self, rgb: np.ndarray, boxes: Sequence[np.ndarray], least: float = 0.5) -> list[str]:
        """What the boxes ([4, 2] px each) say, in the order given; lines read with less confidence than `least` and
        empty ones are left out."""
        said = []
        for box in boxes[:MOST_LINES]:
            width = max(np.linalg.norm(box[1] - box[0]), np.linalg.norm(box[2] - box[3]), 1)
            height = max(np.linalg.norm(box[3] - box[0]), np.linalg.norm(box[2] - box[1]), 1)
            columns = int(np.clip(round(LINE_HEIGHT * width / height), 16, LONGEST_LINE * LINE_HEIGHT))
            corners = np.array([[0, 0], [columns, 0], [columns, LINE_HEIGHT], [0, LINE_HEIGHT]], np.float32)
            line = cv2.warpPerspective(
                rgb,
                cv2.getPerspectiveTransform(np.asarray(box, np.float32), corners),
                (columns, LINE_HEIGHT),
                flags=cv2.INTER_CUBIC,
                borderMode=cv2.BORDER_REPLICATE,
            )
            if height >= 1.5 * width:  # written upwards or downwards
                line = cv2.resize(np.rot90(line), (LINE_HEIGHT * 3, LINE_HEIGHT))
            batch = ((line[..., ::-1].astype(np.float32) / 127.5) - 1).transpose(2, 0, 1)[None]
            (chances,) = self._session.run(None, {self._input: np.ascontiguousarray(batch)})
            ((text, confidence),), _ = self._decode(chances)
            if text.strip() and confidence >= least:
                said.append(text.strip())
        return said
