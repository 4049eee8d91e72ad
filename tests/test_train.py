"""`rushes train`: real processes learn from real shards; a killed run goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import helpers_train
import psutil
import pytest
import yaml

BIN = Path(sys.executable).parent
STAGES = [
    {"steps": 5, "batch": 4, "lr": 1e-3},
    {"steps": 3, "batch": 4, "lr": 5e-4, "buckets": ["9x32x48"]},
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("latents")
    helpers_train.make(root)
    return root


def command(tmp_path: Path, dataset: Path, name: str, ranks: int = 1, **settings) -> list[str]:
    """Training into tmp_path/NAME."""
    given = {
        "dataset": str(dataset),
        "output": str(tmp_path / name),
        "stages": STAGES,
        "micro_batch": 2,
        "dtype": "float32",
        "watch": {"log_every": 1, "held_out": 0.0},
        "checkpoint": {"every": 3},
        "threads": 1,
        **settings,
    }
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(given))
    launcher = [BIN / "torchrun", "--standalone", "--nproc_per_node", str(ranks), "--no-python"] if ranks > 1 else []
    return [str(word) for word in [*launcher, BIN / "rushes", "train", path]]


def run(words: list[str], code: int = 0) -> str:
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def losses(output: Path) -> dict[int, tuple[str, str]]:
    """Loss and gradient norm of each step, to the bit; of a step that was done again the later one."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines() if line.strip()]
    return {row["step"]: (row["loss"].hex(), row["grad_norm"].hex()) for row in rows}


