"""diffusers' folders, read and written: config.json and safetensors, in one file or in shards.

A folder is a pipeline's (model_index.json, transformer/, vae/, scheduler/, ...) or one network's own; a name that is no
folder is looked up on the hub. What diffusers would load but these networks are not is refused by name. Nothing here
unpickles: .bin and .pt files are not read.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import save_torch_state_dict, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

Network = TypeVar("Network", bound=nn.Module)
Config = TypeVar("Config")

WEIGHTS = "diffusion_pytorch_model"
# Files of weights that a loader would read: one, or shards and their index (variants such as fp16 are others).
_OURS = re.compile(rf"{WEIGHTS}(-\d+-of-\d+)?\.safetensors|{WEIGHTS}\.safetensors\.index\.json")
PIPELINES = ("CogVideoXPipeline", "CogVideoXVideoToVideoPipeline")  # the second samples with the same weights
# What a config.json may say beside the dataclass's fields, and the only value that these networks have.
TRANSFORMER = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_elementwise_affine": True,
    "ofs_embed_dim": None,
    "patch_bias": True,
    "patch_size_t": None,
    "timestep_activation_fn": "silu",
    "use_learned_positional_embeddings": False,
}
VAE = {
    "act_fn": "silu",
    "force_upcast": True,
    "invert_scale_latents": False,
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}


def locate(where: str | Path, part: str, revision: str | None = None) -> Path:
    """The folder of one part ("transformer", "vae", "scheduler") of a folder or hub name.

    Raises:
        ValueError: a pipeline of another kind.
        FileNotFoundError: neither a folder nor to be had from the hub.
    """
    folder = Path(where).expanduser()
    if not folder.is_dir():
        folder = _download(str(where), part, revision)
    index = folder / "model_index.json"
    if index.is_file():
        kind = _read(index).get("_class_name")
        if kind not in PIPELINES:
            raise ValueError(
                f"{where} is {_kind(str(kind))}; rushes reads CogVideoX 1.0, text to video ({PIPELINES[0]})"
            )
    if (folder / part).is_dir():
        folder = folder / part
    elif index.is_file():
        raise FileNotFoundError(f"{where} is a pipeline without the folder {part}/")
    return folder


def read_config(folder: Path, kinds: Iterable[str], name: str = "config.json") -> dict[str, Any]:
    """A folder's config.json, without diffusers' own marks ("_class_name", ...). Raises ValueError for other kinds."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"no {name} in {folder}: not a diffusers folder")
    config = _read(path)
    if (kind := config.get("_class_name")) not in (kinds := tuple(kinds)):
        raise ValueError(f"{path} is of {_kind(str(kind))}, not of {' or '.join(kinds)}")
    return {key: value for key, value in config.items() if not key.startswith("_")}


def transformer_config(folder: Path, config_class: type[Config]) -> Config:
    """Raises ValueError for CogVideoX 1.5, image-to-video, and any setting that these networks do not have."""
    found = read_config(folder, ["CogVideoXTransformer3DModel"])
    path = folder / "config.json"
    if found.get("patch_size_t") is not None:
        raise ValueError(
            f"{path} is of CogVideoX 1.5 (patch_size_t={found['patch_size_t']}); rushes reads CogVideoX 1.0"
        )
    given, made = found.get("in_channels", 16), found.get("out_channels", 16)
    if found.get("use_learned_positional_embeddings") or given != made:
        raise ValueError(
            f"{path} is of an image-to-video or controlled CogVideoX ({given} channels in, {made} out); rushes reads "
            "text-to-video ones"
        )
    return to_config(found, config_class, TRANSFORMER, path)


def vae_config(folder: Path, config_class: type[Config]) -> Config:
    """Raises ValueError for any setting that this VAE does not have."""
    found = read_config(folder, ["AutoencoderKLCogVideoX"])
    path = folder / "config.json"
    found.pop("sample_size", None)  # of early files; nothing reads it
    for key, block in (("down_block_types", "CogVideoXDownBlock3D"), ("up_block_types", "CogVideoXUpBlock3D")):
        if set(kinds := found.pop(key, [block])) != {block}:
            raise ValueError(f"{path} has {key} {kinds}; rushes has {block} only")
    return to_config(found, config_class, VAE, path)


def describe_transformer(config: Any) -> dict[str, Any]:
    """The config.json of a TransformerConfig."""
    return {"_class_name": "CogVideoXTransformer3DModel", **TRANSFORMER, **asdict(config)}


def describe_vae(config: Any) -> dict[str, Any]:
    """The config.json of a VAEConfig."""
    levels = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKLCogVideoX",
        "down_block_types": ["CogVideoXDownBlock3D"] * levels,
        "up_block_types": ["CogVideoXUpBlock3D"] * levels,
        **VAE,
        **asdict(config),
    }


