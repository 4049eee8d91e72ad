"""Workers that encode: a shard a row; frames are read ahead, encoded one sample at a time, and put into one tar."""

from __future__ import annotations

import json
import math
import platform
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captioning.job import FramePlan, Pictures
from captioning.prefetch import Prefetcher
from captioning.todo import VIDEO
from latents.config import LatentsConfig
from latents.index import FOLDER, empty_name, place, shard_name
from latents.records import ledger, shard_row
from latents.shard import ShardEntry, pack_tensors, write_shard
from latents.text import TextEncoder
from latents.vae import VideoEncoder
from orchestration.errors import ConfigError
from orchestration.progress import alive
from orchestration.storage import Storage

Beat = Callable[[int, str], None]
NO_SCORES = {"start_s", "end_s", "duration_s", *VIDEO}  # numbers of a clip's row


@dataclass(frozen=True)
class Encoders:
    """Makes workers in Ray's processes; weights load there."""

    config: LatentsConfig
    encoder: Mapping[str, Any]  # what samples say of who made them
    fingerprint: str
    run: int
    scratch: str

    def __call__(self) -> _Worker:
        return _Worker(self)


class _Worker:
    def __init__(self, settings: Encoders):
        config = settings.config
        self._settings, self._config = settings, config
        self._storage = Storage(config.dataset)
        self._ledger = ledger(self._storage)
        self._vae = VideoEncoder(config.vae)
        self._text = TextEncoder(config.text) if config.text.model is not None else None
        for name, encoder in (("vae", self._vae), ("text", self._text)):
            if encoder is not None:
                _require_same(name, encoder.facts, settings.encoder[name])
                encoder.setup()
        if self._text is not None:
            self._empty()
        self._prefetcher = Prefetcher(config.dataset, config.prefetch, settings.scratch).__enter__()
        self.close = weakref.finalize(self, self._prefetcher.__exit__, None, None, None)

    def _empty(self) -> None:
        """The empty caption's embedding, once a set; whoever writes it writes the same bytes."""
        name = f"{FOLDER}/{empty_name(self._settings.fingerprint)}"
        if self._text is not None and not self._storage.exists(name):
            embedding, tokens = self._text.empty()
            self._storage.write_bytes(name, pack_tensors(_texts([(embedding, tokens)])))

    def __call__(self, row: dict[str, Any], beat: Beat) -> dict[str, Any]:
        """One row: {"key", "uri", "bucket", "number", "samples": JSON}. The file is there before its row."""
        begun, waited = time.perf_counter(), self._prefetcher.waited_s
        samples = json.loads(row["samples"])
        counts = {"ok": 0, "failed": 0}
        failed: list[dict[str, Any]] = []
        if samples and not self._ledger.has(row["key"]):
            name = shard_name(self._settings.fingerprint, row["number"])
            path = Path(self._settings.scratch) / f"{uuid.uuid4().hex}.tar"
            entry = self._shard(path, name, row, samples, failed, beat)
            if entry is not None:
                self._storage.put_file(path, place(row["bucket"], name))
            path.unlink(missing_ok=True)
            self._ledger.commit(
                row["key"],
                {
                    "key": row["key"],
                    "set": self._settings.fingerprint,
                    "bucket": row["bucket"],
                    "run": self._settings.run,
                    "number": row["number"],
                    "planned": [sample["key"] for sample in samples],
                    "failed": failed,
                    **shard_row(entry),
                },
            )
            counts = {"ok": len(samples) - len(failed), "failed": len(failed)}
        times = {
            "row_s": round(time.perf_counter() - begun, 3),
            "waited_s": round(self._prefetcher.waited_s - waited, 3),
        }
        return {"key": row["key"], "uri": row["uri"], "frames": len(samples), **counts, **times, "status": "ok"}

    def _shard(
        self,
        path: Path,
        name: str,
        row: Mapping[str, Any],
        samples: Sequence[dict[str, Any]],
        failed: list[dict[str, Any]],
        beat: Beat,
    ) -> ShardEntry | None:
        """Write the shard; None where not one of its samples could be made."""
        made = self._encoded(row, samples, failed, beat)
        first = next(made, None)
        if first is None:
            return None
        with path.open("wb") as file:
            return write_shard(file, name, _with(first, made))

    def _encoded(
        self, row: Mapping[str, Any], samples: Sequence[dict[str, Any]], failed: list[dict[str, Any]], beat: Beat
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        frames, height, width = map(int, row["bucket"].split("x"))
        plans = []
        for sample in samples:
            fps = sample["fps"] or 1.0
            seconds = tuple(sample["seconds"] + step / fps for step in range(frames))
            plans.append((sample["clip"], FramePlan(tuple(sample["frames"]), seconds, (height, width))))
        for done, (sample, (_, pictures)) in enumerate(zip(samples, self._prefetcher(plans), strict=True)):
            label = f"{row['uri']}, {sample['key']}"
            beat(done, label)
            if pictures.reason:
                failed.append(_failure(sample, pictures.reason, pictures.passing))
                continue
            try:
                with alive(lambda done=done, label=label: beat(done, label)):
                    yield sample["key"], self._tensors(sample, pictures), self._facts(row, sample)
            except MemoryError as error:
                failed.append(_failure(sample, f"no memory left for it: {error}", True))

    def _tensors(self, sample: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
        tensors = dict(self._vae.encode(np.stack(list(pictures.frames))))
        if self._text is not None:
            tensors |= _texts(self._text.encode(sample["texts"]))
        return tensors

    def _facts(self, row: Mapping[str, Any], sample: Mapping[str, Any]) -> dict[str, Any]:
        """KEY.json. All samples have the same fields of the same types, or `datasets` would not read them together."""
        clip = sample["clip"]
        return {
            "key": sample["key"],
            "clip_id": clip["clip_id"],
            "video_id": clip["video_id"],
            "span": [clip["start_frame"], clip["end_frame"]],
            "bucket": [int(side) for side in row["bucket"].split("x")],
            "frames": sample["frames"],
            "seconds": sample["seconds"],
            "fps": sample["fps"] or 0.0,
            "caption": sample["texts"][0],
            "captions": sample["texts"],
            "caption_version": sample["caption"],
            "scores": [
                {"name": name, "value": value}
                for name, value in sorted(clip.items())
                if name not in NO_SCORES and isinstance(value, float) and math.isfinite(value)
            ],
            "set": self._settings.fingerprint,
            "encoder": dict(self._settings.encoder),
        }


def _require_same(name: str, here: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ConfigError where this machine's weights or settings are not those that the run was started with."""
    here = json.loads(json.dumps(here))  # as `wanted` went
    other = [
        f"{field}: {wanted.get(field)!r} there, {here.get(field)!r} here"
        for field in sorted({*wanted, *here})
        if wanted.get(field) != here.get(field)
    ]
    if other:
        raise ConfigError(
            f"{name}.model is another one on {platform.node()}, where a worker runs, than where the run was started: "
            f"{'; '.join(other)}. Name its {name}.revision, or give all machines the same folder"
        )


def _texts(embeddings: Sequence[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """`text.N` [L, D] and `text.N.tokens` [1] int32."""
    made: dict[str, torch.Tensor] = {}
    for number, (embedding, tokens) in enumerate(embeddings):
        made |= {f"text.{number}": embedding, f"text.{number}.tokens": torch.tensor([tokens], dtype=torch.int32)}
    return made


def _with(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _failure(sample: Mapping[str, Any], reason: str, passing: bool) -> dict[str, Any]:
    return {"key": sample["key"], "clip_id": sample["clip"]["clip_id"], "reason": reason, "retry": passing}
