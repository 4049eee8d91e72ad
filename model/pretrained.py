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
from typing import Any, ClassVar, Self, TypeVar

import torch
from huggingface_hub import save_torch_state_dict, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

Config = TypeVar("Config")

WEIGHTS = "diffusion_pytorch_model"
# Files of weights that a loader would read: one, or shards and their index (variants such as fp16 are others).
_OURS = re.compile(rf"{WEIGHTS}(-\d+-of-\d+)?\.safetensors|{WEIGHTS}\.safetensors\.index\.json")
PIPELINES = ("CogVideoXPipeline", "CogVideoXVideoToVideoPipeline")  # the second samples with the same weights
SCHEDULERS = {"ddim": "CogVideoXDDIMScheduler", "dpm": "CogVideoXDPMScheduler"}


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


class Network(nn.Module):
    """A network with a flat dataclass of settings, presets, and diffusers' folders.

    Subclasses say what diffusers calls them, and what its config.json says beside the dataclass's fields.
    """

    part: ClassVar[str]  # the folder of a pipeline
    kind: ClassVar[str]  # diffusers' class
    config_class: ClassVar[type[Any]]
    presets: ClassVar[Mapping[str, Any]]
    fixed: ClassVar[Mapping[str, Any]]  # settings of config.json that have one value here

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    @classmethod
    def from_preset(cls, name: str) -> Self:
        """With torch's default initialisation."""
        if name not in cls.presets:
            raise ValueError(f"no {cls.part} preset {name!r}; there are {', '.join(cls.presets)}")
        return cls(cls.presets[name])

    @classmethod
    def from_pretrained(
        cls, where: str | Path, *, dtype: torch.dtype | None = None, revision: str | None = None
    ) -> Self:
        """From a diffusers CogVideoX folder or hub name: a pipeline's, or the network's own.

        Raises:
            ValueError: another kind of network (CogVideoX 1.5, image-to-video, ...), or weights that do not fit.
            FileNotFoundError: neither a folder nor to be had from the hub, or files are missing.
        """
        folder = locate(where, cls.part, revision)
        with torch.device("meta"):
            network = cls(cls.read_config(folder))
        _load_weights(network, folder, dtype)
        return network.eval()

    def save_pretrained(self, folder: str | Path, *, max_shard_size: str = "10GB") -> None:
        """Writes config.json and safetensors that diffusers' own class loads.

        What is in the folder stays until all is written. Raises ValueError where adapters (LoRA) are in the network.
        """
        _save(self, Path(folder), self.describe(self.config), max_shard_size)

    @classmethod
    def read_config(cls, folder: Path) -> Any:
        """Raises ValueError for another kind of network, and for any setting that this one does not have."""
        found, path = read_config(folder, [cls.kind]), folder / "config.json"
        cls.check(found, path)
        return to_config(found, cls.config_class, cls.fixed, path)

    @classmethod
    def check(cls, found: dict[str, Any], path: Path) -> None:
        """Raises ValueError for kinds that have a name of their own; takes out what is checked so."""

    @classmethod
    def describe(cls, config: Any) -> dict[str, Any]:
        """The config.json of a configuration."""
        return {"_class_name": cls.kind, **cls.fixed, **asdict(config)}


def _load_weights(network: nn.Module, folder: Path, dtype: torch.dtype | None) -> None:
    """Fills a network (built on the meta device) with a folder's weights, in their own type where dtype is None."""
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        try:
            # Copies: what is loaded is mapped, and would change with the file.
            state.update({name: tensor.to(dtype, copy=True) for name, tensor in load_file(path).items()})
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
    network.load_state_dict(state, assign=True)


def _save(network: nn.Module, folder: Path, config: Mapping[str, Any], max_shard_size: str) -> None:
    """Writes beside what is there, then takes its place: weights, their index, config.json, and old shards go last."""
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
    transformer: Network,
    vae: Network,
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
    index = {
        "_class_name": PIPELINES[0],
        "scheduler": ["diffusers", SCHEDULERS[sampler]],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", transformer.kind],
        "vae": ["diffusers", vae.kind],
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


def weight_files(folder: Path) -> list[Path]:
    """A network's safetensors, sorted. Raises FileNotFoundError for those that are missing, ValueError for an index."""
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
