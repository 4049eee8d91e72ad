"""A vector a clip: what it shows. Near-duplicates are told by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.encoders import DEFAULT, check, encoder
from curation.video import VECTOR, ClipView, Column, Look, PictureScorer


class Embedding(PictureScorer):
    """The mean of the pictures' unit vectors, of unit length again; it lies in embeddings/, not in the clips table."""

    kind: Literal["embedding"] = "embedding"
    model: str = Field(
        DEFAULT,
        description="efficientnet-lite0, an open_clip architecture, hf-hub:OWNER/NAME, local-dir:FOLDER",
    )
    pretrained: str | None = Field(None, description="an architecture's weights: a file, or open_clip's name of them")

    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "embedding",
                pa.string(),
                "",
                "model that made the clip's vector; null: it has none",
                "EfficientNet-lite0 (Tan and Le 2019) pooled features, or CLIP (Radford et al. 2021) through open_clip",
            ),
        )

    def notice(self) -> str | None:
        check(self.model, self.pretrained, self.kind)
        return None

    def setup(self) -> Look:
        network = encoder(self.model, self.pretrained, self.device)

        def look(views: Sequence[ClipView]) -> list[dict[str, Any]]:
            units = iter(network.unit([picture.rgb for view in views for picture in view.pictures]))
            means = [np.mean([next(units) for _ in view.pictures], axis=0) for view in views]
            return [_columns(mean, network.name) for mean in means]

        return look


def _columns(mean: np.ndarray, name: str) -> dict[str, Any]:
    length = float(np.linalg.norm(mean))
    if not (np.isfinite(length) and length > 0):  # a network that says nothing of a picture, or vectors that cancel
        return {"embedding": None, VECTOR: None}
    return {"embedding": name, VECTOR: (mean / length).astype(np.float32)}
