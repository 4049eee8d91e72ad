"""Workers with a backend of their own: frames are read ahead, asked about in chunks, and committed chunk by chunk.

A row of the runner is a few hundred clips, so that reading ahead rarely ends; a chunk is what is committed together, so
that a killed worker repeats no more than that; a batch of it is asked about as soon as its frames are there. Answers go
to their clips by key, never by place.
"""

from __future__ import annotations

import itertools
import json
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captioning.backend import Answer, Backend, Request
from captioning.job import FramePlan, Job, Pictures, Role, Round, Row, Steps
from captioning.prefetch import PrefetchConfig, Prefetcher
from orchestration.errors import RushesError
from orchestration.progress import alive

Beat = Callable[[int, str], None]
ALL_FAILED = 8  # clips asked about, from which on it is no accident that none was answered


class NobodyAnswers(RushesError):
    """Not one of many questions was answered, for reasons that may pass or for one and the same: a server is down, a
    key is wrong. It is not the clips that are odd."""


@dataclass(frozen=True)
class Workers:
    """Makes workers in Ray's processes. `backends` are made there, by who is asked; their weights load there."""

    job: Job
    backends: Mapping[Role, Callable[[], Backend]]
    batch: int  # clips that are asked about together
    prefetch: PrefetchConfig
    root: str
    scratch: str

    def __call__(self) -> _Worker:
        return _Worker(self)


class _Worker:
    def __init__(self, settings: Workers):
        self._job, self._settings = settings.job, settings
        self._job.setup()
        self._nobody: NobodyAnswers | None = None
        made = {id(make): make() for make in settings.backends.values()}  # one that has both roles is made once
        for backend in made.values():
            backend.setup()
        self._backends = {role: made[id(make)] for role, make in settings.backends.items()}
        # Open as long as the worker lives: what decodes takes a second to start.
        self._prefetcher = Prefetcher(settings.root, settings.prefetch, settings.scratch).__enter__()
        self.close = weakref.finalize(self, self._prefetcher.__exit__, None, None, None)

    def __call__(self, row: dict[str, Any], beat: Beat) -> dict[str, Any]:
        """One row: {"key", "uri" (a label), "chunks": JSON of [{"key", "clips": [row of the clips table]}]}."""
        if self._nobody is not None:  # the rows that are left need not wait for the same
            raise self._nobody
        begun_at, cpu_at = time.perf_counter(), time.process_time()
        chunks = [chunk for chunk in json.loads(row["chunks"]) if not self._job.is_committed(chunk["key"])]
        clips = [(clip, self._planned(clip)) for chunk in chunks for clip in chunk["clips"]]
        counts = {"ok": 0, "failed": 0, "flagged": 0}
        tokens = {"prompt_tokens": 0, "output_tokens": 0}
        asked_s, done = 0.0, 0
        waited_s = self._prefetcher.waited_s
        stream = self._prefetcher(clips)
        for chunk in chunks:
            rows: list[dict[str, Any]] = []
            for _ in range(0, len(chunk["clips"]), self._settings.batch):
                pairs = []
                for pair in itertools.islice(stream, min(self._settings.batch, len(chunk["clips"]) - len(rows))):
                    pairs.append(pair)
                    beat(done + len(rows) + len(pairs), f"{row['uri']}: reading")
                asking, label = done + len(rows), f"{row['uri']}: asking"
                begun = time.perf_counter()
                with alive(lambda asking=asking, label=label: beat(asking, label)):
                    rows += self._drive(pairs)
                asked_s += time.perf_counter() - begun
            self._job.commit(chunk["key"], rows)
            done += len(rows)
            for made in rows:
                counts[made["status"]] += 1
                counts["flagged"] += bool(made.get("flags"))
                for name in tokens:
                    tokens[name] += made.get(name) or 0
        times = {
            "asked_s": round(asked_s, 3),
            "waited_s": round(self._prefetcher.waited_s - waited_s, 3),
            "row_s": round(time.perf_counter() - begun_at, 3),
            "row_cpu_s": round(time.process_time() - cpu_at, 3),  # of this process, not of those that decode
        }
        return {"key": row["key"], "uri": row["uri"], "frames": done, **counts, **tokens, **times, "status": "ok"}

    def _drive(self, pairs: Sequence[tuple[Row, Pictures]]) -> list[dict[str, Any]]:
        try:
            return drive(self._job, pairs, self._ask)
        except NobodyAnswers as error:
            self._nobody = error
            raise

    def _planned(self, clip: Row) -> FramePlan | Pictures | None:
        try:
            return self._job.plan(clip)
        except ValueError as error:
            return Pictures(reason=str(error))

    def _ask(self, by: Role, requests: Sequence[Request]) -> list[Answer]:
        return self._backends[by].answer(requests)


def drive(
    job: Job, pairs: Iterable[tuple[Row, Pictures]], ask: Callable[[Role, Sequence[Request]], Sequence[Answer]]
) -> list[dict[str, Any]]:
    """A row for each clip, in the order of `pairs`. All clips' rounds of one kind are asked at once."""
    clips = list(pairs)
    rows: dict[int, dict[str, Any]] = {}
    waiting: dict[int, tuple[Steps, Round]] = {}

    def step(place: int, steps: Steps, answers: Sequence[Answer] | None) -> None:
        try:
            waiting[place] = steps, steps.send(answers)  # type: ignore[arg-type]
        except StopIteration as ended:
            rows[place] = ended.value

    for place, (row, pictures) in enumerate(clips):
        step(place, job.steps(row, pictures), None)
    while waiting:
        by = next(iter(waiting.values()))[1].by
        turn = {place: pair for place, pair in waiting.items() if pair[1].by == by}
        requests = [request for _, asked in turn.values() for request in asked.requests]
        answers = matched(requests, ask(by, requests))
        _check_answered(list(answers.values()), len(turn))
        for place, (steps, asked) in turn.items():
            del waiting[place]
            step(place, steps, [answers[request.key] for request in asked.requests])
    return [rows[place] for place in range(len(clips))]


def _check_answered(answers: Sequence[Answer], clips: int) -> None:
    """Raises NobodyAnswers."""
    alike = len({answer.reason for answer in answers}) == 1 or all(answer.passing for answer in answers)
    if clips >= ALL_FAILED and alike and all(answer.status != "ok" for answer in answers):
        raise NobodyAnswers(f"none of {len(answers)} questions was answered, the first: {answers[0].reason}")


def matched(requests: Sequence[Request], answers: Sequence[Answer]) -> dict[str, Answer]:
    """Answers by key. Raises RushesError where a backend answers anything but each request once."""
    found = {answer.key: answer for answer in answers}
    keys = [request.key for request in requests]
    if len(found) != len(answers) or len(set(keys)) != len(keys) or set(keys) != found.keys():
        raise RushesError(f"the backend gave {len(answers)} answers to {len(keys)} requests that are not theirs")
    return found


def chunked(clips: Iterable[Row], planned: Callable[[Row], int], size: int, most_bytes: int) -> Iterator[list[Row]]:
    """Runs of at most `size` clips whose frames (`planned`: bytes of a clip's) take at most `most_bytes` together."""
    chunk: list[Row] = []
    held = 0
    for clip in clips:
        taken = planned(clip)
        if chunk and (len(chunk) >= size or held + taken > most_bytes):
            yield chunk
            chunk, held = [], 0
        chunk.append(clip)
        held += taken
    if chunk:
        yield chunk
