"""What holds of every picture scorer: odd pictures score or are null, columns are complete, batches change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pyarrow as pa
import pytest
from helpers_frames import read_bgr, view

from curation.scorers import AnyScorer, score_columns
from curation.video import VECTOR, ClipView, Look, PictureScorer

KINDS = [kind for kind in get_args(get_args(AnyScorer)[0]) if issubclass(kind, PictureScorer)]
SCHEMA = pa.schema([(column.name, column.type) for column in score_columns()])


def odd() -> list[ClipView]:
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (180, 320, 3), np.uint8)
    shapes = ((1, 1), (1, 1024), (1024, 1), (2, 3), (17, 19), (40, 1000))
    tiny = [draw.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    flat = [np.full((180, 320, 3), code, np.uint8) for code in (0, 128, 255)]
    changing = [noise, cv2.resize(noise, (200, 100)), flat[0]]  # a video may change its shape
    return [view(*[rgb] * 3) for rgb in [*tiny, *flat, noise]] + [view(*changing), view(noise), view(*[noise] * 9)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.model_fields["kind"].default)
def scorer(request: pytest.FixtureRequest) -> PictureScorer:
    return request.param()


@pytest.fixture(scope="module")
def look(scorer: PictureScorer) -> Look:
    return scorer.setup()


def test_odd_pictures_score_or_are_null(scorer: PictureScorer, look: Look):
    views = odd()
    found = look(views)
    assert len(found) == len(views)
    for values in found:
        vector = values.pop(VECTOR, None)
        assert vector is None or np.isfinite(vector).all()
        assert list(values) == [column.name for column in scorer.columns()]
        (row,) = pa.Table.from_pylist([values], SCHEMA).to_pylist()
        for name, value in row.items():
            assert not isinstance(value, float) or np.isfinite(value), name
        for name in ("text_boxes", "face_boxes"):
            for box in row[name] or []:
                assert -0.01 <= box["x"] <= 1
                assert -0.01 <= box["y"] <= 1
                assert box["x"] + box["w"] <= 1.01
                assert box["y"] + box["h"] <= 1.01


def test_a_clip_scores_the_same_alone_and_among_others(scorer: PictureScorer, look: Look, samples: Path):
    def clip(name: str, start: int) -> ClipView:
        pictures = [cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB) for bgr in read_bgr(samples / name, start, 25)]
        return view(*pictures[::12])

    views = [clip("bikes.mp4", 0), clip("bigbuckbunny.mp4", 30), clip("carphone_pristine.mp4", 10)]
    together = look(views)
    for among, alone in zip(together, (look([one])[0] for one in views), strict=True):
        for name, value in alone.items():
            if isinstance(value, float | np.ndarray):
                np.testing.assert_allclose(among[name], value, rtol=1e-4, atol=1e-5)
            else:
                assert among[name] == value


def test_scorers_declare_what_they_are(scorer: PictureScorer):
    columns = scorer.columns()
    assert columns
    assert all(column.doc and column.source for column in columns)
    assert type(scorer).model_validate(scorer.model_dump(mode="json")) == scorer
