"""Numbers and texts as the report writes them."""

from __future__ import annotations

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: float) -> str:
    return f"{value:,.0f}"


def plural(value: int, noun: str) -> str:
    """`1 clip`, `2,000 clips`."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def number(value: float | None) -> str:
    """Three significant digits, whole numbers in full."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) < 1e15:
        text = f"{int(value):,}"
    elif abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) < 5e-4:
        mantissa, _, power = f"{value:.1e}".partition("e")
        text = f"{mantissa}×10" + str(int(power)).translate(_SUPERSCRIPTS)
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """In the unit a person would choose: `2.4 s`, `12 min`, `3.5 h`, `1,204 h`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{seconds / 60:.3g} min"
    hours = seconds / 3600
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"


def clock(seconds: float | None) -> str:
    """A position in a video: `1:02:03.4`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{tenths // 10:02d}.{tenths % 10}"


def size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.0f} PB"


def share(part: float, whole: float) -> str:
    """A percentage that never rounds something to nothing, nor almost all to all."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %" if percent < 99.95 and percent >= 0.05 else f"{percent:.0f} %"


def short(text: object, limit: int = 300) -> str:
    """At most `limit` characters, so that no text of the data can fill the report."""
    value = str(text)
    return value if len(value) <= limit else value[: limit - 1] + "…"
