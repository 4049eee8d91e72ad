"""Picture scorers on a CUDA device say what they say on the CPU: `pytest -m gpu`, on a machine that has one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers_frames import INFO, read_bgr

from curation.scorers.embedding import Embedding
from curation.scorers.faces import Faces
from curation.scorers.nsfw import Nsfw
from curation.scorers.text import Text
from curation.video import VECTOR, ClipView, Picture, PictureScorer

pytestmark = pytest.mark.gpu


def clip(path: Path) -> ClipView:
    frames = [cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB) for bgr in read_bgr(path, 0, 49)]
    return ClipView([Picture(index, index / 24, frames[index]) for index in (0, 24, 48)], {}, INFO)


@pytest.mark.parametrize("kind", [Embedding, Text, Faces, Nsfw], ids=lambda kind: kind.__name__)
def test_a_gpu_says_the_same(kind: type[PictureScorer], samples: Path):
    views = [clip(samples / name) for name in ("bikes.mp4", "carphone_pristine.mp4")]
    on_cpu, on_gpu = (kind(device=device).setup()(views) for device in ("cpu", "cuda"))  # type: ignore[call-arg]
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        for name, value in expected.items():
            if name == VECTOR:
                assert float(np.dot(value, found[name])) > 0.999
            elif isinstance(value, float):
                assert found[name] == pytest.approx(value, abs=0.01)
