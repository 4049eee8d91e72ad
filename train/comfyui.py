"""Adapters as ComfyUI loads them beside its own CogVideoX network.

ComfyUI names the network's layers in its own way (comfy/ldm/cogvideo/model.py), and takes an adapter for the layer
`diffusion_model.LAYER` from three tensors (comfy/weight_adapter/lora.py):

    LAYER.lora_up.weight [out, rank], LAYER.lora_down.weight [rank, in], LAYER.alpha []
    weight += strength * alpha / rank * up @ down
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from curation.scorers.runtime import allow_torchvision
from model import lora
from model.transformer import ExpertTransformer, TransformerConfig

PREFIX = "diffusion_model."
_THEIRS = {
    "attn1.to_q": "q",
    "attn1.to_k": "k",
    "attn1.to_v": "v",
    "attn1.to_out.0": "attn_out",
    "ff.net.0.proj": "ff_proj",
    "ff.net.2": "ff_out",
}


def layer_name(ours: str) -> str:
    """ComfyUI's name of a layer of the transformer."""
    if ours.startswith("transformer_blocks."):
        _, number, layer = ours.split(".", 2)
        return f"blocks.{number}.{_THEIRS.get(layer, layer)}"
    return ours.replace("time_embedding.linear_", "time_embedding_linear_")


def save(adapters: Path, config: TransformerConfig, path: Path) -> None:
    """Write the adapters of `lora.save`'s folder, for a transformer of this shape, to a file. Raises what lora.load
    does."""
    allow_torchvision()
    from peft.tuners.lora import LoraLayer

    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
        network = ExpertTransformer(config)
        lora.load(network, adapters)  # for the scale that PEFT gives each layer; the weights are the file's
    weights = load_file(adapters / lora.WEIGHTS)
    made: dict[str, torch.Tensor] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer):
            down, up = (weights[f"transformer.{name}.lora_{side}.weight"] for side in "AB")
            (scale,) = layer.scaling.values()
            ours = PREFIX + layer_name(name)
            made |= {f"{ours}.lora_up.weight": up, f"{ours}.lora_down.weight": down}
            made[f"{ours}.alpha"] = torch.tensor(float(scale * len(down)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(made, path, metadata={"format": "pt"})
