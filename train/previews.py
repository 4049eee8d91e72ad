"""Videos of fixed prompts and seeds while it trains, by the averaged weights of a checkpoint.

Another process samples them (`rushes sample`), so that no rank waits for another, nothing is drawn from the training's
generators, and a sampler that fails takes no training with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from rich.console import Console

from orchestration.runs import log
from train import video_files
from train.config import PreviewsConfig
from train.watch import Watch

FOLDER = "previews"
SHOWN = 5  # frames of each video in the grid
# Of a launcher: the other process is no rank.
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


class Previews:
    """Context manager of the first rank; at its end the last videos are waited for, unless an error ends it.

    OUTPUT/previews/step-NNNNNNNN-N.mp4, and step-NNNNNNNN.log with what the sampler said.
    """

    def __init__(self, config: PreviewsConfig, output: Path, watch: Watch, console: Console):
        self._config, self._folder, self._watch, self._console = config, output / FOLDER, watch, console
        self._process: subprocess.Popen[bytes] | None = None
        self._step = 0

    @property
    def sampled(self) -> int | None:
        """The step whose checkpoint is read at this time, and has to stay."""
        return self._step if self._process is not None and self._process.poll() is None else None

    def due(self, step: int, last: bool) -> bool:
        """Whether the checkpoint of a step is to be sampled."""
        return bool(self._config.prompts) and (last or step % self._config.every == 0)

    def start(self, step: int, checkpoint: Path, last: bool) -> None:
        """Begin to sample a checkpoint; left out, and said, where that of an earlier one is not done yet, but for the
        training's last."""
        if last and self._process is not None:
            self._process.wait()
        self.collect()
        if self._process is not None:
            log.warning("no previews of step %d: those of step %d are still being made", step, self._step)
            self._console.print(f"no previews of step {step:,}: those of step {self._step:,} are still being made")
            return
        given, self._step = self._config, step
        self._folder.mkdir(exist_ok=True)
        settings = given.model_dump(exclude={"prompts", "every"}, exclude_none=True)
        settings |= {"model": checkpoint, "out": self._folder / f"{self._name}.mp4"}
        words = [*given.prompts, *(f"{name}={value}" for name, value in settings.items())]
        environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHER}
        with (self._folder / f"{self._name}.log").open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestration.cli", "sample", *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def collect(self) -> None:
        """What is done is shown, once."""
        if self._process is None or self._process.poll() is None:
            return
        code, self._process = self._process.returncode, None
        if code:
            where = self._folder / f"{self._name}.log"
            log.warning("the previews of step %d failed, see %s", self._step, where)
            self._console.print(f"the previews of step {self._step:,} failed, see {where}", soft_wrap=True)
            return
        paths = video_files.names(str(self._folder / f"{self._name}.mp4"), len(self._config.prompts), 1)
        self._watch.picture(self._step, "previews", _grid(paths))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        if kind is not None:
            self._process.kill()
            self._process.wait()
            return
        self._console.print(f"waiting for the previews of step {self._step:,}")
        self._process.wait()
        self.collect()

    @property
    def _name(self) -> str:
        return f"step-{self._step:08d}"


def _grid(paths: list[Path]) -> np.ndarray:
    """uint8 [H, W, 3]: a row a video, frames spread over it."""
    rows = []
    for path in paths:
        video = cv2.VideoCapture(str(path))
        frames = []
        while (found := video.read())[0]:
            frames.append(found[1][..., ::-1])
        video.release()
        some = np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).round().astype(int)
        rows.append(np.concatenate([frames[place] for place in some], 1))
    return np.concatenate(rows)
