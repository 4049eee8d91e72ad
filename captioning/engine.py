"""Clips through vLLM engines: an engine gets the requests of all clips at once, not those of one worker."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

from captioning.job import Job, Row
from orchestration.session import Engine

if TYPE_CHECKING:
    from captioning.config import CaptionConfig


def run_staged(
    engine: Engine, job: Job, config: CaptionConfig, rows: Iterable[Row], what: str, scratch: str
) -> Generator[dict[str, Any]]:
    """Every clip of `rows` gets a committed row; yields a receipt a committed chunk."""
    raise NotImplementedError
    yield
