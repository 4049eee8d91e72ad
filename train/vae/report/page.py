"""The report's page about a VAE that is trained: how good it is, pictures, curves, what its latents are like."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from markupsafe import Markup

from orchestration.report import Page, Section, data_uri, environment, formats, strips
from orchestration.storage import Storage
from train.vae.report import charts
from train.vae.report.read import Quality, Survey, Video, survey_run

TEMPLATES = Path(__file__).parent / "templates"
AIM = 2.0  # dB of PSNR above the baseline
BASELINE = "a 16-component linear PCA on 4×8×8 blocks"
PICTURE_BYTES = 12_000_000


@dataclass(frozen=True)
class Shot:
    """A picture in a row. uri: empty where its file is missing."""

    label: str
    uri: str
    psnr: float | None = None


def vae_page(output: Storage, picture_bytes: int = PICTURE_BYTES) -> Page:
    """Read the files of a run's output folder, see read.py; all may be missing. picture_bytes: of what is shown."""
    survey = survey_run(output)
    quality = survey.quality
    rows = _rows(output, quality, picture_bytes) if quality else {}
    shown = charts.shown(survey.steps)
    env = environment(TEMPLATES)
    env.filters["db"] = _db

    def section(title: str, slug: str, lead: str = "", **context: Any) -> Section:
        html = env.get_template(f"{slug}.html").render(survey=survey, quality=quality, **context)
        return Section(title, slug, Markup(html), lead)  # the template escaped it

    return Page(
        title="VAE",
        slug="vae",
        sections=(
            section("Quality", "quality", _lead(quality), aim=AIM, missed=_missed, last=max(survey.steps, default=0)),
            section("Pictures", "pictures", _pictures_lead(quality), rows=rows),
            section("Training", "training", _training_lead(survey), charts=shown, last=charts.last),
            section("Latents", "latents", _latents_lead(quality), shown=_strips(quality), rows=rows),
            section("Configuration", "configuration"),
        ),
        charts={f"vae-{chart.key}": charts.draw(chart, survey.steps) for chart in shown},
        script=(TEMPLATES / "vae.js").read_text(encoding="utf-8"),
        style=(TEMPLATES / "vae.css").read_text(encoding="utf-8"),
    )


def _db(value: float, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    text = f"{value:{'+' if signed else ''}.2f}" if math.isfinite(value) else "∞" if value > 0 else "−∞"
    return text.replace("-", "−")


def _missed(video: Video) -> float:
    """dB of PSNR below the aim; 0: it is met."""
    missing = AIM - (video.vae.psnr - video.pca.psnr)
    return 0.0 if missing <= 0 else missing


def _lead(quality: Quality | None) -> str:
    if quality is None:
        return "There are no figures yet: the run measures at its end."
    if not quality.videos:
        return "No video was measured."
    met, count = sum(_missed(video) == 0 for video in quality.videos), len(quality.videos)
    return f"The aim of {AIM:g} dB of PSNR above {BASELINE} is met on {met} of {formats.plural(count, 'video')}."


def _pictures_lead(quality: Quality | None) -> str:
    if quality is None or not any(video.pictures for video in quality.videos):
        return ""
    return "The middle frame of a window, and the PSNR of all its frames. A click shows a row at its full size."


def _training_lead(survey: Survey) -> str:
    if not survey.steps:
        return ""
    said = formats.plural(max(survey.steps), "step")
    if survey.stages:
        said += f" of {formats.count(sum(stage.steps for stage in survey.stages))}"
    rates = [line["pixels_s"] for line in survey.steps.values() if "pixels_s" in line]
    if rates:
        said += f", at {formats.number(median(rates) / 1e6)} million pixels a second"
    size = charts.group(sum("loss" in line for line in survey.steps.values()))
    return said + (f". Each point is the mean of {size} logged values." if size > 1 else ".")


def _latents_lead(quality: Quality | None) -> str:
    if quality is None or not quality.latents.rows:
        return ""
    latents = quality.latents
    mean, std = (
        f"{formats.number(min(some))} to {formats.number(max(some))}" for some in zip(*latents.rows, strict=True)
    )
    return (
        f"Means of channels: {mean}; standard deviations: {std}; over {formats.plural(latents.windows, 'window')} and "
        f"after the scaling factor {formats.number(latents.scaling_factor)}; diffusion wants 0 and 1."
    )


def _strips(quality: Quality | None) -> dict[str, Any] | None:
    """Channels and, of equally many values each, all together."""
    rows = quality.latents.rows if quality else []
    if not rows:
        return None
    whole = sum(mean for mean, _ in rows) / len(rows)
    square = sum(mean**2 + std**2 for mean, std in rows) / len(rows)
    return strips([*rows, (whole, math.sqrt(max(0.0, square - whole**2)))])


def _rows(output: Storage, quality: Quality, room: int) -> dict[tuple[str, ...], list[Shot]]:
    """Rows of pictures by their names, while they fit: the first of each video, the second …, interpolations last."""
    shown: dict[tuple[str, ...], list[Shot]] = {}
    for names, labels, values in _wanted(quality):
        data = [_picture(output, name) for name in names]
        if (needed := sum(map(len, data))) > room:
            continue
        room -= needed
        uris = [data_uri("image/jpeg", each) if each else "" for each in data]
        shown[names] = [Shot(*about) for about in zip(labels, uris, values, strict=True)]
    return shown


def _wanted(quality: Quality) -> Iterator[tuple[tuple[str, ...], list[str], list[float | None]]]:
    """(names, labels, PSNR) of each row."""
    for some in zip_longest(*(video.pictures for video in quality.videos)):
        for one in filter(None, some):
            yield (one.source, one.pca, one.vae), ["Source", "PCA", "VAE"], [None, one.pca_psnr, one.vae_psnr]
    for names in quality.interpolations:
        steps = [f"{100 * at / max(1, len(names) - 1):.0f} %" for at in range(len(names))]
        yield names, steps, [None] * len(names)


def _picture(output: Storage, name: str) -> bytes:
    try:
        return output.read_bytes(f"pictures/{name}")
    except FileNotFoundError:
        return b""
