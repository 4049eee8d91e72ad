"""`transformers serve` as a process of its own: a real server with OpenAI's chat completions, for a model's folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_S = 120


@contextmanager
def transformers_serve(folder: Path, log: Path, port: int) -> Iterator[str]:
    """Base URL of a server of the model in `folder`. Raises RuntimeError with its log where it does not start."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, "serve", str(folder), "--port", str(port), "--host", "127.0.0.1"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--device", "cpu"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"transformers serve did not start:\n{log.read_text()[-3000:]}")


def _serve() -> None:
    """The command's own main, where the CUDA build of torchvision beside a CPU torch lacks its JPEG decoder as well."""
    from curation.scorers.runtime import allow_torchvision

    allow_torchvision()
    import torch
    import torchvision.io

    if torch.version.cuda is None:
        torchvision.io.decode_image = _decoded
    from transformers.cli.transformers import main

    main()


def _decoded(data: Any, mode: Any = None, **_: Any) -> Any:
    """[3, H, W] uint8 RGB of a picture's bytes (a uint8 tensor)."""
    import cv2
    import torch

    picture = cv2.imdecode(data.numpy(), cv2.IMREAD_COLOR_RGB)
    return torch.from_numpy(picture).permute(2, 0, 1).contiguous()


if __name__ == "__main__":
    _serve()
