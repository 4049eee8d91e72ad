"""Aesthetics: how people would rate the look of a clip, by LAION's predictors over CLIP's picture vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.scorers.encoders import DEFAULT, check, encoder
from curation.video import ClipView, Column, Look, PictureScorer
from orchestration.errors import ConfigError, RushesError

HUB = "hf://"
STACK = (0, 2, 4, 6, 7)  # linear layers of improved-aesthetic-predictor: only dropout lies between them


class Aesthetic(PictureScorer):
    """CLIP turns each picture into a vector; a head trained on people's ratings makes a number of it. Mean of the
    pictures.

    Heads are state dicts: `sac+logos+ava1-l14-linearMSE` of improved-aesthetic-predictor (`layers.0.weight`, ...), by
    which most papers filter, or `sa_0_4_vit_l_14_linear` of LAION's aesthetic-predictor (`weight`, `bias`). Both were
    trained on OpenAI's ViT-L/14, whose activation is QuickGELU.
    """

    kind: Literal["aesthetic"] = "aesthetic"
    clip: str = Field(
        "ViT-L-14-quickgelu",
        description="what the head was trained on: an open_clip architecture, hf-hub:OWNER/NAME, local-dir:FOLDER",
    )
    pretrained: str | None = Field(
        "openai", description="an architecture's weights: open_clip's name of them, or a file"
    )
    head: str | None = Field(
        None, description="a file (.pth or .safetensors), or hf://OWNER/NAME/FILE; null: the column stays null"
    )

    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "aesthetic",
                pa.float32(),
                "about 1-10",
                "how people would rate the look of the pictures; null: no head is given",
                "LAION's aesthetic predictors (Schuhmann et al. 2022) on CLIP's picture vectors",
            ),
        )

    def notice(self) -> str | None:
        if self.head is None:
            return (
                "aesthetic stays null: give scorers.aesthetic.head, the weights of a LAION aesthetic predictor "
                "(a file or hf://OWNER/NAME/FILE), and pretrained, those of its CLIP model"
            )
        if self.clip == DEFAULT:
            raise ConfigError(f"scorer aesthetic: heads were trained on CLIP's vectors, not on those of {DEFAULT}")
        check(self.clip, self.pretrained, self.kind)
        if self.head.startswith(HUB):
            _hub_parts(self.head)
        elif not Path(self.head).is_file():
            raise ConfigError(f"scorer aesthetic: no file {self.head}; head is a file or hf://OWNER/NAME/FILE")
        return None

    def setup(self) -> Look:
        if self.head is None:
            return lambda views: [{"aesthetic": None} for _ in views]
        weight, bias = read_head(self.head)
        network = encoder(self.clip, self.pretrained, self.device)
        if network.width != len(weight):
            raise RushesError(
                f"scorer aesthetic: {self.head} takes vectors of {len(weight)} numbers, {network.name} makes "
                f"{network.width}; name the CLIP model that the head was trained on"
            )

        def look(views: Sequence[ClipView]) -> list[dict[str, Any]]:
            units = network.unit([picture.rgb for view in views for picture in view.pictures])
            scores = iter(units @ weight + bias)
            means = [float(np.mean([next(scores) for _ in view.pictures])) for view in views]
            return [{"aesthetic": mean if np.isfinite(mean) else None} for mean in means]

        return look


def read_head(name: str) -> tuple[np.ndarray, float]:
    """Weight [D] float64 and bias of a head: linear layers with nothing between them are one.

    Raises RushesError where the file is no such head.
    """
    path = Path(_fetched(name) if name.startswith(HUB) else name)
    try:
        state = _state_dict(path)
    except Exception as error:  # torch and safetensors have a class of their own for each kind of bad file
        raise RushesError(f"scorer aesthetic: cannot read {name} as weights: {error}") from error
    names = [""] if set(state) == {"weight", "bias"} else [f"layers.{number}." for number in STACK]
    if set(state) != {f"{layer}{part}" for layer in names for part in ("weight", "bias")}:
        raise RushesError(
            f"scorer aesthetic: {name} is no LAION head, which has weight and bias, or layers.0, 2, 4, 6 and 7 (the "
            f"linear form; those with ReLU are not supported); this has {', '.join(sorted(state)[:12]) or 'nothing'}"
        )
    try:
        weight, bias = state[f"{names[-1]}weight"], state[f"{names[-1]}bias"]
        for layer in reversed(names[:-1]):
            bias = bias + weight @ state[f"{layer}bias"]
            weight = weight @ state[f"{layer}weight"]
        (weight,), (bias,) = weight, bias
    except ValueError as error:
        raise RushesError(f"scorer aesthetic: the layers of {name} do not fit to make one number: {error}") from error
    return weight, float(bias)


def _state_dict(path: Path) -> Mapping[str, np.ndarray]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: Any = load_file(path)
    else:
        import torch

        state = torch.load(path, map_location="cpu", weights_only=True)
    return {key: tensor.double().numpy() for key, tensor in state.get("state_dict", state).items()}


def _hub_parts(name: str) -> tuple[str, str]:
    """Repository and file."""
    owner, _, rest = name.removeprefix(HUB).partition("/")
    repository, _, file = rest.partition("/")
    if not file:
        raise ConfigError(f"scorer aesthetic: {name} names no file; head is a file or hf://OWNER/NAME/FILE")
    return f"{owner}/{repository}", file


def _fetched(name: str) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return hf_hub_download(*_hub_parts(name))
    except RushesError:
        raise
    except Exception as error:  # the hub's and the network's own kinds
        raise RushesError(
            f"scorer aesthetic: cannot fetch {name}: {error}. Without a network, fill the hub's cache beforehand "
            "(HF_HOME), or give a file"
        ) from error
