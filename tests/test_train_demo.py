"""`make demo`: is a sample nearest to its own clip, what is said of it, and (slow) the demonstration itself."""

from __future__ import annotations

import html
import itertools
import json
import os
import re
import subprocess
from pathlib import Path

import helpers_train
import numpy as np
import pytest
from rich.console import Console

from orchestration.config import load_config
from orchestration.errors import ConfigError, RushesError
from orchestration.storage import Storage
from train.config import TrainConfig
from train.demo.nearest import likeness, shuffled
from train.demo.page import training_page
from train.demo.result import FOLDER, NAME, Demonstration, Sampled
from train.demo.run import demonstrate, judge

ROOT = Path(__file__).parents[1]
HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def clips(samples: Path) -> list[np.ndarray]:
    """Three real ones, [3, 64, 96, 3]."""
    import av

    found = []
    for name in ("bikes", "bigbuckbunny", "carphone_pristine"):
        with av.open(str(samples / f"{name}.mp4")) as container:
            frames = [f.reformat(96, 64, "rgb24").to_ndarray() for f in itertools.islice(container.decode(video=0), 3)]
        found.append(np.stack(frames))
    return found


def noisy(clip: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 12, clip.shape)
    return (clip + noise).clip(0, 255).astype(np.uint8)


def test_samples_of_their_clips_are_nearest_to_them_and_shuffled_ones_are_not(clips) -> None:
    found = likeness([noisy(clip, seed) for seed, clip in enumerate(clips)], clips)
    assert found.own([0, 1, 2]) == [True] * 3
    assert found.own(shuffled(3)) == [False] * 3
    assert np.diag(found.psnr) == pytest.approx(27, abs=1.5)  # of noise with a deviation of 12
    exact = likeness(clips, clips)
    assert np.isinf(np.diag(exact.psnr)).all()
    assert np.diag(exact.features) == pytest.approx(1.0, abs=1e-5)
    assert likeness([clips[1], clips[0], clips[2]], clips).own([0, 1, 2]) == [False, False, True]


def test_both_measures_have_to_agree(clips) -> None:
    found = likeness(clips, clips)
    found.psnr[0] = [20, 30, 10]
    assert found.own([0, 1, 2]) == [False, True, True]


def test_shuffled_captions_are_in_no_place_of_their_own() -> None:
    for count in (2, 3, 5):
        assert sorted(shuffled(count)) == list(range(count))
        assert all(place != other for place, other in enumerate(shuffled(count)))


def demonstration(right: int, shuffled: int = 0, count: int = 5) -> Demonstration:
    each = [
        Sampled(
            prompt=f"caption {at} {HOSTILE}",
            key=f"clip-{at}-w0",
            sample=f"sample-{at + 1}.mp4",
            clip=f"clip-{at + 1}.mp4",
            features=[0.9 if place == (at if at < right else 0) else 0.1 * place for place in range(count)],
            psnr=[21.5 if place == at else 10.0 + place for place in range(count)],
            own=at < right,
            shuffled=at < shuffled,
        )
        for at in range(count)
    ]
    return Demonstration(made_of="0", step=450, seconds=180.0, sampling="ddim, 20 steps", clips=each)


def test_four_of_five_are_enough_and_three_are_not(capsys) -> None:
    console = Console(width=200)
    judge(demonstration(4), Storage("set"), console)
    assert "4 of 5 samples look most like the clip of their own caption; with captions shuffled 0" in (
        capsys.readouterr().out
    )
    with pytest.raises(RushesError, match="4 of 5 are needed: train for more steps") as raised:
        judge(demonstration(3), Storage("set"), console)
    assert raised.value.exit_code == 1
    with pytest.raises(RushesError, match="the comparison says nothing"):
        judge(demonstration(5, shuffled=4), Storage("set"), console)


def test_the_page_shows_samples_beside_clips_nearest_clips_and_the_loss(tmp_path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / NAME).write_text(demonstration(4).model_dump_json())
    for at in range(1, 6):
        (tmp_path / FOLDER / f"clip-{at}.mp4").write_bytes(b"clip %d" % at)
        (tmp_path / FOLDER / f"sample-{at}.mp4").write_bytes(b"sample %d" % at)
    (tmp_path / FOLDER / "sample-5.mp4").unlink()
    lines = [{"t": step, "step": step, "stage": 0, "lr": 1e-3, "loss": 10 / step} for step in range(10, 451, 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.yaml").write_text("model: <tiny>\n")
    page = training_page(Storage(tmp_path))
    assert page.slug == "training"
    assert [part.slug for part in page.sections] == ["samples", "loss", "settings"]
    samples, loss, settings = (str(part.html) for part in page.sections)
    assert "4 of 5 samples look most like" in page.sections[0].lead
    assert samples.count("<video") == 9
    assert samples.count("its file is missing") == 1
    assert "<img" not in samples
    said = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", samples)))
    assert "caption 3" in said
    assert "clip 4 clip 4 0.90 21.5 dB yes, by both" in said  # of caption 3, the fourth
    assert "clip 1 clip 5 0.40 21.5 dB no" in said
    assert "&lt;tiny&gt;" in settings
    assert page.charts["training-loss"]["curves"][0]["y"][-1] == pytest.approx(10 / 450, rel=1e-3)
    assert "training-loss" in loss
    assert "450 steps" in page.sections[1].lead


def test_a_page_of_nothing_says_so(tmp_path) -> None:
    page = training_page(Storage(tmp_path))
    assert "Nothing was sampled yet" in str(page.sections[0].html)
    assert page.charts == {}


def test_what_cannot_be_compared_is_refused(tmp_path) -> None:
    def refused(data: Path, message: str) -> None:
        settings = [f"dataset={data}", f"output={tmp_path / 'out'}"]
        with pytest.raises(ConfigError, match=message):
            demonstrate(load_config(TrainConfig, ROOT / "configs" / "train-demo.yaml", settings), Console())

    helpers_train.make(tmp_path / "many")
    refused(tmp_path / "many", "40 samples in 2 buckets; a demonstration takes 2 to 16 of one")


@pytest.mark.slow
def test_make_demo_from_raw_film_to_sampled_videos(film, tmp_path) -> None:
    command = ["make", "demo", f"DEMO={tmp_path}"]
    fresh = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "ARGS")}
    done = subprocess.run(command, cwd=ROOT, env=fresh, capture_output=True, text=True, timeout=2400)
    assert done.returncode == 0, done.stdout + done.stderr
    found = Demonstration.model_validate_json((tmp_path / "train" / NAME).read_text())
    assert len(found.clips) == 5
    assert found.right >= 4 > found.right_shuffled
    report = (tmp_path / "report" / "index.html").read_text()
    assert report.count("data:video/mp4;base64,") >= 10
    before = (tmp_path / "train" / NAME).stat().st_mtime_ns
    again = subprocess.run(command, cwd=ROOT, env=fresh, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "train" / NAME).stat().st_mtime_ns == before
