"""What was learnt, as files that need no trainer: a transformer's folder, or adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model import lora
from model.transformer import ExpertTransformer, TransformerConfig
from train.config import LoraConfig

TRANSFORMER, LORA = "transformer", "lora"  # folders of a checkpoint: one of them is there


def write_weights(
    folder: Path, config: TransformerConfig, weights: Mapping[str, Tensor], adapters: LoraConfig | None
) -> None:
    """TRANSFORMER/, a diffusers folder, or where adapters were learnt LORA/ in diffusers' layout, into a folder.

    weights: all that was trained, by the parameter's name.
    """
    with torch.device("meta"):
        network = ExpertTransformer(config)
        if adapters is not None:
            lora.add(network, adapters.rank, adapters.alpha, adapters.targets)
    network.load_state_dict(weights, strict=adapters is None, assign=True)
    if adapters is None:
        network.save_pretrained(folder / TRANSFORMER)
    else:
        lora.save(network, folder / LORA)
