"""Datasets whose clips show known colours, curated by the real command, and captioning runs over them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_vlm
import yaml
from helpers_curate import FRAMES, rushes, table
from rich.console import Console

from captioning import commands, execute
from orchestration.errors import RushesError

CLIPS_A_VIDEO = 50


def colour_dataset(
    folder: Path, count: int, seed: int = 0, frames: int = tiny_vlm.FRAMES
) -> tuple[Path, dict[str, tiny_vlm.Clip]]:
    """A curated dataset of `count` clips of so many frames, and what each of them shows, by clip_id."""
    raw, output = folder / "raw", folder / "dataset"
    raw.mkdir(parents=True)
    clips = tiny_vlm.synthetic_clips(count, seed, frames=frames)
    videos: dict[str, list[tiny_vlm.Clip]] = {}
    for start in range(0, count, CLIPS_A_VIDEO):
        some = clips[start : start + CLIPS_A_VIDEO]
        pictures = [frame for clip in some for frame in clip.frames]
        times = [step / tiny_vlm.FPS for step in range(len(pictures))]
        joined = tiny_vlm.Clip(f"video{start:05d}", "", "", pictures, times)
        path = tiny_vlm.write_mp4(joined, raw / f"{joined.name}.mp4")
        videos[str(path)] = some
    seconds = frames / tiny_vlm.FPS
    settings = [f"shots={{kind: stride, seconds: {seconds}}}", "select=all", "report.enabled=false"]
    rushes("curate", FRAMES, f"input={raw}", f"output={output}", *settings)
    uris = {row["video_id"]: row["uri"] for row in table(output, "videos")}
    shown = {
        row["clip_id"]: videos[uris[row["video_id"]]][row["start_frame"] // frames] for row in table(output, "clips")
    }
    assert len(shown) == count
    return output, shown


def config(folder: Path, dataset: Path, **sections: Any) -> Path:
    """A caption configuration: few frames, quick prompts that the tiny model knows."""
    prompt = folder / "colours-1.jinja"
    prompt.write_text(tiny_vlm.JSON_PROMPT)
    settings = {
        "dataset": str(dataset),
        "recipe": {"prompt": str(prompt)},
        "frames": {"policy": "uniform", "count": tiny_vlm.FRAMES},
        "sampling": {"max_tokens": 32},
        "report": {"enabled": False},
        **sections,
    }
    path = folder / f"caption{len(list(folder.glob('caption*.yaml')))}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def right(rows: list[dict[str, Any]], shown: dict[str, tiny_vlm.Clip], column: str = "dense") -> float:
    """The share of captions that name the colour of their own clip, and no other one."""
    named = [(row, [c for c in tiny_vlm.COLOURS if re.search(rf"\b{c}\b", row[column] or "")]) for row in rows]
    return float(np.mean([colours == [shown[row["clip_id"]].colour] for row, colours in named]))


class House:
    """Runs captioning in this process: all but Ray is the real thing, and no second goes by with starting it."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self._workers: dict[str, Any] = {}
        patch.setattr("captioning.run.LazyEngine", _NoEngine)
        patch.setattr("captioning.label.LazyEngine", _NoEngine)
        patch.setattr(execute, "run_rows", self._run_rows)
        self._patch = patch

    def caption(
        self,
        path: Path | str,
        *overrides: object,
        limit: int | None = None,
        compare: bool = False,
        code: int = 0,
    ) -> str:
        """What the command prints; an error's text where it is to end with `code`."""
        console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
        self._patch.setattr(commands, "OUT", console)
        arguments = [str(path), *map(str, overrides)]
        if not code:
            commands.caption(arguments, limit=limit, compare=compare)
            return console.export_text()
        with pytest.raises(RushesError) as caught:
            commands.caption(arguments, limit=limit, compare=compare)
        assert caught.value.exit_code == code
        return str(caught.value)

    @staticmethod
    def _run_rows(running: Any, files: list[str], workers: Any, **_: Any) -> Iterator[dict[str, Any]]:
        work = workers()
        with contextlib.closing(work):
            for name in files:
                for row in pq.read_table(name).to_pylist():
                    yield work(row, lambda *_: None)


class _NoEngine(contextlib.nullcontext):
    engine = SimpleNamespace(workers=2)

    def __init__(self, *_: Any):
        super().__init__(self)
