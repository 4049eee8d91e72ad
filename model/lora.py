"""Low-rank adapters (Hu et al., arXiv 2106.09685) by PEFT, in files that diffusers' pipelines load.

PEFT imports transformers, so it is imported where it is used.
"""

from __future__ import annotations

import json
from collections import Counter
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
_SETTINGS = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora")


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
    if rank < 1:
        raise ValueError(f"a rank of {rank}; it has to be 1 or more")
    found = [name for name, layer in network.named_modules() if _matches(name, layer, targets)]
    if not found:
        raise ValueError(f"no linear layer of the transformer is named {' or '.join(targets)}")
    _inject(network, {"r": rank, "lora_alpha": rank if alpha is None else alpha, "target_modules": found})
    return found


def save(network: nn.Module, folder: str | Path) -> Path:
    """Writes the adapters, with rank and alpha, for `CogVideoXPipeline.load_lora_weights(folder)`. Returns the file."""
    config = _config(network)
    state = _peft().get_peft_model_state_dict(network, adapter_name=_ADAPTER)
    state = {f"{_PREFIX}{name}": tensor.detach().contiguous() for name, tensor in state.items()}
    settings = {name: getattr(config, name) for name in _SETTINGS}
    settings["target_modules"] = sorted(settings["target_modules"])
    metadata = {"format": "pt", _METADATA: json.dumps({f"{_PREFIX}{key}": value for key, value in settings.items()})}
    path = Path(folder) / WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata=metadata)
    return path


def load(network: nn.Module, folder: str | Path) -> None:
    """Puts the adapters of `save` (or of diffusers' `save_lora_weights`) into a transformer.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, adapters of another kind (DoRA, with biases, in kohya's layout) or of another
            transformer. The network is then as it was.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"no {WEIGHTS} in {folder}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name.removeprefix(_PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    _check_bare(network)
    ranks = _ranks(network, state, path)
    said = json.loads(metadata.get(_METADATA, "{}"))
    said = {key.removeprefix(_PREFIX): value for key, value in said.items() if key.startswith(_PREFIX)}
    (common, _), *others = Counter(ranks.values()).most_common()
    settings = {"r": common, "lora_alpha": said.get("lora_alpha", common), "target_modules": list(ranks)}
    if others:
        settings["rank_pattern"] = {name: rank for name, rank in ranks.items() if rank != common}
    for name in ("alpha_pattern", "use_rslora"):
        if said.get(name):
            settings[name] = said[name]
    if strange := [name for name in ("use_dora", "lora_bias", "use_qalora", "layer_replication") if said.get(name)]:
        raise ValueError(f"{path} was made with {strange[0]}, which rushes does not have")
    _inject(network, settings)
    _peft().set_peft_model_state_dict(network, state, adapter_name=_ADAPTER)


def merge(network: nn.Module, strength: float = 1.0) -> None:
    """Adds the adapters, times `strength`, into the weights and removes them. What `add` froze stays frozen."""
    from peft.tuners.lora import LoraLayer

    for name, layer in [(name, layer) for name, layer in network.named_modules() if isinstance(layer, LoraLayer)]:
        layer.scale_layer(strength)
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(network, "peft_config"):
        del network.peft_config


def _ranks(network: nn.Module, state: dict[str, Any], path: Path) -> dict[str, int]:
    """Adapted layer -> rank, everything about the file's tensors being checked."""
    modules = dict(network.named_modules())
    ends = (".lora_A.weight", ".lora_B.weight")
    if strange := [name for name in state if not name.endswith(ends)]:
        raise ValueError(f"{path} holds {strange[0]}; rushes reads plain LoRA in PEFT's layout ({' and '.join(ends)})")
    ranks: dict[str, int] = {}
    for layer in sorted({name.removesuffix(end) for name in state for end in ends if name.endswith(end)}):
        down, up = (state.get(layer + end) for end in ends)
        base: Any = modules.get(layer)
        if down is None or up is None:
            raise ValueError(f"{path} has only half of the adapter of {layer}")
        if not isinstance(base, nn.Linear):
            raise ValueError(f"{path} adapts {layer}, which is no linear layer of this transformer")
        if (down.shape[1], up.shape[0]) != (base.in_features, base.out_features) or down.shape[0] != up.shape[1]:
            raise ValueError(
                f"{path} is of another transformer: {layer} takes {base.in_features} channels here and gives "
                f"{base.out_features}; its adapter is {list(down.shape)} and {list(up.shape)}"
            )
        ranks[layer] = down.shape[0]
    if not ranks:
        raise ValueError(f"{path} holds no adapters")
    return ranks


def _inject(network: nn.Module, settings: dict[str, Any]) -> None:
    _check_bare(network)
    peft = _peft()
    peft.inject_adapter_in_model(peft.LoraConfig(**settings), network, _ADAPTER)


def _peft() -> Any:
    try:
        import peft
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"PEFT cannot be imported: {error}. Beside a CPU build of torch the published torchvision is often what "
            "fails: install one that matches, or call curation.scorers.runtime.allow_torchvision() first"
        ) from error
    return peft


def _config(network: nn.Module) -> Any:
    if not _adapted(network):
        raise ValueError("the transformer has no adapters")
    return network.peft_config[_ADAPTER]  # type: ignore[index]


def _check_bare(network: nn.Module) -> None:
    if _adapted(network):
        raise ValueError("the transformer has adapters already: merge them first, or load it anew")


def _adapted(network: nn.Module) -> bool:
    return bool(getattr(network, "peft_config", None))


def _matches(name: str, layer: nn.Module, targets: Sequence[str]) -> bool:
    return isinstance(layer, nn.Linear) and any(name == target or name.endswith(f".{target}") for target in targets)
