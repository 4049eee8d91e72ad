"""Whatever dies while captions are made, each clip ends with one caption, its own."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import tiny_vlm
from faulty_server import faulty_server, free_port
from helpers_captions import colour_dataset, config, right
from helpers_curate import command, kill_tree, ray_workers, rushes, table, wait_for
from helpers_serve import transformers_serve

Shown = dict[str, tiny_vlm.Clip]


def start(path: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("caption", path, "ray.workers=2", *overrides),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def committed(dataset: Path) -> int:
    """Clips with a committed row."""
    folder = dataset / "captioned"
    files = [str(path) for path in folder.glob("*.parquet")] if folder.exists() else []
    return sum(len(row["captions"]) for row in ds.dataset(files).to_table().to_pylist()) if files else 0


def kill_workers(process: subprocess.Popen[str], dataset: Path, times: int, total: int, seed: int) -> int:
    """SIGKILL a worker at `times` points of the run, spread over what there is to do; how many were hit."""
    draw = random.Random(seed)
    hits = 0
    for number in range(times):
        wanted = total * (number + draw.random()) / (times + 1)
        wait_for(lambda wanted=wanted: committed(dataset) >= wanted or process.poll() is not None, 240)
        wait_for(lambda: ray_workers(process) or process.poll() is not None, 60)
        if process.poll() is None and (workers := ray_workers(process)):
            draw.choice(workers).kill()
            hits += 1
            time.sleep(0.3)
    return hits


def account_for(dataset: Path, shown: Shown, failed: Collection[str] = ()) -> list[dict[str, Any]]:
    """Nothing lost, doubled or mismatched; the rows that did not fail."""
    rows = table(dataset, "captions")
    assert max(Counter(row["clip_id"] for row in rows).values()) == 1
    assert {row["clip_id"] for row in rows} == shown.keys()
    fine = [row for row in rows if row["status"] == "ok"]
    assert {row["clip_id"] for row in rows if row["status"] == "failed"} == set(failed)
    files = [str(path) for path in (dataset / "captioned").glob("*.parquet")]
    written = [one["clip_id"] for row in ds.dataset(files).to_table().to_pylist() for one in row["captions"]]
    assert len(written) == len(set(written)), "a clip was captioned twice"
    # The model is greedy and right about every one of these clips: one caption at another clip would show.
    assert right(fine, shown) == 1
    return fine


@pytest.mark.slow
def test_a_worker_and_then_the_driver_are_killed(tmp_path):
    dataset, shown = colour_dataset(tmp_path, 100)
    model = {"kind": "local", "model": str(tiny_vlm.folder()), "batch_size": 4}
    path = config(tmp_path, dataset, captions=model)
    process = start(path)
    wait_for(lambda: ray_workers(process))
    ray_workers(process)[0].kill()
    wait_for(lambda: committed(dataset) > 0 or process.poll() is not None)
    kill_tree(process)
    rushes("caption", path, "ray.workers=2")
    account_for(dataset, shown)


@pytest.mark.slow
def test_a_thousand_clips_while_workers_are_killed_five_times(tmp_path):
    dataset, shown = colour_dataset(tmp_path, 1000)
    path = config(tmp_path, dataset, captions={"kind": "local", "model": str(tiny_vlm.folder()), "batch_size": 8})
    process = start(path)
    hits = kill_workers(process, dataset, 5, 1000, seed=1)
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    assert hits == 5
    account_for(dataset, shown)
    assert "0 of 1,000 clips are to be captioned" in rushes("caption", path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_local_colours_with_broken_clips_and_kills(tmp_path, seed):
    dataset, shown = colour_dataset(tmp_path, 200, seed)
    draw = random.Random(seed)
    broken = draw.sample(sorted((dataset / "media").rglob("*.mp4")), 6)
    for media in broken:
        media.write_bytes(media.read_bytes()[:200])
    path = config(tmp_path, dataset, captions={"kind": "local", "model": str(tiny_vlm.folder()), "batch_size": 8})
    process = start(path)
    kill_workers(process, dataset, 2, 200, seed)
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    account_for(dataset, shown, {media.stem for media in broken})


@pytest.mark.slow
def test_openai_colours_through_a_faulting_proxy_and_kills(tmp_path):
    """A real server, a proxy that loses, delays, refuses and cuts every third reply, and two killed workers."""
    dataset, shown = colour_dataset(tmp_path, 200, seed=3)
    faults = ("status:500", "retry:0.05", "reset-body", "cut", "truncated", "reset-headers", "slow:0.3", "html")

    def script(asked: str, tries: int) -> str:
        number = int(asked[:8], 16)
        return faults[number % len(faults)] if tries == 0 and number % 3 == 0 else "ok"

    with (
        transformers_serve(tiny_vlm.folder(), tmp_path / "serve.log", free_port()) as url,
        faulty_server(script, upstream=url) as (proxy, seen),
    ):
        server = {"kind": "openai", "url": proxy, "model": str(tiny_vlm.folder()), "concurrency": 4, "wait_s": 0.05}
        path = config(tmp_path, dataset, captions=server)
        process = start(path)
        kill_workers(process, dataset, 2, 200, seed=3)
        text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text
    assert sum(tries > 1 for tries in seen.tries.values()) > 20
    account_for(dataset, shown)


CRASH = """
import os, sys
import numpy as np
from captioning.backends import local

def crash(self, requests, answer=local.LocalBackend.answer):
    for request in requests:
        if request.key.startswith(os.environ["VICTIM"]):
            os.kill(os.getpid(), 9)
    return answer(self, requests)

local.LocalBackend.answer = crash
"""


@pytest.mark.slow
def test_a_clip_that_kills_whoever_is_asked_about_it_is_a_row_and_takes_no_other_along(tmp_path):
    dataset, shown = colour_dataset(tmp_path, 24)
    victim = sorted(shown)[5]
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys, importlib.abc\n"
        "class Late(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'captioning.work':\n"
        "            sys.meta_path.remove(self)\n"
        "            import crash\n"
        "sys.meta_path.insert(0, Late())\n"
    )
    (site / "crash.py").write_text(CRASH)
    path = config(tmp_path, dataset, captions={"kind": "local", "model": str(tiny_vlm.folder()), "batch_size": 4})
    python = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    rushes("caption", path, "ray.workers=2", PYTHONPATH=python, VICTIM=victim)
    rows = {row["clip_id"]: row for row in account_for(dataset, shown, {victim})}
    assert len(rows) == 23
    reason = next(row["reason"] for row in table(dataset, "captions") if row["clip_id"] == victim)
    assert "died twice" in reason
