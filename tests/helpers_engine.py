"""A small job, clips for it, and how the tiny model takes vLLM's place in Ray's engine stage."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tiny_vlm

from captioning import stages
from captioning.backend import Request, Sampling
from captioning.backends.vllm import VllmConfig
from captioning.job import FramePlan, Pictures, Round, Row, Steps
from orchestration.session import Engine


def clips(root: Path, count: int, seed: int = 0) -> tuple[list[dict[str, Any]], dict[str, tiny_vlm.Clip]]:
    """Rows of `count` clips whose files lie in `root`, shuffled, and what they show."""
    shown = {clip.name: clip for clip in tiny_vlm.synthetic_clips(count, seed)}
    for clip in shown.values():
        tiny_vlm.write_mp4(clip, root / f"{clip.name}.mp4")
    side, frames, fps = tiny_vlm.SIDE, tiny_vlm.FRAMES, tiny_vlm.FPS
    rows = [
        {"clip_id": name, "media": f"{name}.mp4", "cut": "exact", "start_frame": 0, "end_frame": frames}
        | {"start_s": 0.0, "end_s": frames / fps, "fps": fps, "width": side, "height": side, "image": False}
        for name in shown
    ]
    return [rows[place] for place in np.random.default_rng(seed).permutation(count)], shown


@dataclass
class Asking:
    """A job: the colour of all clips; of some a second question, about the first answer, without pictures."""

    folder: str
    again: frozenset[str] = frozenset()
    deadly: frozenset[str] = frozenset()  # clips that kill the process that asks about them
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=16))

    def setup(self) -> None:
        Path(self.folder).mkdir(exist_ok=True)

    def plan(self, row: Row) -> FramePlan | None:
        return FramePlan(tuple(range(tiny_vlm.FRAMES)), (0.0, 0.5, 1.0, 1.5), (tiny_vlm.SIDE, tiny_vlm.SIDE))

    def steps(self, row: Row, pictures: Pictures) -> Steps:
        clip = str(row["clip_id"])
        if pictures.reason:
            return {"clip_id": clip, "status": "failed", "reason": pictures.reason}
        if clip in self.deadly:
            os._exit(1)
        asked = Request(
            f"{clip}/colour", tiny_vlm.PROMPT, pictures.frames, pictures.seconds, facts=row, sampling=self.sampling
        )
        answers = [*(yield Round([asked]))]
        if clip in self.again and answers[0].status == "ok":
            told = Request(f"{clip}/told", tiny_vlm.PROMPT, sampling=self.sampling)
            second = Request(
                f"{clip}/twice", tiny_vlm.PROMPT, pictures.frames[:1], pictures.seconds[:1], sampling=self.sampling
            )
            answers += yield Round([second, told])
        bad = [answer.reason for answer in answers if answer.status == "failed"]
        return {
            "clip_id": clip,
            "status": "failed" if bad else "ok",
            "reason": "".join(bad),
            "passing": any(answer.passing for answer in answers),
            "texts": [answer.text for answer in answers],
            "finish": [answer.finish for answer in answers],
            "prompt_tokens": sum(answer.prompt_tokens or 0 for answer in answers),
            "output_tokens": sum(answer.output_tokens or 0 for answer in answers),
        }

    def crashed(self, row: Row, reason: str) -> dict[str, Any]:
        return {"clip_id": row["clip_id"], "status": "failed", "reason": reason}

    def commit(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        Path(self.folder, f"{key}.json").write_text(json.dumps(rows))

    def is_committed(self, key: str) -> bool:
        return Path(self.folder, f"{key}.json").exists()

    def committed(self) -> list[dict[str, Any]]:
        return [row for path in Path(self.folder).glob("*.json") for row in json.loads(path.read_text())]


@dataclass
class TinyStart:
    """Puts TinyEngine into the place of vLLM, on CPUs; all else of the processor is as it is with vLLM."""

    marks: str
    fails: frozenset[str] = frozenset()
    kills: frozenset[str] = frozenset()
    deadly: frozenset[str] = frozenset()
    broken: bool = False

    def __call__(self, engine: Engine, config: VllmConfig, alone: bool) -> Any:
        import ray
        from ray.llm._internal.batch.stages.base import StatefulStage
        from tiny_engine import TinyEngine

        made = stages.processor(config, 1, alone)
        theirs = made.get_stage_by_name(stages.STAGE).map_batches_kwargs
        made.stages[stages.STAGE] = StatefulStage(
            fn=TinyEngine,
            fn_constructor_kwargs={"model": config.model, **self.__dict__},
            map_batches_kwargs={
                "compute": ray.data.ActorPoolStrategy(size=1),
                "zero_copy_batch": True,
                "num_cpus": 0.5,
                **{name: theirs[name] for name in ("max_restarts", "max_task_retries", "max_concurrency")},
            },
        )
        return made
