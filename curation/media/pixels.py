"""Decoded pictures as upright 8-bit RGB with square pixels, whatever they were coded as."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

# swscale's shortcut takes the nearest chroma sample and truncates; these flags interpolate and round. Bicubic kernels
# widen with the ratio when a picture shrinks, so nothing aliases.
SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
PQ, HLG = 16, 18  # AVColorTransferCharacteristic
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
WHITE = 203.0  # cd/m², diffuse white of HDR (ITU-R BT.2408); becomes SDR's white, less what highlights take
PEAK = 1000.0  # cd/m² that become SDR 255
KNEE = 0.6  # of SDR's linear range; below it brightness is kept
TO_709 = np.array(  # linear BT.2020 to BT.709 primaries (ITU-R BT.2087)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


@dataclass(frozen=True)
class View:
    """What of a coded picture is shown, and how large. Sizes are (height, width)."""

    rotation: int = 0  # degrees clockwise
    pixel_aspect: float = 1.0  # width of a pixel / its height
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height in coded pixels
    size: tuple[int, int] | None = None  # None: as large as it is, with square pixels
    hdr: str = ""  # pq or hlg, for pictures that do not say it themselves

    def render(self, frame: av.VideoFrame) -> np.ndarray:
        """[H, W, 3] uint8 RGB: cropped, scaled to cover `size`, turned upright, cut to `size` around the centre."""
        transfer = frame.color_trc if frame.color_trc in (PQ, HLG) else {"pq": PQ, "hlg": HLG}.get(self.hdr, 0)
        layout = "rgb48le" if transfer else "rgb24"
        whole = self.crop is None or self.crop == (0, 0, frame.width, frame.height)
        if not whole and self.crop is not None:
            # Cropped before it is scaled, so that the bars do not bleed into the picture.
            x, y, width, height = self.crop
            rgb = convert(frame, layout).to_ndarray()[y : y + height, x : x + width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), layout)  # type: ignore[arg-type]
        scaled, final = self._sizes(frame.height, frame.width)
        picture = convert(frame, layout, scaled).to_ndarray()
        if self.rotation:
            picture = np.rot90(picture, k=-self.rotation // 90)
        top, left = (picture.shape[0] - final[0]) // 2, (picture.shape[1] - final[1]) // 2
        picture = picture[top : top + final[0], left : left + final[1]]
        return tone_map(picture, transfer) if transfer else picture.astype(np.uint8, copy=False)

    def upright(self, height: int, width: int) -> tuple[float, float]:
        """(height, width) as displayed of a picture that is coded, and cropped, so large."""
        shown = (float(height), width * self.pixel_aspect)
        return (shown[1], shown[0]) if self.rotation % 180 else shown

    def _sizes(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(size to scale to, before it is turned; size of the result)."""
        turned = self.rotation % 180 != 0
        upright = self.upright(height, width)
        height, width = self.size or (max(1, round(upright[0])), max(1, round(upright[1])))
        scale = max(height / upright[0], width / upright[1])
        tall, wide = max(height, round(upright[0] * scale)), max(width, round(upright[1] * scale))
        return ((wide, tall) if turned else (tall, wide)), (height, width)


def matrix_of(frame: av.VideoFrame) -> Colorspace:
    """The matrix of a YUV frame. Without a tag HD counts as BT.709, what is smaller as BT.601, as players do."""
    guess = Colorspace.ITU709 if frame.height >= 720 or frame.width >= 1280 else Colorspace.ITU601
    return MATRICES.get(frame.colorspace, guess)


def convert(frame: av.VideoFrame, layout: str, size: tuple[int, int] | None = None) -> av.VideoFrame:
    """The frame as full-range RGB (`layout`: rgb24 or rgb48le) of `size` (height, width), by its own colour matrix."""
    height, width = size or (frame.height, frame.width)
    rgb = frame.format.is_rgb
    full = rgb or frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG
    return frame.reformat(
        width=width,
        height=height,
        format=layout,
        src_colorspace=None if rgb else matrix_of(frame),
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=SCALING,
        threads=1,
    )


def tone_map(picture: np.ndarray, transfer: int) -> np.ndarray:
    """BT.2020 HDR to BT.709 SDR. [H, W, 3] uint16 as coded -> [H, W, 3] uint8.

    Brightness up to KNEE is kept, what is above is compressed so that PEAK becomes white; the hue stays.
    """
    light = _light(transfer)[picture]  # [H, W, 3] float32, 1 = diffuse white
    if transfer == HLG:  # the display's own gamma at 1000 cd/m² (BT.2100 OOTF)
        luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light = light * (PEAK / WHITE) * np.maximum(luminance, 1e-6)[..., None] ** 0.2
    brightest = np.maximum(light.max(-1, keepdims=True), 1e-6)
    over = np.maximum(brightest - KNEE, 0) / (1 - KNEE)
    white = (PEAK / WHITE - KNEE) / (1 - KNEE)
    mapped = np.minimum(brightest, KNEE) + (1 - KNEE) * over * (1 + over / white**2) / (1 + over)
    light = (light * (mapped / brightest)) @ TO_709.T
    return np.rint(np.clip(light, 0, 1) ** (1 / 2.4) * 255).astype(np.uint8)


@lru_cache(maxsize=2)
def _light(transfer: int) -> np.ndarray:
    """[65536] float32: code value to light; PQ relative to WHITE, HLG to the scene's peak (ITU-R BT.2100)."""
    code = np.arange(65536) / 65535
    if transfer == PQ:
        power = code ** (32 / 2523)
        nits = 10000 * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)
        return (nits / WHITE).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)
