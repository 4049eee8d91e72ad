"""The same command on a running Ray cluster, by its address."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_curate import contents, curate, wait_for


@pytest.fixture
def cluster(tmp_path):
    """(address, environment) of a Ray head started as its own program, with a token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    folder = Path(f"/tmp/r{port}")  # Ray's socket paths must stay short
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=4"]
    ray += [f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={folder}"]
    log = (tmp_path / "ray.txt").open("w")
    head = subprocess.Popen(
        ray, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True, cwd="/"
    )
    wait_for(lambda: "Ray runtime started" in (tmp_path / "ray.txt").read_text(), 90)
    yield f"127.0.0.1:{port}", environment
    os.killpg(head.pid, signal.SIGTERM)
    head.wait(timeout=60)
    log.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_cluster_gives_the_same_dataset(cluster, samples, tmp_path):
    address, environment = cluster
    curate(samples, tmp_path / "here")
    curate(samples, tmp_path / "there", f"ray.address={address}", "ray.workers=2", **environment)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    refused = curate(samples, tmp_path / "refused", f"ray.address={address}", code=1, RAY_AUTH_MODE="disabled")
    assert f"cannot reach Ray at {address}" in refused
    assert "Traceback" not in refused
