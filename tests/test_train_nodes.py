"""Several machines, as far as one can play them: two torchrun agents that meet, and a worker that dies."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import helpers_train
import psutil
import pytest
from test_train import BIN, command, environment, losses, run

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = {"stages": [{"steps": 12, "batch": 4, "lr": 1e-3}], "checkpoint": {"every": 3}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("latents")
    helpers_train.make(root)
    return root


def free_port() -> int:
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        return given.getsockname()[1]


def worker(agent: psutil.Process) -> psutil.Process:
    """The process of the training that an agent started."""
    (found,) = [each for each in agent.children() if "train" in each.cmdline()]
    return found


def test_two_nodes_go_on_when_a_worker_dies(tmp_path, dataset) -> None:
    run(command(tmp_path, dataset, "whole", ranks=2, **SETTINGS))
    words = command(tmp_path, dataset, "nodes", **SETTINGS)
    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_port()}", "--rdzv_id", "film"]
    node = [str(BIN / "torchrun"), "--nnodes", "2", "--nproc_per_node", "1", "--max-restarts", "3", *meeting]
    env = {**environment(), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    logs = [(tmp_path / f"{number}.log").open("w+") for number in range(2)]
    agents = [
        psutil.Popen([*node, "--no-python", *words], stdout=log, stderr=subprocess.STDOUT, env=env) for log in logs
    ]
    metrics, until = tmp_path / "nodes" / "metrics.jsonl", time.monotonic() + 200
    while not (metrics.exists() and '"step": 5,' in metrics.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    worker(agents[1]).send_signal(signal.SIGKILL)
    codes = [agent.wait(timeout=240) for agent in agents]
    said = "".join(Path(log.name).read_text() for log in logs)
    assert codes == [0, 0], said
    assert "going on from step" in said
    assert losses(tmp_path / "nodes") == losses(tmp_path / "whole")
