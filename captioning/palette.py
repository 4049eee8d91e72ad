"""Names of the colours that fill pictures: the nearest entry of a small table in CIELAB (D65), black bars left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Name: (shade, L* 0 to 100, a* green to red, b* blue to yellow). What covers much has several entries; borders
# between greys and colours lie at half of an entry's chroma, so that a tinted grey stays grey.
TABLE: dict[str, tuple[tuple[str, float, float, float], ...]] = {
    "black": (("", 3, 0, 0), ("", 10, 0, 0)),
    "grey": (("dark", 28, 0, 0), ("", 45, 0, 0), ("", 62, 0, 0), ("light", 80, 0, 0)),
    "white": (("", 95, 0, 0),),
    "red": (("", 50, 68, 45), ("", 42, 50, 28), ("dark", 27, 38, 20)),
    "pink": (("", 70, 40, 0), ("", 80, 24, 4), ("light", 88, 14, 4)),
    "orange": (("", 68, 38, 68), ("", 62, 50, 60)),
    "brown": (("", 40, 18, 28), ("", 52, 14, 26), ("dark", 25, 12, 18)),
    "beige": (("", 82, 3, 18), ("", 70, 6, 22)),
    "yellow": (("", 88, -4, 75), ("", 75, 5, 70)),
    "green": (
        *(("", 50, -40, 35), ("", 65, -50, 45), ("", 45, -25, 25), ("", 60, -16, 18), ("", 50, -8, 42)),
        *(("", 75, -30, 60), ("", 62, -24, 52), ("dark", 25, -16, 16), ("dark", 35, -7, 28), ("light", 84, -28, 24)),
    ),
    "turquoise": (("dark", 45, -26, -6), ("", 75, -32, -8)),
    "blue": (
        *(("light", 80, -10, -20), ("light", 70, -8, -30), ("light", 75, 3, -22)),
        *(("", 52, -2, -40), ("", 40, 18, -55), ("dark", 22, 8, -30)),
    ),
    "purple": (("", 40, 40, -40), ("", 60, 28, -30), ("light", 76, 18, -16), ("", 55, 75, -25)),
}
SIDE = 64  # px, longer side: colours of areas, not of specks
BAR = 12.0  # L*, under which a row or column at the rim, in all pictures, belongs to a black bar
SMALLEST_SHARE = 0.4  # of the area; less within bars is a title on black, whose black counts
ONE_SHADE = 0.6  # of a name's area, from which on its shade is named with it
_ENTRIES = [(name, *entry) for name, entries in TABLE.items() for entry in entries]
_LAB = np.array([entry[2:] for entry in _ENTRIES], np.float32)


def lab(picture: np.ndarray) -> np.ndarray:
    """[h, w, 3] float32 L*a*b* of [H, W, 3] uint8 sRGB, made smaller to SIDE."""
    import cv2

    height, width = picture.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)


def without_bars(pictures: np.ndarray) -> np.ndarray:
    """[T, h, w, 3] L*a*b* without the rows and columns at the rim that are black in all pictures."""
    lit = (pictures[..., 0] > BAR).any(axis=0)
    rows, columns = np.flatnonzero(lit.any(axis=-1)), np.flatnonzero(lit.any(axis=0))
    if not len(rows):
        return pictures
    inside = pictures[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return inside if inside[0].size >= SMALLEST_SHARE * pictures[0].size else pictures


def shares(pictures: Sequence[np.ndarray]) -> dict[str, float]:
    """Share of the pictures' area (0-1) of each colour that occurs ("dark green", "white"), the largest first.

    pictures: [H, W, 3] uint8 RGB each, of equal size, at least one.
    """
    pixels = without_bars(np.stack([lab(picture) for picture in pictures])).reshape(-1, 3)
    nearest = np.square(pixels[:, None] - _LAB).sum(axis=2).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(_ENTRIES)) / len(pixels)
    found: dict[str, float] = {}
    for name in TABLE:
        shades: dict[str, float] = {}
        for (owner, shade, *_), share in zip(_ENTRIES, counts, strict=True):
            if owner == name:
                shades[shade] = shades.get(shade, 0.0) + float(share)
        total = sum(shades.values())
        if total:
            shade = max(shades, key=lambda each: shades[each])
            said = f"{shade} {name}".strip() if shades[shade] >= ONE_SHADE * total else name
            found[said] = total
    return dict(sorted(found.items(), key=lambda item: -item[1]))
