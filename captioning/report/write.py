"""Writes what is said of captions: their page of the report, and comparisons."""

from __future__ import annotations

import json
from collections.abc import Sequence

from captioning.cost import CostConfig
from captioning.report.page import Amounts, caption_page
from captioning.report.survey import Only
from orchestration.report import build_report, save_page, write_pages
from orchestration.storage import Storage

COMPARISON = "report/compare.html"


def write_report(storage: Storage, cost: CostConfig, *, max_tokens: int = 226, clips: int = 60) -> int:
    """Make the captions' page, write the report of it and the other stages' pages, return its size in bytes.

    max_tokens: the checks'. clips: so many are shown with all their captions.
    """
    amounts = Amounts(clips=clips)
    page = caption_page(storage, cost=cost, max_tokens=max_tokens, occupancy=occupancies(storage), amounts=amounts)
    save_page(storage, page)
    return build_report(storage, "rushes", subtitle=storage.uri)


def write_comparison(
    storage: Storage, versions: Sequence[str], clip_ids: Sequence[str], cost: CostConfig, *, max_tokens: int = 226
) -> str:
    """Write a page of these versions (fingerprints) and clips side by side; returns its path. The report is left as it
    is."""
    only = Only(tuple(versions), tuple(clip_ids))
    page = caption_page(storage, cost=cost, max_tokens=max_tokens, occupancy=occupancies(storage), only=only)
    write_pages(storage, COMPARISON, [page], "rushes: captions side by side", subtitle=storage.uri)
    return storage.path(COMPARISON)


def occupancies(storage: Storage) -> dict[str, float]:
    """By fingerprint: of the time of the workers of its last run the share in which the model was asked."""
    found: dict[str, float] = {}
    for name in storage.list("runs", "/metrics.jsonl"):
        asked, waited, version = 0.0, 0.0, None
        for line in storage.read_bytes(name).splitlines() if "-caption-" in name else ():
            try:
                receipt = json.loads(line)
            except ValueError:  # the end of a run that was killed
                continue
            asked, waited = asked + receipt.get("asked_s", 0.0), waited + receipt.get("waited_s", 0.0)
            version = receipt.get("version", version)
        if version and asked + waited > 0:
            found[version] = asked / (asked + waited)
    return found
