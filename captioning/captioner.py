"""The job of captioning one clip: a recipe's tries, each checked, until one is fit or there are no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from captioning.backend import Answer
from captioning.checks.match import Matcher
from captioning.checks.tokens import Counter, counter
from captioning.config import CaptionConfig
from captioning.finish import RESAMPLE, checked_by, finish
from captioning.job import FramePlan, Pictures, Role, Row, Steps
from captioning.prompt import Prompt
from captioning.recipes import Rewrite
from captioning.recipes.base import Draft, Recipe, Try
from captioning.records import Version, clip_row, ledger, said_json
from orchestration.storage import Storage


@dataclass
class CaptionJob:
    """captioning.job.Job for captions of one version, committed to the captions' ledger as of run `run`."""

    config: CaptionConfig
    recipe: Recipe
    prompts: Mapping[str, Prompt]
    version: Version
    run: int
    _count: Counter | None = field(default=None, init=False, repr=False)
    _matcher: Matcher | None = field(default=None, init=False, repr=False)

    @property
    def roles(self) -> Sequence[Role]:
        return self.recipe.ROLES

    def setup(self) -> None:
        self._ledger = ledger(Storage(self.config.dataset))
        self._count = counter(self.config.checks.tokenizer)
        if (match := self.config.checks.match) is not None:
            if match.device == "auto" and not self.config.ray.worker_gpus:
                match = match.model_copy(update={"device": "cpu"})
            self._matcher = Matcher(match)
            self._matcher.setup()

    def plan(self, row: Row) -> FramePlan | None:
        plan = self.recipe.plan(row, self.config.frames)
        if plan is None and self.config.checks.match is not None:  # the check looks at pictures, if nobody else does
            return Recipe.plan(self.recipe, row, self.config.frames)
        return plan

    def steps(self, row: Row, pictures: Pictures) -> Steps:
        if pictures.reason:
            return self._failed(row, pictures.reason, pictures.passing)
        answers: list[Answer] = []
        best: dict[str, Any] | None = None
        before: Draft | None = None
        complaint = ""
        tries = 1 if isinstance(self.recipe, Rewrite) else 1 + self.config.resample  # a rewrite has tries of its own
        for number in range(tries):
            sampling = self.config.sampling.nth(number, longer=before is not None and before.finish == "length")
            this = Try(row, pictures, sampling, self.prompts, complaint, before)
            before = yield from self.recipe.attempt(this)
            answers += before.answers
            complaint = before.complaint
            if before.reason and before.said is None:
                if best is not None:
                    break
                return self._failed(row, before.reason, before.passing, answers)
            if before.said is None:
                continue
            found = self._finished(row, before, pictures)
            if best is None or len(found["flags"]) < len(best["flags"]):
                best = found
            if not RESAMPLE & set(found["flags"]) or not before.answers:
                break
        if best is None:
            assert before is not None
            often = f" in {tries} tries" if tries > 1 else ""
            return self._failed(row, f"no answer that can be read{often}: {complaint}", False, answers, before.text)
        return clip_row({**best, **_tally(answers)})

    def _finished(self, row: Row, draft: Draft, pictures: Pictures) -> dict[str, Any]:
        assert draft.said is not None
        assert self._count is not None
        made = finish(draft.said, row, self.config.checks, self._count, ended=draft.finish, prompt=self.version.asked)
        matched = None
        if self._matcher is not None and pictures.frames and made["dense"]:
            matched = self._matcher.score(made["dense"], pictures.frames)
            flags = self._matcher.config.flags(matched)
            made["flags"] += [flag.name for flag in flags]
            made["flag_reasons"] += [flag.why for flag in flags]
        return {
            "clip_id": row["clip_id"],
            "status": "ok",
            **made,
            "finish": draft.finish,
            "matched": matched,
            "matched_by": self._matcher.config.name if matched is not None and self._matcher is not None else None,
            "reason": draft.reason or None,
            "retry": False,
            "text": draft.text,
            "said": said_json(draft.said),
            "checked": checked_by(self.config.checks, row),
        }

    def _failed(
        self, row: Row, reason: str, passing: bool, answers: Sequence[Answer] = (), text: str = ""
    ) -> dict[str, Any]:
        return clip_row(
            {
                "clip_id": row["clip_id"],
                "status": "failed",
                "others": [],
                "flags": [],
                "flag_reasons": [],
                "reason": reason,
                "retry": passing,
                "text": text or None,
                **_tally(answers),
            }
        )

    def crashed(self, row: Row, reason: str) -> dict[str, Any]:
        return self._failed(row, reason, False)

    def commit(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        record = {"key": key, "fingerprint": self.version.fingerprint, "run": self.run, "captions": list(rows)}
        self._ledger.commit(key, record)

    def is_committed(self, key: str) -> bool:
        return self._ledger.has(key)


def _tally(answers: Sequence[Answer]) -> dict[str, Any]:
    def total(counts: list[int | None]) -> int | None:
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    return {
        "tries": len(answers),
        "prompt_tokens": total([answer.prompt_tokens for answer in answers]),
        "output_tokens": total([answer.output_tokens for answer in answers]),
        "seconds": sum(answer.seconds for answer in answers),
    }
