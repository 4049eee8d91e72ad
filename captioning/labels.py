"""`rushes caption labels`: a vision-language model is asked for CogVideoX's six negative labels of a clip, once a clip.

Its answers lie in `scores/label_vlm`; in the clips table they take the place of the classifiers' labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from captioning.backend import Answer, Request, Sampling
from captioning.frames import FramesConfig, plan_frames
from captioning.job import FramePlan, Pictures, Role, Round, Row, Steps
from captioning.json_answer import read
from captioning.prompt import Prompt, load
from captioning.recipes.base import with_complaint
from captioning.todo import chosen
from curation.dataset.vlm_labels import KIND, vlm_labels
from curation.scorers.labels import LABELS, TEMPORAL
from orchestration.config import Config
from orchestration.storage import Storage
from orchestration.tables import snapshot

VERSION = 1  # raised where the same question comes to other labels
TRIES = 2  # the second is told what was wrong with the first
WORDS = {"yes": 1.0, "no": 0.0, "unsure": None}


ROLES: tuple[Role, ...] = ("pictures",)  # who is asked


class LabelsConfig(Config):
    """Who is asked, and with which frames, is the captions' matter."""

    clips: Literal["kept", "all"] = "kept"  # all: dropped ones too, which costs as much each
    prompt: str = "labels-1"  # of captioning/prompts, or a file
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=320, ge=1)
    seed: int = 0


def _probability(value: Any) -> float | None:
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return WORDS[value.strip().lower()]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ValueError('give a number from 0 to 1, or "yes", "no" or "unsure"')


Probability = Annotated[float | None, PlainValidator(_probability)]


class Verdict(BaseModel):
    """A model's answer on one clip. A label's probability is None where it is unsure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    evidence: str = Field(pattern=r"\w")
    editing: Probability
    disconnected_motion: Probability
    low_quality: Probability
    lecture: Probability
    text_dominated: Probability
    screenshot: Probability

    def columns(self, several: bool) -> dict[str, float | None]:
        """Columns of the clips table; `several`: more than one frame was shown, so that it can tell of time."""
        values = {name: getattr(self, name.removeprefix("label_")) for name in LABELS}
        return values if several else {**values, **dict.fromkeys(TEMPORAL)}


@dataclass
class LabelsJob:
    """captioning.job.Job for labels, committed as of run `run`. model: what identifies who answers (Backend.model).

    Raises ConfigError for a prompt that cannot be used.
    """

    dataset: str
    config: LabelsConfig
    frames: FramesConfig
    model: str
    run: int
    prompt: Prompt = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = load(self.config.prompt)

    @property
    def measured(self) -> str:
        """Names who is asked what, as a scorer's token names its settings."""
        asked = {
            "model": self.model,
            "prompt": self.prompt.version,
            "frames": self.frames.model_dump(mode="json"),
            "sampling": self.config.model_dump(mode="json", exclude={"clips", "prompt"}),
        }
        return f"{KIND}:{VERSION}:{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]}"

    @property
    def roles(self) -> Sequence[Role]:
        return ROLES

    def setup(self) -> None:
        self._ledger = vlm_labels(Storage(self.dataset))

    def plan(self, row: Row) -> FramePlan | None:
        return plan_frames(row, self.frames)

    def steps(self, row: Row, pictures: Pictures) -> Steps:
        if pictures.reason:
            return _failed(row, pictures.reason, pictures.passing)
        answers: list[Answer] = []
        complaint, longer = "", False
        for number in range(TRIES):
            tokens = self.config.max_tokens * (2 if longer else 1)
            sampling = Sampling(self.config.temperature, max_tokens=tokens, seed=self.config.seed + number)
            question = Request(
                str(row["clip_id"]),
                with_complaint(self.prompt.render(), complaint),
                frames=pictures.frames,
                seconds=pictures.seconds,
                facts=row,
                sampling=sampling,
            )
            (answer,) = yield Round([question])
            answers.append(answer)
            if answer.status == "failed":
                return _failed(row, answer.reason, answer.passing, answers)
            try:
                verdict = read(answer.text, Verdict)
            except ValueError as error:
                complaint, longer = str(error), answer.finish == "length"
                continue
            labels = verdict.columns(several=len(pictures.frames) > 1)
            return {**_said(row, answers), "status": "ok", **labels, "evidence": verdict.evidence, "retry": False}
        reason = f"no answer that can be read in {TRIES} tries: {complaint}"
        return _failed(row, reason, False, answers, answers[-1].text)

    def crashed(self, row: Row, reason: str) -> dict[str, Any]:
        return _failed(row, reason, False)

    def commit(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        """One row of the ledger a video, so that a video can be taken down alone. The last one is called `key`: it is
        there only where the others are."""
        videos: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: row["clip_id"]):
            videos.setdefault(row["video_id"], []).append(
                {name: value for name, value in row.items() if name != "video_id"}
            )
        for number, (video_id, clips) in enumerate(videos.items(), start=1):
            name = key if number == len(videos) else f"{key}-{video_id[:32]}"
            record = {"key": name, "video_id": video_id, "measured": self.measured, "run": self.run, "clips": clips}
            self._ledger.commit(name, {**record, "model": self.model, "prompt": self.prompt.version})

    def is_committed(self, key: str) -> bool:
        return self._ledger.has(key)


def wanted(storage: Storage, config: LabelsConfig, limit: int | None = None) -> set[str]:
    """Clips that are to be asked about. Raises ConfigError where there are none."""
    if config.clips == "kept":
        return chosen(storage, limit)
    chosen(storage)  # for its errors: a data set that is not decided is none
    found = {name for table in snapshot(storage, "clips", ["clip_id"]) for name in table.column(0).to_pylist()}
    ordered = sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest())
    return set(ordered[:limit])


def states(storage: Storage, measured: str) -> dict[str, str]:
    """clip_id → ok, failed, or passing (failed for a reason that may be gone), of all that was asked as `measured`."""
    found: dict[str, tuple[bool, int, str, str]] = {}
    for table in vlm_labels(storage).read(["key", "run", "measured", "clips"]):
        for record in table.to_pylist():
            for clip in (record["clips"] or []) if record["measured"] == measured else []:
                ok = clip["status"] == "ok"
                rank = ok, record["run"], record["key"], "ok" if ok else "passing" if clip["retry"] else "failed"
                found[clip["clip_id"]] = max(rank, found.get(clip["clip_id"], rank))
    return {name: state for name, (*_, state) in found.items()}


def last_run(storage: Storage) -> int:
    """The number of the last run that committed anything; 0 before the first one."""
    runs = (run for table in vlm_labels(storage).read(["run"]) for run in table.column(0).to_pylist())
    return max(runs, default=0)


def _said(row: Row, answers: Sequence[Answer]) -> dict[str, Any]:
    def total(name: str) -> int | None:
        known = [count for answer in answers if (count := getattr(answer, name)) is not None]
        return sum(known) if known else None

    return {
        "clip_id": row["clip_id"],
        "video_id": row["video_id"],
        "tries": len(answers),
        "prompt_tokens": total("prompt_tokens"),
        "output_tokens": total("output_tokens"),
        "seconds": sum(answer.seconds for answer in answers),
    }


def _failed(row: Row, reason: str, passing: bool, answers: Sequence[Answer] = (), text: str = "") -> dict[str, Any]:
    return {**_said(row, answers), "status": "failed", "reason": reason, "retry": passing, "text": text or None}
