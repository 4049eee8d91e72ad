"""The vLLM engine itself: needs a GPU and `pip install 'rushes[vllm]'`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny_vlm
from helpers_engine import Asking, clips

from captioning.backends.vllm import VllmConfig
from captioning.config import CaptionConfig
from captioning.engine import run_staged
from orchestration.session import RayConfig, engine

# Another model's folder, where the tiny one's heads are too narrow for the engine's attention.
MODEL = os.environ.get("RUSHES_VLM")


@pytest.mark.gpu
def test_every_answer_of_the_engine_belongs_to_its_clip(tmp_path: Path):
    rows, shown = clips(tmp_path, 200)
    captions = VllmConfig(
        model=MODEL or str(tiny_vlm.folder()),
        max_model_len=2048,
        gpu_memory=0.5,
        engine_kwargs={"enforce_eager": True},
    )
    job = Asking(str(tmp_path / "done"), again=frozenset(sorted(shown)[::9]))
    config = CaptionConfig(dataset=str(tmp_path), captions=captions)
    with engine(RayConfig(workers=2), tmp_path / "ray.log") as running:
        list(run_staged(running, job, config, rows, "test", str(tmp_path / "scratch")))
    done = job.committed()
    assert sorted(row["clip_id"] for row in done) == sorted(shown)
    assert all(row["status"] == "ok" for row in done), {row["reason"] for row in done}
    assert tiny_vlm.hits([row["texts"][0].lower() for row in done], [shown[row["clip_id"]] for row in done]) >= 0.95
