"""What a training says of itself: metrics.jsonl first, the same in TensorBoard, a line with the time left."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from rich.console import Console

from orchestration.errors import ConfigError
from orchestration.progress import Progress


class Watch:
    """Context manager, of the process that writes. `start`: steps that are done, in `before` seconds; what was said of
    later ones, which a kill undid, is taken back."""

    def __init__(
        self,
        output: Path,
        total: int,
        start: int,
        before: float,
        console: Console,
        *,
        wandb: str | None = None,
        about: Mapping[str, Any] | None = None,
    ):
        """wandb: a project there that gets the same. about: the configuration, for it."""
        from torch.utils.tensorboard import SummaryWriter

        self._lines = (output / "metrics.jsonl").open("a", buffering=1)
        self._lines.write("\n")  # behind a line that a kill cut off
        self._board = SummaryWriter(str(output / "tensorboard"), purge_step=start + 1)
        self._progress = Progress("Training", total - start, "steps", 0, console)  # of this run: so it knows its rate
        self._wandb = _wandb(output, wandb, about) if wandb else None
        self._start, self._before, self._begun = start, before, time.monotonic()

    @property
    def seconds(self) -> float:
        """That the training took so far, earlier runs of it included."""
        return self._before + time.monotonic() - self._begun

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1, quiet=True)
        self._lines.close()

    def step(self, done: int, frames: int) -> None:
        """So many steps are done, and so many frames were seen."""
        self._progress.update(done - self._start, 0, frames, {}, [])

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """One line, and a curve each."""
        self._lines.write(json.dumps({"t": round(self.seconds, 2), "step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({**values, "step": step})

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """uint8 [H, W, 3]."""
        self._board.add_image(name, picture, step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.log({name: import_module("wandb").Image(picture), "step": step})


def require_wandb() -> None:
    """Raises ConfigError where it is not installed."""
    try:
        import_module("wandb")
    except ImportError as error:
        raise ConfigError(f"watch.wandb: {error}. Install it (pip install wandb), or leave it null") from error


def _wandb(output: Path, project: str, about: Mapping[str, Any] | None) -> Any:
    """The run of an output folder: the same one when it is gone on with."""
    identity = hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:16]
    run = import_module("wandb").init(
        project=project,
        id=identity,
        resume="allow",
        dir=str(output),
        name=output.resolve().name,
        config=dict(about or {}),
    )
    run.define_metric("*", step_metric="step")  # steps that are done again after a kill are not refused
    return run
