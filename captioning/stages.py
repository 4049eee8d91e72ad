"""The stages through which clips go to vLLM engines and answers come back: reading and asking, then Ray's own engine.

A row of the stream is a request. Its frames are arrays in memory, so that of ray.data.llm only the engine stage is
used; Ray's other stages fetch addresses, and render prompts by other rules. A clip that has nothing to ask passes the
engine as a row with an error, which ray.data.llm hands on untouched; that is how its reason gets to the driver.
"""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from captioning.backend import Answer
from captioning.backends.messages import unfit
from captioning.backends.vllm import Asker, VllmConfig, answer, require_vllm
from captioning.job import FramePlan, Job, Pictures, Round, Row
from captioning.prefetch import Prefetcher
from orchestration.errors import ConfigError
from orchestration.session import Engine

if TYPE_CHECKING:
    from captioning.config import CaptionConfig

TOGETHER = 8  # clips that a reader takes at once, and loses at once
BATCHES = 8  # that an engine has in hand
TRIES = 2  # repetitions of a batch whose engine died
ERROR = "__inference_error__"  # ray.data.llm's column: rows in which it is not empty pass every stage untouched
STAGE = "vLLMEngineStage"
NOT_SEEN = np.zeros((1, 1, 3), np.uint8)  # in place of a frame where nobody looks


def packed(value: Any) -> bytes:
    """For a column of the stream: Arrow would turn tuples, lists and arrays into other things."""
    return pickle.dumps(value)


def unpacked(data: bytes) -> Any:
    """What `packed` made in another process of this run, handed on in Ray's object store, which is pickled as well; no
    file is read this way, and what models and videos say is text inside of it."""
    return pickle.loads(data)


@dataclass(frozen=True)
class Errand:
    """A clip, and the answers to the rounds that it had."""

    row: Row
    rounds: tuple[tuple[Answer, ...], ...] = ()
    pictures: Pictures | None = None  # without frames: the coming round shows none, they need not be read


@dataclass(frozen=True)
class Found:
    """What came back: a clip's answer, or that it had nothing to ask, or that the reader raised (`broken`)."""

    clip: str
    number: int  # rounds that went before
    keys: tuple[str, ...]  # of the round
    pictures: Pictures  # without frames
    answer: Answer | None = None
    broken: str = ""


def replay(job: Job, row: Row, pictures: Pictures, rounds: Sequence[Sequence[Answer]]) -> Round | dict[str, Any]:
    """What a job comes to after `rounds` of answers: the next round, or the row to commit."""
    steps = job.steps(row, pictures)
    try:
        asked = next(steps)
        for answers in rounds:
            asked = steps.send(answers)
    except StopIteration as ended:
        return ended.value
    steps.close()
    return asked


def unseen(pictures: Pictures) -> Pictures:
    """The same without its frames, which nobody is going to look at."""
    return replace(pictures, frames=[NOT_SEEN] * len(pictures.frames))


def planned(job: Job, row: Row) -> FramePlan | Pictures | None:
    try:
        return job.plan(row)
    except ValueError as error:
        return Pictures(reason=str(error))