def load_weights(network: Network, folder: Path, dtype: torch.dtype | None = None) -> Network:
    """Fills a network (built on the meta device) with a folder's weights, in their own type where dtype is None.

    Raises:
        FileNotFoundError: no safetensors, or a shard is missing.
        ValueError: names or shapes that are not the network's, or a damaged file.
    """
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    for path in _files(folder):
        try:
            # Copies: what is loaded is mapped, and would change with the file.
            state.update({name: tensor.clone() for name, tensor in load_file(path).items()})
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); fetch it again") from error
    wrong = [
        *(f"missing {name}" for name in sorted(wanted.keys() - state.keys())),
        *(f"unknown {name}" for name in sorted(state.keys() - wanted.keys())),
        *(
            f"{name} is {list(state[name].shape)}, not {list(wanted[name])}"
            for name in sorted(wanted.keys() & state.keys())
            if state[name].shape != wanted[name]
        ),
    ]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"the weights in {folder} do not fit its config.json: {'; '.join(wrong[:5])}{more}")
    if dtype is not None:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    network.load_state_dict(state, assign=True)
    return network.eval()


def save(network: nn.Module, folder: Path, config: Mapping[str, Any], max_shard_size: str = "10GB") -> None:
    """Writes beside what is there, then takes its place: weights, their index, config.json, and old shards go last.

    Raises ValueError where adapters (LoRA) are still in the network.
    """
    state = network.state_dict()
    if adapters := [name for name in state if ".lora_" in name or ".base_layer." in name]:
        raise ValueError(
            f"the network has adapters in it ({adapters[0]}, ...): merge them (lora.merge), or save them (lora.save)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as scratch:
        made = Path(scratch)
        pattern = f"{WEIGHTS}{{suffix}}.safetensors"
        save_torch_state_dict(state, made, filename_pattern=pattern, max_shard_size=max_shard_size)
        write_json(made / "config.json", config)
        new = sorted(path.name for path in made.iterdir())
        for name in sorted(new, key=lambda name: (name == "config.json", name.endswith(".index.json"))):
            (made / name).replace(folder / name)
    for old in folder.iterdir():
        if _OURS.fullmatch(old.name) and old.name not in new:
            old.unlink()


def save_pipeline(
    folder: str | Path,
    transformer: Any,
    vae: Any,
    schedule: Any,
    sampler: str = "dpm",
    *,
    text_encoder: Any = None,
    tokenizer: Any = None,
) -> None:
    """Writes a folder that `CogVideoXPipeline.from_pretrained` loads and samples from.

    Args:
        text_encoder, tokenizer: transformers' T5EncoderModel and its tokenizer. Without them, give both to
            `from_pretrained`, or copy text_encoder/ and tokenizer/ of a CogVideoX release into the folder.
    """
    folder = Path(folder)
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    schedule.save_pretrained(folder / "scheduler", sampler)
    for name, part in (("text_encoder", text_encoder), ("tokenizer", tokenizer)):
        if part is not None:
            part.save_pretrained(folder / name)
    kind = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
    index = {
        "_class_name": PIPELINES[0],
        "scheduler": ["diffusers", kind],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    write_json(folder / "model_index.json", index)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Indented, keys sorted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def to_config(found: dict[str, Any], config_class: type[Config], fixed: Mapping[str, Any], path: Path) -> Config:
    """A dataclass of what a file says. Raises ValueError, naming the file, for what the dataclass cannot hold."""
    defaults = {field.name: field.default for field in fields(config_class)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for key, value in found.items():
        if key in defaults:
            given[key] = tuple(value) if isinstance(value, list) else value
            kind = type(defaults[key])
            fits = isinstance(given[key], int | float if kind is float else kind)
            if not fits or isinstance(value, bool) != (kind is bool):
                raise ValueError(f"{path}: {key} is {value!r}, no {kind.__name__}")
        elif key == "quantization_config":
            raise ValueError(f"{path} is of quantised weights; rushes reads plain ones")
        elif value != fixed.get(key):
            only = f"has only {fixed[key]!r}" if key in fixed else "does not know it"
            raise ValueError(f"{path}: {key} is {value!r}; rushes {only}")
    try:
        return config_class(**given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _files(folder: Path) -> list[Path]:
    index = folder / f"{WEIGHTS}.safetensors.index.json"
    names = {f"{WEIGHTS}.safetensors"}
    if index.is_file():
        names = set(_read(index).get("weight_map", {}).values())
        if not names:
            raise ValueError(f"{index} has no weight_map")
    paths = [folder / Path(name).name for name in sorted(names)]  # a name with a path in it stays in the folder
    if absent := [path.name for path in paths if not path.is_file()]:
        others = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "nothing else"
        raise FileNotFoundError(f"{folder} lacks {', '.join(absent)} (it has {others}); rushes reads safetensors only")
    return paths


def _kind(name: str) -> str:
    """A class of diffusers', in words."""
    words = {
        "CogVideoXImageToVideoPipeline": "image-to-video CogVideoX",
        "CogVideoXFunControlPipeline": "controlled CogVideoX",
    }
    return f"{words[name]} ({name})" if name in words else name


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def _download(name: str, part: str, revision: str | None) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FileNotFoundError(f"no folder {name}")
    shards = (f"{WEIGHTS}.safetensors", f"{WEIGHTS}-*-of-*.safetensors")  # no variants
    patterns = ["*.json", *shards, *(f"{part}/{name}" for name in shards)]
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=patterns)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"no folder {name}, and the hub did not give it ({error}). Without a network, fill the hub's cache "
            "beforehand (HF_HOME), or name a folder"
        ) from error
    return Path(found)
