"""`rushes report`: the page about curation is made anew, and the report of it and the other stages' pages."""

from __future__ import annotations

from typing import Any

import yaml

from curation.config import CurateConfig
from curation.dataset.records import TIMINGS, scans
from curation.report.page import Amounts, curation_page
from curation.scorers import score_columns
from curation.select import read_funnel
from orchestration.report import build_report, save_page
from orchestration.storage import Storage

STAGES = {
    "fetch_s": "Fetch and hash",
    "decode_s": "Decode and measure",
    "shots_s": "Shots",
    "score_s": "Score",
    "pictures_s": "Look at pictures",
    "cut_s": "Cut",
}


def write_report(storage: Storage, config: CurateConfig) -> int:
    """Make the page about curation, write the report and return its size in bytes."""
    funnel = read_funnel(storage)

    page = curation_page(
        storage,
        columns=score_columns(),
        thresholds=config.select.thresholds(funnel.thresholds if funnel else None),
        funnel=funnel,
        stages=_stages(storage),
        config=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        amounts=Amounts(near=config.report.previews),
    )
    save_page(storage, page)
    return build_report(storage, "rushes", subtitle=storage.uri, limit=int(config.report.max_mb * 1e6))


def _stages(storage: Storage) -> list[dict[str, Any]]:
    """Seconds of work of each stage, summed over all workers and runs."""
    seconds: dict[str, float] = dict.fromkeys(TIMINGS, 0.0)
    frames = size = 0
    for table in scans(storage).read([*TIMINGS, "frames_decoded", "bytes"]):
        for name in TIMINGS:
            seconds[name] += sum(value or 0 for value in table.column(name).to_pylist())
        frames += sum(value or 0 for value in table.column("frames_decoded").to_pylist())
        size += sum(value or 0 for value in table.column("bytes").to_pylist())
    found = [
        {"name": title, "seconds": seconds[name], "items": frames, "unit": "frames"} for name, title in STAGES.items()
    ]
    found[0] |= {"bytes": size}
    return found
