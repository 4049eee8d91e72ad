"""Writes what is said of latents: their page of the report."""

from __future__ import annotations

from pathlib import Path

from latents.config import LatentsConfig
from latents.report.page import latents_page
from orchestration.report import build_report, save_page
from orchestration.storage import Storage


def write_report(
    storage: Storage, config: LatentsConfig, latest: str | None = None, scratch: Path | None = None
) -> int:
    """Make the latents' page, write the report of it and the other stages' pages, return its size in bytes.

    latest: fingerprint of the set that the run filled; None: the newest. scratch: a folder for decoded frames; None:
    the configuration's.
    """
    save_page(storage, latents_page(storage, config, latest=latest, scratch=scratch))
    return build_report(storage, "rushes", subtitle=storage.uri)