class Reader:
    """Ray's actor: reads frames and lets the job ask, up to the round that comes next. A row out is a request."""

    def __init__(self, job: Job, config: CaptionConfig, scratch: str):
        assert isinstance(config.captions, VllmConfig)
        self._job, self._asker = job, Asker(config.captions)
        job.setup()
        self._prefetcher = Prefetcher(config.dataset, config.prefetch, scratch).__enter__()
        weakref.finalize(self, self._prefetcher.__exit__, None, None, None)

    def __call__(self, batch: pa.Table) -> Iterator[dict[str, list[Any]]]:
        errands: list[Errand] = [unpacked(data) for data in batch.column("errand").to_pylist()]
        by_clip = {str(errand.row["clip_id"]): errand for errand in errands}
        clips = [(each.row, each.pictures or planned(self._job, each.row)) for each in errands]
        for row, pictures in self._prefetcher(clips):
            rows = list(self._asked(by_clip[str(row["clip_id"])], pictures))
            yield {name: [each[name] for each in rows] for name in rows[0]}

    def _asked(self, errand: Errand, pictures: Pictures) -> Iterator[dict[str, Any]]:
        clip, number = str(errand.row["clip_id"]), len(errand.rounds)
        nothing = Found(clip, number, (), unseen(pictures))
        try:
            asked = replay(self._job, errand.row, pictures, errand.rounds)
            if not isinstance(asked, Round):
                yield _row(nothing, "nothing is asked")
                return
            keys = tuple(request.key for request in asked.requests)
            rows = []
            for request in asked.requests:
                wrong = unfit(request)
                made = {} if wrong else self._asker(request)
                rows.append(_row(replace(nothing, keys=keys), wrong, {"key": request.key, **made}))
            yield from rows
        except Exception as error:  # of ours or of the installation: the driver stops with it
            yield _row(replace(nothing, broken=f"{type(error).__name__}: {error}"), "broken")


def _row(found: Found, error: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"found": packed(found), "request": packed({"key": "", **(request or {})}), ERROR: error}


def unpack(row: dict[str, Any]) -> dict[str, Any]:
    """Before the engine. `row` loses what is packed: it would travel along."""
    return unpacked(row.pop("request"))


def pack(row: dict[str, Any]) -> dict[str, Any]:
    """After the engine; rows with an error do not come here."""
    return {"found": row["found"], "answer": packed(answer(row))}


def found(row: dict[str, Any]) -> Found:
    """Of a row that left the last stage."""
    what: Found = unpacked(row["found"])
    if row.get("answer") is not None:
        return replace(what, answer=unpacked(row["answer"]))
    return replace(what, answer=answer(row)) if what.keys else what


def processor(config: VllmConfig, engines: int, alone: bool) -> Any:
    """ray.data.llm's Processor. alone: a request at a time: one that kills its engine takes no other along."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    settings = vLLMEngineProcessorConfig(
        model_source=config.model,
        engine_kwargs=config.engine_arguments,
        concurrency=(engines, engines),
        batch_size=1 if alone else config.batch_size,
        max_concurrent_batches=1 if alone else BATCHES,
        should_continue_on_error=True,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        prepare_multimodal_stage=False,
        log_engine_metrics=False,
    )
    made = build_processor(settings, preprocess=unpack, postprocess=pack)
    made.get_stage_by_name(STAGE).map_batches_kwargs |= {"max_restarts": 1000, "max_task_retries": TRIES}
    return made


def vllm_processor(engine: Engine, config: VllmConfig, alone: bool) -> Any:
    """The Processor with as many engines as there are GPUs for. Raises ConfigError without vLLM or GPUs."""
    import ray

    if engine.config.address is None:
        require_vllm()
    gpus = ray.cluster_resources().get("GPU", 0)
    most = int(gpus // config.tensor_parallel)
    if most < (config.engines or 1):
        needed = (config.engines or 1) * config.tensor_parallel
        raise ConfigError(f"captions: vLLM needs {needed} GPUs (engines x tensor_parallel), but Ray sees {gpus:g}")
    return processor(config, config.engines or most, alone)


def stream(
    engine: Engine, job: Job, config: CaptionConfig, scratch: str, errands: Sequence[Errand], made: Any, alone: bool
) -> Iterable[Found]:
    """What comes back of `errands`, in any order; what was lost with a process that died is missing."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1
    size = 1 if alone else TOGETHER
    column = [packed(errand) for errand in errands]
    blocks = [pa.table({"errand": column[start : start + size]}) for start in range(0, len(column), size)]
    requests = ray.data.from_arrow(blocks).map_batches(
        Reader,
        fn_constructor_args=(job, config, scratch),
        batch_size=size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(engine.workers, len(blocks)), max_tasks_in_flight_per_actor=1),
        num_cpus=engine.config.worker_cpus,
        max_restarts=1000,
        max_task_retries=0,
    )
    for row in made(requests).iter_rows():
        yield found(row)
