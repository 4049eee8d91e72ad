"""What the sandbox runs, as functions of plain JSON values. `send` reports progress."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from curation import decode as decoding
from curation.cut import CutConfig, CutRequest, cut_clips
from curation.plan import MeasurePlan
from curation.video import Span


def probe(send: Any, path: str) -> dict[str, Any]:
    return decoding.probe(path)


def decode(send: Any, path: str, folder: str, config: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    cv2.setNumThreads(1)
    settings = decoding.DecodeConfig.model_validate(config)
    return decoding.decode(Path(path), Path(folder), settings, MeasurePlan.model_validate(plan), send)


def cut(send: Any, path: str, config: dict[str, Any], requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    cv2.setNumThreads(1)
    wanted = [
        CutRequest(**{**request, "span": Span(*request["span"]), "target": Path(request["target"])})
        for request in requests
    ]
    return [asdict(result) for result in cut_clips(Path(path), wanted, CutConfig.model_validate(config))]