def kill_at(words: list[str], output: Path, step: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Start a run and send it a signal when it has logged a step."""
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), start_new_session=True
    )
    metrics, until = output / "metrics.jsonl", time.monotonic() + 200
    while process.poll() is None and time.monotonic() < until:
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            os.killpg(process.pid, number)
            break
        time.sleep(0.02)
    assert process.wait(timeout=60) != 0


def resumes(tmp_path: Path, dataset: Path, ranks: int, zero: int, dtype: str, step: int) -> None:
    settings = {"ranks": ranks, "deepspeed": {"zero": zero}, "dtype": dtype}
    run(command(tmp_path, dataset, "whole", **settings))
    kill_at(command(tmp_path, dataset, "killed", **settings), tmp_path / "killed", step)
    assert "going on from step" in run(command(tmp_path, dataset, "killed", **settings))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 8


def test_a_killed_run_goes_on_to_the_same_losses(tmp_path, dataset) -> None:
    resumes(tmp_path, dataset, ranks=1, zero=1, dtype="float32", step=5)
    assert "all 8 steps are done" in run(command(tmp_path, dataset, "killed"))
    said = run(command(tmp_path, dataset, "killed", optimizer={"clip": 2.0}), code=2)
    assert "is of another training: optimizer.clip was 1.0, is 2.0" in said
    allowed = {"stages": [*STAGES, {"steps": 1, "batch": 4, "lr": 1e-4}], "checkpoint": {"allow_changes": True}}
    said = run(command(tmp_path, dataset, "killed", **allowed))
    assert "allowed: stages.2 was null, is {" in said
    assert "going on from step 8 of 9" in said


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_runs_of_all_kinds_go_on_to_the_same_losses(tmp_path, dataset, ranks, zero, dtype) -> None:
    resumes(tmp_path, dataset, ranks, zero, dtype, step=4 + zero)


def killed_again_and_again(tmp_path: Path, dataset: Path, zero: int, dtype: str, kills: int) -> None:
    """One of two ranks dies at seeded moments, every second time while a checkpoint is being written."""
    steps = 6 * kills
    settings = {"ranks": 2, "deepspeed": {"zero": zero}, "dtype": dtype, "checkpoint": {"every": 2}}
    settings["stages"] = [{"steps": steps, "batch": 4, "lr": 1e-3}]
    run(command(tmp_path, dataset, "whole", **settings))
    words, output = command(tmp_path, dataset, "killed", **settings), tmp_path / "killed"
    random = Random(f"{zero} {dtype}")
    saving = 0
    for number in range(kills):
        before, until = said(output), time.monotonic() + 200
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
        wanted = random.randint(3, 5)
        while said(output) < before + wanted and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        while number % 2 and not list(output.glob("checkpoints/*.writing")) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(random.random() * 0.1)
        saving += bool(list(output.glob("checkpoints/*.writing")))
        ranks = [one for one in psutil.Process(process.pid).children(recursive=True) if "train" in one.cmdline()]
        random.choice(sorted(ranks, key=lambda one: one.pid)).kill()
        assert process.wait(timeout=120) != 0
    assert saving, "no kill fell into a save"
    assert "going on from step" in run(words)
    assert losses(output) == losses(tmp_path / "whole")
    assert len(losses(output)) == steps


def said(output: Path) -> int:
    """Lines of metrics."""
    metrics = output / "metrics.jsonl"
    return metrics.read_text().count('"loss"') if metrics.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_ranks_that_die_ten_times_cost_no_loss(tmp_path, dataset, zero, dtype) -> None:
    killed_again_and_again(tmp_path, dataset, zero, dtype, kills=10)


@pytest.mark.slow
def test_a_signal_to_two_ranks_saves_and_ends(tmp_path, dataset) -> None:
    settings = {"ranks": 2, "checkpoint": {"every": 100}}
    run(command(tmp_path, dataset, "whole", **settings))
    kill_at(command(tmp_path, dataset, "stopped", **settings), tmp_path / "stopped", 4, signal.SIGTERM)
    assert [path.name for path in (tmp_path / "stopped/checkpoints").iterdir()] != []
    assert "going on from step" in run(command(tmp_path, dataset, "stopped", **settings))
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_ranks_and_zero_change_no_loss_but_for_rounding(tmp_path, dataset) -> None:
    run(command(tmp_path, dataset, "alone", deepspeed={"zero": 0}))
    expected = {step: float.fromhex(loss) for step, (loss, _) in losses(tmp_path / "alone").items()}
    for zero in (0, 1, 2, 3):
        settings = {"deepspeed": {"zero": zero}, "activation_checkpointing": zero == 3}
        run(command(tmp_path, dataset, f"two-{zero}", ranks=2, **settings))
        found = {step: float.fromhex(loss) for step, (loss, _) in losses(tmp_path / f"two-{zero}").items()}
        assert found == pytest.approx(expected, rel=1e-4)


def test_what_cannot_be_trained_is_refused_before_the_first_step(tmp_path, dataset) -> None:
    def refused(name: str, message: str, data: Path = dataset, **settings) -> None:
        assert message in run(command(tmp_path, data, f"{name}-out", **settings), code=2)

    stage = {"steps": 1, "batch": 4, "lr": 1e-3}
    refused("large", "Lower the batch to 20 at most", stages=[stage | {"batch": 32}])
    refused("none", "is not there; buckets: ['1x32x32', '9x32x48']", stages=[stage | {"buckets": ["17x32x32"]}])
    helpers_train.make(tmp_path / "channels", channels=4)
    refused("channels", "the latents have 4 channels, the model takes 16", tmp_path / "channels")
    helpers_train.make(tmp_path / "width", width=32)
    refused("width", "the texts are 32 wide, the model takes 384", tmp_path / "width")
    assert not list(tmp_path.glob("*-out/checkpoints"))


def test_numbers_that_are_none_stop_it_with_their_samples_named(tmp_path) -> None:
    key = helpers_train.keys(9, 20)[7]
    helpers_train.make(tmp_path / "poisoned", poison=key)
    said = run(command(tmp_path, tmp_path / "poisoned", "out"), code=1)
    assert "is not finite; no checkpoint was touched" in said
    assert key in said


def test_it_says_how_far_off_it_is_and_shows_videos_while_it_trains(tmp_path, dataset) -> None:
    watched = {
        "watch": {"log_every": 2, "held_out": 0.3, "held_out_every": 3, "held_out_samples": 3, "peak_tflops": 0.1},
        "checkpoint": {"every": 4},
        "previews": {"prompts": ["a red ball", "rain"], "every": 4, "steps": 1, "frames": 9, "height": 32, "width": 48},
    }
    stages = [{"steps": 8, "batch": 4, "lr": 1e-3}]
    run(command(tmp_path, dataset, "plain", stages=stages, watch=watched["watch"] | {"held_out_samples": 0}))
    output = tmp_path / "watched"
    run(command(tmp_path, dataset, "watched", stages=stages, **watched))
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines() if line.strip()]
    measured = [row for row in rows if "loss" in row]
    looked = [row for row in rows if "held_out_loss" in row]
    assert [row["step"] for row in measured] == [2, 4, 6, 8]
    assert [row["step"] for row in looked] == [3, 6, 8]
    for row in measured:
        assert min(row["tokens_per_s"], row["memory_gb"], row["mfu"]) > 0
        assert max(row["data_wait"], row["mfu"]) < 1
        by_timestep = [value for name, value in row.items() if name.startswith("loss_by_timestep/")]
        assert len(by_timestep) >= 4  # of eight timesteps, spread over the range
        assert min(by_timestep) <= row["loss"] <= max(by_timestep)
    assert all(sum(name.startswith("held_out_by_timestep/") for name in row) == 9 for row in looked)
    # Looking and sampling change nothing that is learnt.
    plain = [json.loads(line) for line in (tmp_path / "plain/metrics.jsonl").read_text().splitlines() if line.strip()]
    assert [row["loss"].hex() for row in plain] == [row["loss"].hex() for row in measured]
    assert {path.name for path in (output / "previews").glob("*.mp4")} >= {"step-00000008-1.mp4", "step-00000008-2.mp4"}
    assert next((output / "tensorboard").glob("events*")).stat().st_size > 0
