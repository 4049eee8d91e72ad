"""Recipes: CogVideoX's four stages, each as its file says, but small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import helpers_train
import pyarrow as pa
import yaml
from helpers_shards import keys

from curation.dataset.records import clip_schema
from latents.config import LatentsConfig
from model.transformer import PRESETS
from orchestration.config import load_config
from orchestration.storage import Storage
from orchestration.tables import Publication
from train.checkpoints import Checkpoint, read
from train.config import TrainConfig
from train.data import clip_of

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPE = CONFIGS / "train-cogvideox.yaml"
PICTURES, VIDEOS = helpers_train.BUCKETS
SAMPLES = 20


def test_the_stages_are_the_papers() -> None:
    config = load_config(TrainConfig, RECIPE)
    assert [stage.steps for stage in config.stages] == [400_000, 220_000, 120_000, 10_000]
    for stage, (frames, height, width), paper in zip(
        config.stages,
        [(49, 256, 384), (49, 480, 720), (81, 768, 1360), (81, 768, 1360)],
        [2000, 1000, 250, 100],
        strict=True,
    ):
        assert stage.sample_size == (frames, height, width)
        assert stage.buckets
        assert stage.buckets[-1] == f"{frames}x{height}x{width}"
        assert 0.99 < stage.batch / paper < 1.3
        assert stage.batch % 128 == 0  # ranks that divide all stages
        assert any(name.startswith("1x") for name in stage.buckets) == bool(stage.images)
    last = config.stages[-1]
    assert last.select is not None
    assert last.select.best == 0.2
    assert config.model in PRESETS


def test_its_latents_are_of_the_first_stage() -> None:
    table = load_config(LatentsConfig, CONFIGS / "latents-cogvideox.yaml").buckets.table
    assert table is not None
    buckets = load_config(TrainConfig, RECIPE).stages[0].buckets
    assert [f"{frames}x{height}x{width}" for frames, height, width in table] == list(buckets or ())
    # The two further commands are in its first lines.
    said = (CONFIGS / "latents-cogvideox.yaml").read_text()
    for stage in load_config(TrainConfig, RECIPE).stages[1:3]:
        shapes = ",".join(f"[{name.replace('x', ',')}]" for name in stage.buckets or ())
        assert f'"buckets.table=[{shapes}]"' in said


def test_a_small_copy_goes_through_all_stages(tmp_path) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    helpers_train.make(data, samples=SAMPLES)
    clips = sorted({clip_of(key) for frames in (1, 9) for key in keys(frames, SAMPLES)})
    empty = dict.fromkeys(clip_schema().names)
    rows = [{**empty, "clip_id": clip, "aesthetic": float(number)} for number, clip in enumerate(clips)]
    with Publication(Storage(str(data)), {"clips": clip_schema()}) as tables:
        tables.add("clips", pa.Table.from_pylist(rows, clip_schema()))

    recipe = yaml.safe_load(RECIPE.read_text())
    recipe |= {"dataset": str(data), "output": str(output), "model": "tiny", "dtype": "float32", "threads": 1}
    recipe["watch"] = {"log_every": 1, "held_out": 0.0}
    for stage, size in zip(recipe["stages"], [16, 32, 64, 64], strict=True):
        small = dict.fromkeys(PICTURES if name.startswith("1x") else VIDEOS for name in stage["buckets"])
        stage |= {"steps": 2, "batch": 2, "buckets": list(small), "sample_size": [9, size, size * 3 // 2]}
    given = tmp_path / "small.yaml"
    given.write_text(yaml.safe_dump(recipe))
    command = [Path(sys.executable).parent / "rushes", "train", given]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr

    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines() if line.strip()]
    steps = [line for line in lines if "loss" in line]
    assert [line["stage"] for line in steps] == [0, 0, 1, 1, 2, 2, 3, 3]
    found = read(output / "checkpoints" / "step-00000008")
    assert isinstance(found, Checkpoint)
    last = found.facts["config"]["stages"][-1]
    assert (last["lr"], last["select"]) == (1e-5, {"score": "aesthetic", "best": 0.2})
    made = json.loads((found.folder / "transformer" / "config.json").read_text())
    assert (made["sample_height"], made["sample_width"], made["sample_frames"]) == (8, 12, 9)
