"""Low-rank adapters (Hu et al., arXiv 2106.09685) by PEFT, in files that diffusers' pipelines load.

PEFT imports transformers, so it is imported where it is used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # attention, as diffusers' and the released fine-tuning scripts do
WEIGHTS = "pytorch_lora_weights.safetensors"
_PREFIX = "transformer."
_METADATA = "lora_adapter_metadata"  # diffusers' key for PEFT's settings, alpha among them
_ADAPTER = "default"


def add(network: nn.Module, rank: int, alpha: float | None = None, targets: Sequence[str] = TARGETS) -> list[str]:
    """Puts adapters into a transformer, in place, and freezes everything else. Before training they change nothing.

    Args:
        alpha: outputs are scaled by alpha/rank; None: alpha = rank.
        targets: names of linear layers, or endings of names.

    Returns:
        The adapted layers' names.

    Raises:
        ValueError: a rank below 1, targets that match no layer, or adapters that are there already.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if rank < 1:
        raise ValueError(f"a rank of {rank}; it has to be 1 or more")
    if _adapted(network):
        raise ValueError("the transformer has adapters already: merge them first, or load it anew")
    found = [name for name, layer in network.named_modules() if _matches(name, layer, targets)]
    if not found:
        raise ValueError(f"no linear layer of the transformer is named {' or '.join(targets)}")
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=list(targets))  # type: ignore[arg-type]
    inject_adapter_in_model(config, network, _ADAPTER)
    return found


def save(network: nn.Module, folder: str | Path) -> Path:
    """Writes the adapters, with rank and alpha, for `CogVideoXPipeline.load_lora_weights(folder)`. Returns the file."""
    from peft import get_peft_model_state_dict

    config = _config(network)
    state = get_peft_model_state_dict(network, adapter_name=_ADAPTER)  # type: ignore[arg-type]
    state = {f"{_PREFIX}{name}": tensor.detach().contiguous() for name, tensor in state.items()}
    settings = {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": sorted(config.target_modules)}
    metadata = {"format": "pt", _METADATA: json.dumps({f"{_PREFIX}{key}": value for key, value in settings.items()})}
    path = Path(folder) / WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata=metadata)
    return path


def load(network: nn.Module, folder: str | Path) -> None:
    """Puts the adapters of `save` (or of diffusers' `save_lora_weights`) into a transformer.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or adapters of another transformer.
    """
    from peft import set_peft_model_state_dict

    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"no {WEIGHTS} in {folder}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name.removeprefix(_PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    layers = sorted({name.rsplit(".lora_", 1)[0] for name in state if ".lora_A." in name})
    if not layers:
        raise ValueError(f"{path} holds no adapters in PEFT's layout (names with .lora_A.)")
    settings = json.loads(metadata.get(_METADATA, "{}"))
    rank = next(tensor.shape[0] for name, tensor in state.items() if ".lora_A." in name)
    modules = dict(network.named_modules())
    if absent := [name for name in layers if name not in modules]:
        raise ValueError(f"{path} adapts {absent[0]}, which this transformer does not have")
    for name in layers:
        layer: Any = modules[name]
        if layer.in_features != state[f"{name}.lora_A.weight"].shape[1]:
            raise ValueError(f"{path} is of another transformer: {name} takes {layer.in_features} channels here")
    add(network, rank, settings.get(f"{_PREFIX}lora_alpha", rank), layers)
    set_peft_model_state_dict(network, state, adapter_name=_ADAPTER)


def merge(network: nn.Module) -> None:
    """Adds the adapters into the weights, in place, and removes them; all weights can be trained again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in [(name, layer) for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)]:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(network, "peft_config"):
        del network.peft_config
    network.requires_grad_(True)


def _config(network: nn.Module) -> Any:
    if not _adapted(network):
        raise ValueError("the transformer has no adapters")
    return network.peft_config[_ADAPTER]  # type: ignore[index]


def _adapted(network: nn.Module) -> bool:
    return bool(getattr(network, "peft_config", None))


def _matches(name: str, layer: nn.Module, targets: Sequence[str]) -> bool:
    return isinstance(layer, nn.Linear) and any(name == target or name.endswith(f".{target}") for target in targets)
