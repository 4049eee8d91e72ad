"""`rushes train-vae` as users run it: what it leaves, exact resume, two ranks, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers_curate import ROOT, command, rushes, table, wait_for
from helpers_vae import STEPS, exact, logged, steps_saved, stopped, vae_config
from safetensors.torch import load_file
from threadpoolctl import threadpool_limits

from curation.scorers.runtime import allow_torchvision
from latents.vae import VaeConfig, VideoEncoder
from model.vae import CausalVAE
from train.held_out import is_held_out

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Processes that are started too: threads of several of them wait for each other."""
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(name, "1")
        yield


@pytest.fixture(scope="module")
def clips(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bikes.mp4 and two pictures, curated by the shipped configuration."""
    root = tmp_path_factory.mktemp("clips")
    raw = root / "raw"
    raw.mkdir()
    shutil.copy(samples / "bikes.mp4", raw)
    video = cv2.VideoCapture(str(raw / "bikes.mp4"))
    frames = [video.read()[1] for _ in range(120)]
    for number in (20, 90):
        assert cv2.imwrite(str(raw / f"still{number}.png"), frames[number])
    settings = (f"input={raw}", f"output={root / 'data'}", "images=true", "report.enabled=false")
    rushes("curate", ROOT / "configs" / "vae-clips.yaml", *settings)
    return root / "data"


@pytest.fixture(scope="module")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a training that nothing disturbed; `printed.txt` is what it said."""
    root = tmp_path_factory.mktemp("whole")
    text = rushes("train-vae", vae_config(root / "vae.yaml", clips, root / "run"))
    (root / "run" / "printed.txt").write_text(text)
    return root / "run"


def test_a_training_ends_with_a_vae_that_is_measured(clips: Path, whole: Path):
    text = (whole / "printed.txt").read_text()
    assert "1 clips or parts of clips give no window: shorter than 9 frames" in text
    assert f"Training done: {STEPS} of {STEPS} steps" in text
    assert re.search(r"bikes.mp4: PSNR [\d.]+ dB \(linear code [\d.]+\)", text)
    index = json.loads((whole / "windows" / "index.json").read_text())
    assert index["stills.bin"][0] == 4  # two squares of each picture
    names = {row["clip_id"] for row in table(clips, "clips") if not row["image"]}
    assert set(index["clips"]) <= names
    assert {is_held_out(name, 0.5) for name in index["clips"]} == {True, False}

    rows = logged(whole)
    assert list(rows) == list(range(1, STEPS + 1))
    assert [rows[step]["stage"] for step in rows] == [0] * 4 + [1] * 6
    assert all(np.isfinite(value) for row in rows.values() for value in row.values())
    for step, row in rows.items():
        plays = step > 6
        assert (row["adversarial"] != 0) is plays
        assert ({"discriminator", "real", "fake", "r1"} <= set(row)) is plays
        terms = row["l1"] + 0.01 * row["perceptual"] + 1e-6 * row["kl"]
        terms += 0.5 * row["adversarial_weight"] * row["adversarial"]
        assert row["loss"] == pytest.approx(terms, rel=1e-5)
    assert [step for step in rows if "held_out_psnr" in rows[step]] == [5, 10]
    assert steps_saved(whole) == [STEPS - 1, STEPS]

    quality = json.loads((whole / "quality.json").read_text())
    (video,) = quality["videos"]
    assert video["name"] == "bikes.mp4"
    assert (video["windows"], video["frames"], video["height"]) == (2, 8, 64)
    assert video["pca_own"]["psnr"] > video["pca"]["psnr"] > video["vae"]["psnr"] > 5  # ten steps do not teach much
    assert quality["step"] == STEPS
    assert quality["parameters"] == sum(tensor.numel() for tensor in load_file(whole / WEIGHTS).values())
    pictures = [name for row in video["pictures"] for kind, name in row.items() if not kind.endswith("psnr")]
    pictures += [name for row in quality["interpolations"] for name in row]
    assert len(pictures) == 11
    assert all(cv2.imread(str(whole / "pictures" / name)).shape[0] == 64 for name in pictures)
    assert "bikes.mp4" in (whole / "report" / "index.html").read_text()


def test_the_vae_is_diffusers_and_an_encoder_of_latents(whole: Path):
    allow_torchvision()
    from diffusers import AutoencoderKLCogVideoX

    config = json.loads((whole / "vae" / "config.json").read_text())
    mean, std = (np.array(config[f"latents_{name}"]) for name in ("mean", "std"))
    assert mean.shape == std.shape == (4,)
    assert config["scaling_factor"] == pytest.approx(1 / np.sqrt((mean**2 + std**2).mean()))
    assert all(tensor.dtype == torch.float16 for tensor in load_file(whole / WEIGHTS).values())
    latents = json.loads((whole / "quality.json").read_text())["latents"]
    assert np.allclose(latents["std"], 1, atol=0.7)

    ours = CausalVAE.from_pretrained(whole / "vae", dtype=torch.float32)
    theirs = AutoencoderKLCogVideoX.from_pretrained(whole / "vae", torch_dtype=torch.float32)
    pixels = np.fromfile(whole / "windows" / "pixels.bin", np.uint8).reshape(-1, 9, 32, 32, 3)
    video = torch.from_numpy(pixels[:2]).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with torch.no_grad():
        moments, wanted = ours.encode(video).mean, theirs.encode(video).latent_dist.mean
        torch.testing.assert_close(moments, wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.decode(moments), theirs.decode(wanted).sample, atol=1e-4, rtol=0)

    encoder = VideoEncoder(VaeConfig(model=str(whole / "vae"), device="cpu"))
    facts = encoder.facts
    assert facts["model"].startswith("vae#")
    assert (facts["latent_channels"], facts["scaling_factor"]) == (4, config["scaling_factor"])
    encoder.setup()
    torch.testing.assert_close(encoder.encode(pixels[0])["mean"], moments[0], atol=1e-4, rtol=0)


def test_tensorboard_shows_what_metrics_say(whole: Path):
    rows = logged(whole)
    board = events(whole)
    for name in ("loss", "psnr", "perceptual", "lr", "discriminator", "held_out_psnr"):
        curve = {event.step: event.value for event in board.Scalars(name)}
        assert curve == pytest.approx({step: row[name] for step, row in rows.items() if name in row})
    shown = board.Images("held out: source, reconstruction")
    assert [event.step for event in shown] == [5, 10]
    picture = cv2.imdecode(np.frombuffer(shown[-1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR_RGB)
    pixels = np.fromfile(whole / "windows" / "pixels.bin", np.uint8).reshape(-1, 9, 32, 32, 3)
    names = json.loads((whole / "windows" / "index.json").read_text())["clips"]
    held = next(number for number, name in enumerate(names) if is_held_out(name, 0.5))
    assert np.array_equal(picture[:, :32], pixels[held, -1])


def events(output: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(output / "tensorboard"), {"scalars": 0, "images": 0})
    board.Reload()
    return board


def test_killed_and_stopped_it_ends_with_the_same_bits(clips: Path, whole: Path, tmp_path: Path):
    output = tmp_path / "run"
    path = vae_config(tmp_path / "vae.yaml", clips, output)
    code, _ = stopped(path, signal.SIGKILL, lambda: max(steps_saved(output), default=0) >= 2)
    assert code == -signal.SIGKILL
    killed = steps_saved(output)[-1]
    assert killed < STEPS
    # No checkpoint but the one that the signal asks for.
    code, text = stopped(path, signal.SIGTERM, lambda: max(logged(output)) >= max(6, killed + 1), "save_minutes=600")
    assert code == 1, text
    assert f"going on from step {killed} of {STEPS}" in text
    (step,) = re.findall(r"stopped at step (\d+), which is saved: the same command goes on from there", text)
    assert steps_saved(output)[-1] == int(step) > killed
    assert f"going on from step {step} of {STEPS}" in rushes("train-vae", path)

    assert exact(logged(output)) == exact(logged(whole))
    assert (output / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    volatile = {"trained_s"}
    found, wanted = (json.loads((folder / "quality.json").read_text()) for folder in (output, whole))
    assert {key: found[key] for key in found.keys() - volatile} == {key: wanted[key] for key in found.keys() - volatile}
    for name in ("pixels.bin", "stills.bin"):  # decoded a second time
        assert (output / "windows" / name).read_bytes() == (whole / "windows" / name).read_bytes()
    assert [event.step for event in events(output).Scalars("loss")] == list(range(1, STEPS + 1))


def test_a_training_that_is_done_is_measured_again_only(clips: Path, whole: Path, tmp_path: Path, in_process):
    output = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(output / "vae")
    (output / "quality.json").unlink()
    text = in_process(vae_config(tmp_path / "vae.yaml", clips, output))
    assert f"going on from step {STEPS} of {STEPS}" in text
    assert "Training done" not in text
    assert (output / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert (output / "quality.json").exists()


@pytest.mark.slow
def test_two_ranks_stop_go_on_and_train_one_vae(clips: Path, whole: Path, tmp_path: Path, in_process):
    output = tmp_path / "run"
    path = vae_config(tmp_path / "vae.yaml", clips, output, save_minutes=600)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    start = [*launch, *command("train-vae", path, "stages.1.steps=30")]
    with subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/") as process:
        try:
            wait_for(lambda: ((output / "metrics.jsonl").exists() and len(logged(output)) > 2) or process.poll())
        finally:
            process.terminate()  # the launcher, which tells the ranks
            text, _ = process.communicate(timeout=120)
    (step,) = set(re.findall(r"stopped at step (\d+), which is saved", text)) or {text}  # each rank says so
    assert steps_saved(output) == [int(step)] == [max(logged(output))]

    done = subprocess.run(start, capture_output=True, text=True, timeout=240, check=False, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"going on from step {step} of 34") == 1
    assert done.stdout.count("Training done: ") == 1
    rows = logged(output)
    assert list(rows) == list(range(1, 35))
    # The first rank's first batch is what one rank alone sees; its gradient is the mean of both.
    alone = logged(whole)
    assert rows[1]["loss"] == alone[1]["loss"]
    assert rows[1]["grad_norm"] != alone[1]["grad_norm"]
    assert rows[3]["loss"] != alone[3]["loss"]
    CausalVAE.from_pretrained(output / "vae")

    text = in_process(path, "stages.1.steps=30", code=2)
    assert "is of 2 ranks, not 1: samples would be others" in text
    assert steps_saved(output)[-1] == 34


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1"], r"is of other settings: seed was 0, is 1\. Give another output; init=\S+step-00000010 goes on"),
        (["windows.size=40"], "is of other settings: windows.size was"),
        (["stages.1.size=64"], r"stages\.1\.size is 64, but windows\.size is 32: samples are cut out of windows"),
        (["stages.1.frames=17"], r"stages\.1\.frames is 17, but windows\.frames is 9"),
        (["stages.1.frames=8"], r"stages\.1\.frames: .*8 frames are not 8N\+1.*Take 1 or 9"),
        (["windows.frames=1"], r"windows\.frames"),
        (["measure.frames=1"], r"measure\.frames"),
        (["network.channels=[8,8,8,10]"], r"network: .*channels \[10\] cannot be normalised in 4 groups"),
        (["optimizer.rate=1"], r"optimizer\.rate"),
        (["stages=[]"], "stages"),
        (["measure.dataset=/nowhere"], "/nowhere holds no curated clips; run `rushes curate` first"),
        (["dataset=/nowhere"], "/nowhere holds no curated clips; run `rushes curate` first"),
        (["output=s3://bucket/vae"], "output: a local folder; copy it to the bucket"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(clips, whole, tmp_path, in_process, overrides, message):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file() and "runs" not in path.parts}
    text = in_process(vae_config(tmp_path / "vae.yaml", clips, whole), *overrides, code=2)
    assert re.search(message, text), text
    after = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file() and "runs" not in path.parts}
    assert before == after


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["windows.held_out=0.9999"], r"windows\.held_out: all 5 clips are held out"),
        (["windows.frames=65"], r"gives a window \(6 shorter than 65 frames.*Lower windows\.frames or windows\.size"),
        (["windows.size=512"], r"smaller than 512 px"),
        (["init=/nowhere/vae"], r"init: no folder /nowhere/vae"),
        (["loss.network=lpips"], r"loss\.network: LPIPS needs VGG16's weights"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_gives_nothing_to_learn_from_is_refused_before_decoding(
    clips, tmp_path, in_process, monkeypatch, overrides, message
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    output = tmp_path / "run"
    text = in_process(vae_config(tmp_path / "vae.yaml", clips, output), *overrides, code=2)
    assert re.search(message, text), text
    assert not (output / "windows").exists()


def test_the_output_is_not_the_data_set(clips: Path, tmp_path: Path, in_process):
    text = in_process(vae_config(tmp_path / "vae.yaml", clips, clips), code=2)
    assert "is the data set, which is only read; give another folder" in text
    assert not (clips / "config.yaml").exists()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch):
    """`rushes train-vae` without a process of its own: exit code as wanted, what is said."""
    import io

    from rich.console import Console

    from orchestration.errors import RushesError
    from train import commands

    def call(path: Path, *overrides: str, code: int = 0) -> str:
        console = Console(width=400, record=True, file=io.StringIO())
        monkeypatch.setattr(commands, "OUT", console)
        threads = torch.get_num_threads()
        try:
            if not code:
                commands.train_vae(path, overrides)
                return console.export_text()
            with pytest.raises(RushesError) as caught:
                commands.train_vae(path, overrides)
            assert caught.value.exit_code == code
            return console.export_text() + str(caught.value)
        finally:
            torch.set_num_threads(threads)

    return call


def test_a_loss_that_is_not_finite_stops_and_its_checkpoints_go_on_elsewhere(clips, whole, tmp_path, in_process):
    """Muon keeps a step's length whatever the gradient is, so a learning rate that no float can hold is needed."""
    output = tmp_path / "run"
    output.mkdir()
    shutil.copytree(whole / "windows", output / "windows")
    path = vae_config(tmp_path / "vae.yaml", clips, output, optimizer={"lr": 1e30, "muon_lr": 1e30, "warmup": 0})
    text = in_process(path, code=1)
    assert re.search(r"step \d: the loss is \S+ and its gradient's norm \S+; no weight was changed\. Lower opt", text)
    (kept,) = steps_saved(output)[-1:]
    state = torch.load(output / "checkpoints" / f"step-{kept:08d}" / "state.pt", weights_only=True)
    assert len(state["optimizers"]) == 2
    assert not (output / "vae").exists()

    whole_state = torch.load(whole / "checkpoints" / "step-00000010" / "state.pt", weights_only=True)
    second = tmp_path / "second"
    second.mkdir()
    shutil.copytree(whole / "windows", second / "windows")
    text = in_process(
        vae_config(
            tmp_path / "second.yaml",
            clips,
            second,
            init=str(whole / "checkpoints" / "step-00000010"),
            optimizer={"lr": 1e-12, "muon_lr": 1e-12},
            stages=[{"steps": 1, "frames": 9, "size": 32, "batch": 1}],
            network={"channels": [16, 16, 16, 16]},  # the checkpoint's shape counts
        )
    )
    assert "Training done: 1 of 1 steps" in text
    for name, tensor in CausalVAE.from_pretrained(second / "vae").state_dict().items():
        torch.testing.assert_close(tensor.float(), whole_state["average"][name], atol=1e-3, rtol=1e-3)


def test_the_first_stage_may_begin_with_normalised_latents(clips, whole, tmp_path, in_process):
    found = {}
    for normalise in (False, True):
        output = tmp_path / str(normalise)
        output.mkdir()
        shutil.copytree(whole / "windows", output / "windows")
        stage = {"steps": 1, "frames": 9, "size": 32, "batch": 1, "images": 0.0, "normalise": normalise}
        small = {"lr": 1e-12, "muon_lr": 1e-12}
        in_process(vae_config(tmp_path / "vae.yaml", clips, output, stages=[stage], optimizer=small))
        found[normalise] = np.array(json.loads((output / "vae" / "config.json").read_text())["latents_std"])
    assert (found[False] < 0.3).all()
    assert ((found[True] > 0.5) & (found[True] < 2)).all()


def test_windows_that_a_kill_cut_off_are_made_again(clips: Path, whole: Path, tmp_path: Path, in_process):
    output = tmp_path / "run"
    shutil.copytree(whole, output, ignore=shutil.ignore_patterns("runs"))
    (output / "windows" / "index.json").write_text('{"about": {"win')
    path = vae_config(tmp_path / "vae.yaml", clips, output)
    assert "Windows done" in in_process(path)
    assert (output / "windows" / "pixels.bin").read_bytes() == (whole / "windows" / "pixels.bin").read_bytes()
    os.truncate(output / "windows" / "pixels.bin", 1000)
    text = in_process(path, code=1)
    assert re.search(r"windows is damaged \(pixels\.bin has 1,000 bytes.*\): remove it, and it is made again", text)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(clips, whole, tmp_path, in_process):
    output = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(output / "vae")
    state = output / "checkpoints" / f"step-{STEPS:08d}" / "state.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    text = in_process(vae_config(tmp_path / "vae.yaml", clips, output))
    assert f"checkpoint {state.parent} is passed over: state.pt is damaged: its SHA-256 is another" in text
    assert f"going on from step {STEPS - 1} of {STEPS}" in text
    assert any("is passed over" in log.read_text() for log in output.glob("runs/*/log.txt"))
    assert (output / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
