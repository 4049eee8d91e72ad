"""Whether a caption goes with its pictures: cosine of CLIP's vectors (Hessel et al., CLIPScore, EMNLP 2021).

Off by default: it needs weights. Any of open_clip's networks, named as in curation/scorers/encoders.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from captioning.checks.flag import Flag
from curation.scorers.encoders import check as check_encoder
from curation.scorers.encoders import load_open_clip
from curation.scorers.runtime import torch_device
from orchestration.config import Config
from orchestration.errors import ConfigError, RushesError


class MatchConfig(Config):
    model: str = Field(description="open_clip architecture, hf-hub:OWNER/NAME or local-dir:FOLDER")
    pretrained: str | None = Field(
        default=None, description="open_clip tag or a checkpoint's path, for an architecture"
    )
    least: float = Field(
        default=0.15,
        ge=-1,
        le=1,
        description="cosine under which a caption is flagged; every network has its own scale",
    )
    pictures: int = Field(default=4, ge=1, description="evenly spaced, of those given")
    device: str = Field(default="auto", description="auto, cpu or cuda")

    @property
    def name(self) -> str:
        """The network: its scores are no other's."""
        return f"{self.model} {self.pretrained or ''}".strip()

    def flags(self, score: float) -> list[Flag]:
        """`match`, where a caption's score is under `least`."""
        if score >= self.least:
            return []
        return [Flag("match", f"cosine {score:.3f} with its pictures, under {self.least:g} ({self.model})")]


class Matcher:
    """Scores a caption by its clip's pictures. `setup` loads weights, in the worker."""

    def __init__(self, config: MatchConfig):
        if config.model == "efficientnet-lite0":
            raise ConfigError("checks.match: efficientnet-lite0 has no text tower; name a CLIP of open_clip's")
        check_encoder(config.model, config.pretrained, "checks.match")
        self.config = config
        self._model: Any = None

    def setup(self) -> None:
        """Raises RushesError where weights cannot be had."""
        model, self._prepare = load_open_clip(self.config.model, self.config.pretrained)
        from open_clip import get_tokenizer  # only now may torchvision be imported

        try:
            self._tokenize = get_tokenizer(self.config.model)
        except Exception as error:  # the hub's client and tokenizers have a class for every trouble
            raise RushesError(f"checks.match: no tokenizer of {self.config.model}: {error}") from error
        self._device = torch_device(self.config.device)
        self._model = model.to(self._device)

    def score(self, text: str, pictures: Sequence[np.ndarray]) -> float:
        """Cosine of the text's vector and the mean of the pictures' unit vectors; pictures [H, W, 3] uint8 RGB. Text
        beyond the network's context (77 tokens for most) is not looked at."""
        import torch
        from PIL import Image

        if not pictures:
            raise ValueError("a caption is matched with at least one picture")
        if self._model is None:
            self.setup()
        count = min(self.config.pictures, len(pictures))
        chosen = [pictures[int((i + 0.5) * len(pictures) / count)] for i in range(count)]
        model: Any = self._model
        batch = torch.stack([self._prepare(Image.fromarray(rgb)) for rgb in chosen]).to(self._device)
        with torch.inference_mode():
            seen = model.encode_image(batch, normalize=True).float().mean(0)
            said = model.encode_text(self._tokenize([text]).to(self._device), normalize=True).float()[0]
            return float(torch.nn.functional.cosine_similarity(seen, said, dim=0))
