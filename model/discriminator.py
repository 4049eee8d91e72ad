"""A discriminator over space and time, and the losses of the game that it plays with a VAE.

It judges patches, not videos (Isola et al., CVPR 2017; VQGAN, Esser et al., CVPR 2021), by 3D convolutions as
CogVideoX's (section 2.1). Videos are [B, 3, T, H, W] in [-1, 1]; an image is T = 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PER_GROUP = 8  # channels that are normalised together
SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """VQGAN's PatchGAN with a third dimension: [B, 3, T, H, W] -> a logit a patch, [B, 1, t, h, w]; large means real.

    In space the kernels are 4 wide, as VQGAN's: `levels` of stride 2, then two of stride 1. In time they are 3 wide,
    with zeros around and the same strides, so 8N+1 frames become 4N+1, then 2N+1, N+1, and one frame stays one: an
    image meets the kernels' middle slices only, a 2D PatchGAN.

    Groups are normalised, not batches: a batch of a video or two has no useful statistics, they would differ between
    ranks and between real and made, and one sample's verdict (and R1's gradient) would hang on its neighbours.

    Args:
        width: channels behind the first layer, a multiple of 4: 64 is VQGAN's, 16 suits CPUs.
        levels: how often the size is halved; from the third on, channels stay at 8 widths.

    Raises:
        ValueError: a width that cannot be grouped, no level.
    """

    def __init__(self, width: int = 64, levels: int = 3):
        super().__init__()
        if width < 4 or width % 4 or levels < 1:
            raise ValueError(f"width {width}, levels {levels}; the width has to be a multiple of 4, levels at least 1")
        self.smallest = 3 * 2**levels  # px, what leaves one patch
        layers: list[nn.Module] = [_conv(3, width, stride=2), nn.LeakyReLU(SLOPE)]
        before = width
        for level in range(1, levels + 1):
            after = width * min(2**level, 8)
            layers += [
                _conv(before, after, stride=2 if level < levels else 1, bias=False),
                nn.GroupNorm(after // PER_GROUP, after),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
            before = after
        self.layers = nn.Sequential(*layers, _conv(before, 1, stride=1))
        for layer in self.layers:
            if isinstance(layer, _Conv):
                nn.init.normal_(layer.weight, std=0.02)  # DCGAN's, as in pix2pix and VQGAN

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> [B, 1, t, h, w]. Raises ValueError for other shapes, and frames too small for a patch."""
        if video.ndim != 5 or video.shape[1] != 3 or min(video.shape[3:]) < self.smallest:
            raise ValueError(
                "the discriminator takes [batch, 3, frames, height, width] of at least "
                f"{self.smallest}x{self.smallest} px, not {list(video.shape)}"
            )
        return self.layers(video)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Half the sum of what keeps real logits under 1 and fake ones over -1 (Lim, Ye, 2017; halved as in VQGAN)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    return -fake.mean()


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Half the cross-entropies of logits (Goodfellow et al., 2014)."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def non_saturating_generator(fake: Tensor) -> Tensor:
    return F.softplus(-fake).mean()


def r1_penalty(real: Tensor, logits: Tensor) -> Tensor:
    """Half the squared length of the gradient of a video's mean logit by its pixels, averaged over the batch.

    Mescheder et al., ICML 2018, equation 9, without its factor gamma.

    Args:
        real: [B, ...], requires gradients.
        logits: [B, ...], what the discriminator says to it.
    """
    (gradient,) = torch.autograd.grad(logits.flatten(1).mean(1).sum(), real, create_graph=True)
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


class _Conv(nn.Conv3d):
    """Where there is one frame, its zero neighbours are left out: fewer products, and oneDNN's bfloat16 kernels for AMX
    give memory that was never written where few channels meet one frame and padding (seen with torch 2.13)."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[2] > 1:
            return super().forward(input)
        return F.conv3d(input, self.weight[:, :, 1:2], self.bias, self.stride, (0, 1, 1))


def _conv(channels_in: int, channels_out: int, stride: int, bias: bool = True) -> _Conv:
    return _Conv(channels_in, channels_out, (3, 4, 4), stride, padding=1, bias=bias)
