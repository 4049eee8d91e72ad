"""The page of a VAE that is trained: its numbers are those of the run's files, whatever state they are in."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from orchestration.report import Page
from orchestration.storage import Storage
from train.vae.report import charts
from train.vae.report.page import vae_page
from train.vae.report.write import write_report

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>.mp4"
STAGES = [
    {"steps": 400, "frames": 1, "size": 64, "batch": 8},
    {"steps": 600, "frames": 9, "size": 64, "images": 0.25, "normalise": True},
]
MEANS, STDS = np.linspace(-0.05, 0.03, 16), np.linspace(0.9, 1.1, 16)


def picture(folder: Path, name: str, value: int) -> str:
    """A flat picture of 64 x 48, told by its value."""
    (folder / "pictures").mkdir(exist_ok=True)
    assert cv2.imwrite(str(folder / "pictures" / name), np.full((48, 64, 3), value, np.uint8))
    return name


def video(folder: Path, name: str, psnr: float, value: int) -> dict[str, Any]:
    """Two pictures; the PCA has 30 dB."""
    size = {"windows": 8, "frames": 16, "height": 256, "width": 592}
    return size | {
        "name": name,
        "vae": {"psnr": psnr, "ssim": 0.931, "flicker": 35.25},
        "pca": {"psnr": 30.0, "ssim": 0.952, "flicker": 34.0},
        "pictures": [
            {
                kind: picture(folder, f"v{value}-{number}-{kind}.jpg", value + 10 * number + at)
                for at, kind in enumerate(("source", "pca", "vae"))
            }
            | {"pca_psnr": 28.0 + number, "vae_psnr": 31.5 + number}
            for number in range(2)
        ],
    }


def logged(step: int) -> dict[str, float]:
    line = {"t": step / 10, "step": step, "stage": int(step > 400), "lr": 1e-3, "loss": 40 / step, "l1": 20 / step}
    line |= {"perceptual": 0.5, "kl": 900.0, "adversarial": 0.0, "grad_norm": 0.7, "psnr": 20 + step / 100}
    return line | {"pixels_s": 1.5e6} | ({"discriminator": 1.1} if step > 800 else {})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"dataset": "films/<bunny>", "stages": STAGES}))
    lines: list[dict[str, float]] = []
    for step in range(50, 1001, 50):
        lines.append(logged(step))
        lines += [{"t": step / 10, "step": step, "held_out_psnr": 19 + step / 100}] if step % 500 == 0 else []
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    videos = [video(folder, "bikes.mp4", 32.4, 40), video(folder, "vtest.avi", 31.97, 80)]
    videos.append(video(folder, HOSTILE, 29.5, 120) | {"pictures": []})
    run = {"step": 1000, "trained_s": 5400.0, "machine": "two <slow> cores", "parameters": 8_350_000}
    quality = run | {
        "bytes": 16_700_000,
        "videos": videos,
        "latents": {"mean": MEANS.tolist(), "std": STDS.tolist(), "scaling_factor": 1.02, "windows": 40},
        "interpolations": [[picture(folder, f"interpolation-0-{at}.jpg", 200 + at) for at in range(5)]],
    }
    (folder / "quality.json").write_text(json.dumps(quality))
    return folder


def change(folder: Path, new: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads((folder / "quality.json").read_text())
    new(found)
    (folder / "quality.json").write_text(json.dumps(found))


def made(folder: Path, **how: int) -> Page:
    return vae_page(Storage(folder), **how)


def section(page: Page, slug: str) -> str:
    return next(str(part.html) for part in page.sections if part.slug == slug)


def shown(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()


def whole(page: Page) -> str:
    return shown(" ".join(part.lead + " " + str(part.html) for part in page.sections))


def cells(text: str) -> list[list[str]]:
    return [
        [shown(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S)]
        for line in re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.S)
    ]


def values(text: str) -> list[int]:
    """Of the pictures in a text, in its order."""
    jpegs = [base64.b64decode(data) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", text)]
    return [round(float(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).mean())) for data in jpegs]  # type: ignore[union-attr]


def curves(page: Page, key: str) -> dict[str, list[tuple[int, float]]]:
    return {
        curve["name"]: list(zip(curve["x"], curve["y"], strict=True)) for curve in page.charts[f"vae-{key}"]["curves"]
    }


def test_the_table_says_by_how_much_the_aim_is_met_or_missed(output: Path):
    page = made(output)
    assert [part.slug for part in page.sections] == ["quality", "pictures", "training", "latents", "configuration"]
    assert page.sections[0].lead == (
        "The aim of 2 dB of PSNR above a 16-component linear PCA on 4×8×8 blocks is met on 1 of 3 videos."
    )
    rows = {row[0].split(" 8 windows")[0]: row[1:] for row in cells(section(page, "quality"))[2:]}
    rest = ["0.931", "0.952", "−0.021", "35.25", "34.00", "+1.25"]
    assert rows["bikes.mp4"] == ["32.40", "30.00", "+2.40", *rest, "met"]
    assert rows["vtest.avi"] == ["31.97", "30.00", "+1.97", *rest, "missed by 0.03 dB"]
    assert rows[HOSTILE] == ["29.50", "30.00", "−0.50", *rest, "missed by 2.50 dB"]
    text = whole(page)
    assert "bikes.mp4 8 windows of 16 × 256 × 592" in text
    for stat in ("steps 1,000", "trained 1.5 h two <slow> cores", "parameters 8.35 M", "file of weights 16.7 MB"):
        assert stat in text
    assert "<script" not in section(page, "quality")


def test_source_pca_and_vae_stand_side_by_side_with_their_psnr(output: Path):
    text = section(made(output), "pictures")
    bikes, vtest = text.split("<h3>")[1:]
    assert values(bikes) == pytest.approx([40, 41, 42, 50, 51, 52], abs=1)
    assert values(vtest) == pytest.approx([80, 81, 82, 90, 91, 92], abs=1)
    assert re.findall(r"Source|(?:PCA|VAE) [\d.]+ dB", shown(bikes)) == [
        *("Source", "PCA 28.00 dB", "VAE 31.50 dB"),
        *("Source", "PCA 29.00 dB", "VAE 32.50 dB"),
    ]


def test_what_does_not_fit_is_left_out_the_most_important_stays(output: Path):
    size = sum((output / "pictures" / f"v40-0-{kind}.jpg").stat().st_size for kind in ("source", "pca", "vae"))
    page = made(output, picture_bytes=round(2.5 * size))
    bikes, vtest = section(page, "pictures").split("<h3>")[1:]
    assert values(bikes) == pytest.approx([40, 41, 42], abs=1)
    assert values(vtest) == pytest.approx([80, 81, 82], abs=1)
    assert [shown(text).count("1 row left out") for text in (bikes, vtest)] == [1, 1]
    assert "1 row left out" in shown(section(page, "latents"))
    assert not values(section(page, "latents"))


def test_a_picture_whose_file_is_missing_is_said(output: Path):
    (output / "pictures" / "v40-0-pca.jpg").unlink()
    text = section(made(output), "pictures").split("<h3>")[1]
    assert "its file is missing PCA 28.00 dB" in shown(text)
    assert values(text) == pytest.approx([40, 42, 50, 51, 52], abs=1)


def test_curves_are_what_was_logged_and_stages_are_marked(output: Path):
    page = made(output)
    found = curves(page, "psnr")
    assert found["training batches"] == [(step, 20 + step / 100) for step in range(50, 1001, 50)]
    assert found["held out"] == [(500, 24.0), (1000, 29.0)]
    assert [(line["x"], line["label"]) for line in page.charts["vae-loss"]["lines"]] == [(400, "1")]
    assert page.charts["vae-loss"]["log"]
    assert curves(page, "discriminator") == {"Discriminator": [(850, 1.1), (900, 1.1), (950, 1.1), (1000, 1.1)]}
    assert "vae-adversarial" not in page.charts  # it never played
    assert "last training batches 30, held out 29" in whole(page)
    assert "1,000 steps of 1,000, at 1.5 million pixels a second." in whole(page)
    rows = cells(section(page, "training"))
    assert rows[1:] == [
        ["0", "400", "8 of 1 × 64 × 64", "8", "20.0 %", "–"],
        ["1", "600", "4 of 9 × 64 × 64", "8", "25.0 %", "brought to mean 0 and deviation 1 first"],
    ]


def test_a_run_that_went_on_counts_once_and_a_line_in_work_is_passed_over(output: Path):
    with (output / "metrics.jsonl").open("a") as file:
        for step in (950, 1000, 1050):
            file.write(json.dumps(logged(step) | {"psnr": 40.0 + step}) + "\n")
        file.write('{"t": 110.0, "step": 1100, "psn')
    page = made(output)
    steps = curves(page, "psnr")["training batches"]
    assert steps[-4:] == [(900, 29.0), (950, 990.0), (1000, 1040.0), (1050, 1090.0)]
    assert curves(page, "psnr")["held out"] == [(500, 24.0), (1000, 29.0)]
    assert "damaged" not in whole(page)
    assert "Measured at step 1,000; the training is at 1,050 since." in whole(page)


def test_long_runs_are_thinned_and_what_is_not_finite_is_a_gap(output: Path):
    lines = [logged(step) | {"loss": float(step)} for step in range(1, 1001)]
    lines[-1]["loss"] = math.nan
    (output / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    page = made(output)
    loss = curves(page, "loss")["Loss"]
    assert len(loss) == 334 <= charts.MOST
    assert loss[:2] == [(3, 2.0), (6, 5.0)]
    assert loss[-1] == (1000, None)
    assert "Each point is the mean of 3 logged values." in whole(page)
    json.dumps(page.charts, allow_nan=False)


def test_latents_are_shown_by_channel_and_between_clips(output: Path):
    page = made(output)
    part = next(part for part in page.sections if part.slug == "latents")
    assert "Means of channels: −0.05 to 0.03; standard deviations: 0.9 to 1.1; over 40 windows" in part.lead
    assert "after the scaling factor 1.02" in part.lead
    rows = cells(str(part.html))[1:]
    assert len(rows) == 17
    assert rows[0][::3] == ["0", "0.9"]
    assert rows[0][2] == "−0.05"
    mean, square = MEANS.mean(), (MEANS**2 + STDS**2).mean()
    assert rows[16][2:] == ["−0.01", f"{math.sqrt(square - mean**2):.3g}"]
    assert values(str(part.html)) == pytest.approx([200, 201, 202, 203, 204], abs=1)
    assert re.findall(r"\d+ %", shown(str(part.html))) == ["0 %", "25 %", "50 %", "75 %", "100 %"]


def test_the_configuration_is_shown_as_it_is(output: Path):
    assert "dataset: films/<bunny>" in shown(section(made(output), "configuration"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.yaml", None, "config.yaml is missing."),
        ("config.yaml", "stages: [{steps: 4", "config.yaml is damaged or cut off"),
        ("config.yaml", "seed: 1\n", "config.yaml is damaged or cut off"),
        ("metrics.jsonl", None, "Nothing was logged yet."),
        ("metrics.jsonl", '{"t": 1, "st', "Nothing was logged yet."),
        ("metrics.jsonl", '{"t"\n[1]\n{"step": 50, "psnr": 21}\n', "metrics.jsonl is damaged: 2 of its lines"),
        ("quality.json", None, "There are no figures yet"),
        ("quality.json", '{"step": 1000, "trained_s"', "quality.json is damaged or cut off: Invalid JSON"),
        ("quality.json", '{"step": 1000}', "quality.json is damaged or cut off: trained_s: Field required"),
    ],
)
def test_files_that_are_missing_or_cut_off_are_said(output: Path, name: str, content: str | None, said: str):
    if content is None:
        (output / name).unlink()
    else:
        (output / name).write_text(content)
    assert said in whole(made(output))
    assert write_report(Storage(output)) > 10_000


def test_an_empty_folder_and_odd_figures_make_a_page_too(output: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert write_report(Storage(tmp_path / "empty")) > 10_000
    change(output, lambda found: found.update(videos=[], interpolations=[]))
    assert "No video was measured." in whole(made(output))
    change(output, lambda found: found.update(latents={}))
    assert "No latents were measured." in whole(made(output))
    figures = {"psnr": math.inf, "ssim": math.nan, "flicker": math.inf}
    odd = video(output, "black.mp4", 30.0, 10) | {"vae": figures, "pca": figures}
    change(output, lambda found: found.update(videos=[odd]))
    row = cells(section(made(output), "quality"))[2]
    assert row[1:4] == ["∞", "∞", "–"]
    assert row[-1] != "met"
    assert write_report(Storage(output)) > 10_000


def test_the_report_opens_and_a_row_is_seen_at_its_full_size(output: Path, browser: Any):
    write_report(Storage(output))
    path = output / "report" / "index.html"
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-charts=ready]", timeout=20_000)
    page.evaluate("document.querySelector('[data-chart=vae-psnr]').scrollIntoView()")
    page.wait_for_selector("[data-chart=vae-psnr] .scatterlayer .trace", state="attached")
    assert page.locator("[data-chart=vae-psnr] .scatterlayer .trace").count() == 2
    assert page.locator("[data-chart=vae-psnr] .shapelayer path").count() == 1  # where the second stage begins
    page.fill("#filter", "vtest")
    assert [one.is_visible() for one in page.locator("#vae-pictures .group").all()] == [False, True]
    page.fill("#filter", "")
    page.locator("#vae .shots").first.click()
    assert page.locator(".pixels[open] img").count() == 3
    sides = page.eval_on_selector_all(".pixels img", "all => all.map((one) => [one.width, one.height])")
    assert sides == [[64, 48]] * 3
    page.keyboard.press("Escape")
    assert page.locator(".pixels[open]").count() == 0
    for width in (360, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    page.close()
