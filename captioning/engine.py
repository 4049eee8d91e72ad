"""Clips through vLLM engines: an engine gets the requests of all clips at once, not those of one worker.

Work goes in slices of clips and in executions of Ray Data: CPU actors read frames and ask (stages.py), Ray's engine
stage answers, and the driver gathers answers by key. As soon as a clip's round is complete, its job is replayed with
all its answers so far: there is a row, which is committed with others, or a next round, which joins the slice's next
execution. Replaying instead of waiting is what lets steps span processes: a job's steps follow from row, pictures and
answers alone, so nothing but answers is kept, and no frames in the driver. They are read again where a further round
shows them, and by the driver only if the check of caption and video is on, which looks at them at the end.

What did not come back of an execution (its reader or engine died) is tried once more, one request at a time; what is
missing then is committed as crashed. A killed driver loses what was not committed; the next run asks for that only.
The engines answer rounds without pictures as well.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from captioning.backend import Answer
from captioning.backends.vllm import VllmConfig
from captioning.config import CaptionConfig
from captioning.job import Job, Pictures, Round, Row
from captioning.prefetch import Prefetcher
from captioning.stages import Errand, Found, planned, replay, stream, vllm_processor
from orchestration.errors import RushesError
from orchestration.runs import log
from orchestration.session import Engine

SLICE = 20_000  # clips of an execution: an engine takes minutes to start
CHUNK, LATEST_S = 64, 60.0  # clips that are committed together, and how long one waits for others at most


class EngineFailed(RushesError):
    """No engine works, or a reader raises an error: a fault of the installation, the storage or of ours."""


@dataclass
class _Clip:
    """A clip on its way."""

    row: Row
    rounds: list[tuple[Answer, ...]] = field(default_factory=list)
    pictures: Pictures = field(default_factory=Pictures)  # without frames
    answers: dict[str, Answer] = field(default_factory=dict)  # of the round under way
    blind: bool = False  # the round to come shows no pictures

    @property
    def errand(self) -> Errand:
        return Errand(self.row, tuple(self.rounds), self.pictures if self.blind else None)

    def take(self, came: Found) -> bool:
        """Whether the round is complete now."""
        if came.number != len(self.rounds):
            return False
        self.pictures = came.pictures
        if came.answer is not None:
            self.answers[came.answer.key] = came.answer
        if self.answers.keys() != set(came.keys):
            return False
        if came.keys:
            self.rounds.append(tuple(self.answers[key] for key in came.keys))
            self.answers = {}
        return True


def run_staged(
    engine: Engine,
    job: Job,
    config: CaptionConfig,
    rows: Iterable[Row],
    what: str,
    scratch: str,
    start: Callable[[Engine, VllmConfig, bool], Any] = vllm_processor,
) -> Generator[dict[str, Any]]:
    """Every clip of `rows` gets a committed row; yields a receipt a committed chunk.

    what: part of the names of what is committed. start(engine, settings, alone): makes ray.data.llm's Processor. Raises
    ConfigError without vLLM or GPUs, EngineFailed where no request comes back.
    """
    assert isinstance(config.captions, VllmConfig)
    sent, job = job, copy.copy(job)  # what was set up is heavy, and need not be picklable
    job.setup()
    with contextlib.ExitStack() as open_:
        look = None
        if config.checks.match is not None:
            look = open_.enter_context(Prefetcher(config.dataset, config.prefetch, scratch))
        staged = _Staged(engine, job, sent, config, what, scratch, start, look)
        left = iter(rows)
        while part := list(itertools.islice(left, SLICE)):
            yield from staged.run(part)


@dataclass
class _Staged:
    engine: Engine
    job: Job
    sent: Job  # the same as it is sent to readers
    config: CaptionConfig
    what: str
    scratch: str
    start: Callable[[Engine, VllmConfig, bool], Any]
    look: Prefetcher | None

    def run(self, part: Sequence[Row]) -> Iterator[dict[str, Any]]:
        """A slice: executions until no clip asks any more."""
        asking = {str(row["clip_id"]): _Clip(row) for row in part}
        while asking:
            todo, asking = asking, {}
            came, trouble = 0, ""
            for alone in (False, True):
                waiting = self._execution(todo, alone)
                while True:
                    try:
                        some = next(waiting)
                    except StopIteration as ended:
                        came, trouble = came + ended.value[0], ended.value[1] or trouble
                        break
                    made, again = self._finished(some)
                    for clip in some:
                        del todo[str(clip.row["clip_id"])]
                    asking |= {str(clip.row["clip_id"]): clip for clip in again}
                    yield from self._committed(made)
                if not todo:
                    break
                if trouble and not came:
                    raise EngineFailed(f"none of {len(todo)} clips came back: {trouble}")
                log.warning("%d clips did not come back%s", len(todo), "" if alone else "; each is asked alone now")
            reason = "crashed: its reader or engine died twice"
            yield from self._committed([self.job.crashed(clip.row, reason) for clip in todo.values()])

    def _execution(self, todo: dict[str, _Clip], alone: bool) -> Generator[list[_Clip], None, tuple[int, str]]:
        """Clips whose round is complete, some at a time; returns how many came, and what ended it early."""
        import ray

        assert isinstance(self.config.captions, VllmConfig)
        made = self.start(self.engine, self.config.captions, alone)
        errands = [clip.errand for clip in todo.values()]
        ready: list[_Clip] = []
        complete: set[str] = set()
        came, trouble, since = 0, "", time.monotonic()
        try:
            for one in stream(self.engine, self.sent, self.config, self.scratch, errands, made, alone):
                came += 1
                if one.broken:
                    raise EngineFailed(f"asking about clip {one.clip} failed: {one.broken}")
                if one.clip not in complete and todo[one.clip].take(one):
                    complete.add(one.clip)
                    ready.append(todo[one.clip])
                if len(ready) >= CHUNK or (ready and time.monotonic() - since >= LATEST_S):
                    yield ready
                    ready, since = [], time.monotonic()
        except ray.exceptions.RayError as error:
            trouble = f"{type(error).__name__}: {error}"
            log.warning("an execution ended early: %s", trouble)
        if ready:
            yield ready
        return came, trouble

    def _finished(self, clips: Sequence[_Clip]) -> tuple[list[dict[str, Any]], list[_Clip]]:
        """Rows to commit, and clips that have more to ask of the engines."""
        rows: list[dict[str, Any]] = []
        again: list[_Clip] = []
        seen = {str(clip.row["clip_id"]): clip.pictures for clip in clips}
        if self.look is not None:
            plans = [(clip.row, planned(self.job, clip.row)) for clip in clips]
            seen = {str(row["clip_id"]): pictures for row, pictures in self.look(plans)}
        for clip in clips:
            reached = replay(self.job, clip.row, seen[str(clip.row["clip_id"])], clip.rounds)
            if isinstance(reached, Round):
                clip.blind = not any(len(request.frames) for request in reached.requests)
                again.append(clip)
            else:
                rows.append(reached)
        return rows, again

    def _committed(self, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            names = "\0".join([self.what, *sorted(str(row["clip_id"]) for row in chunk)])
            key = hashlib.sha256(names.encode()).hexdigest()[:24]
            self.job.commit(key, chunk)
            yield {
                "key": key,
                "uri": str(chunk[0]["clip_id"]),
                "frames": len(chunk),
                "ok": sum(row["status"] == "ok" for row in chunk),
                "failed": sum(row["status"] == "failed" for row in chunk),
                "flagged": sum(bool(row.get("flags")) for row in chunk),
                "prompt_tokens": sum(row.get("prompt_tokens") or 0 for row in chunk),
                "output_tokens": sum(row.get("output_tokens") or 0 for row in chunk),
                "status": "ok",
            }
