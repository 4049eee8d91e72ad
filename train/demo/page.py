"""The report's page about a training that learnt a few clips by heart: samples beside their clips, loss, settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError

from orchestration.report import Page, Section, data_uri, environment, formats
from orchestration.storage import Storage
from train.demo.result import FOLDER, NAME, SHARE, Demonstration
from train.vae.report import charts
from train.vae.report.read import logged, read_text

TEMPLATES = Path(__file__).parent / "templates"
CHARTS = (
    charts.Curves(
        "loss",
        "Loss",
        "Mean squared error of the predicted v, mean over the steps between two points.",
        {"loss": ""},
        wide=True,
        log=True,
    ),
    charts.Curves("grad-norm", "Gradient norm", "Before it is clipped.", {"grad_norm": ""}, log=True),
    charts.Curves("lr", "Learning rate", "Up, then down along a cosine.", {"lr": ""}),
)


@dataclass(frozen=True)
class Row:
    """A caption, its clip and its sample as videos in data URIs (empty: the file is missing), and clips by number."""

    number: int
    prompt: str
    key: str
    clip: str
    sample: str
    by_features: int
    by_pixels: int
    features: float
    psnr: float
    own: bool


def training_page(output: Storage) -> Page:
    """Of a training's output folder: NAME, metrics.jsonl, config.yaml; each may be missing."""
    found = _found(output)
    steps, _ = logged(read_text(output, "metrics.jsonl"))
    config = read_text(output, "config.yaml")
    shown = [chart for chart in CHARTS if any(line.get(name) for line in steps.values() for name in chart.names)]
    env = environment(TEMPLATES)

    def section(title: str, slug: str, lead: str = "", **context: Any) -> Section:
        return Section(title, slug, Markup(env.get_template(f"{slug}.html").render(**context)), lead)

    return Page(
        title="Training",
        slug="training",
        sections=(
            section("Samples", "samples", _lead(found), found=found, rows=_rows(output, found), share=SHARE),
            section("Loss", "loss", _loss_lead(steps), charts=shown, steps=steps, last=charts.last),
            section("Settings", "settings", config=config),
        ),
        charts={f"training-{chart.key}": charts.draw(chart, steps) for chart in shown},
        style=(TEMPLATES / "training.css").read_text(encoding="utf-8"),
    )


def _found(output: Storage) -> Demonstration | None:
    try:
        return Demonstration.model_validate_json(output.read_bytes(NAME))
    except (FileNotFoundError, ValidationError):
        return None


def _rows(output: Storage, found: Demonstration | None) -> list[Row]:
    return [
        Row(
            number=at + 1,
            prompt=one.prompt,
            key=one.key,
            clip=_video(output, one.clip),
            sample=_video(output, one.sample),
            by_features=one.features.index(max(one.features)) + 1,
            by_pixels=one.psnr.index(max(one.psnr)) + 1,
            features=one.features[at],
            psnr=one.psnr[at],
            own=one.own,
        )
        for at, one in enumerate(found.clips if found else ())
    ]


def _lead(found: Demonstration | None) -> str:
    if found is None:
        return ""
    return (
        f"{found.right} of {len(found.clips)} samples look most like the clip of their own caption, by features and by "
        f"pixels; with captions shuffled {found.right_shuffled}."
    )


def _loss_lead(steps: charts.Steps) -> str:
    return (
        f"{formats.plural(max(steps), 'step')} in {formats.duration(steps[max(steps)].get('t', 0))}." if steps else ""
    )


def _video(output: Storage, name: str) -> str:
    try:
        return data_uri("video/mp4", output.read_bytes(f"{FOLDER}/{name}"))
    except FileNotFoundError:
        return ""
