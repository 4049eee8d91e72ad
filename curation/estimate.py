"""`rushes curate --dry-run`: what a run would find and how long it would take. Writes nothing but its own scratch."""

from __future__ import annotations

import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from curation.cascade import Cascade
from curation.config import CurateConfig
from curation.curate import check_shots, finished
from curation.dataset.records import scans
from curation.decode import load_tracks
from curation.fetch import FetchFailed, fetched
from curation.ingest import Listed, list_input, sampled
from curation.rules.overrides import Overrides
from curation.sandbox import JobFailed, Sandbox
from orchestration.errors import ConfigError
from orchestration.storage import Storage

PROBES = 24  # files that are opened to learn durations
FETCH = 300e6  # bytes; no larger file is opened
TRIAL = 100e6  # bytes; no larger file is decoded to learn the speed
TRIALS = (0.1, 0.5, 0.9)  # which files are decoded, of the opened ones by size


@dataclass
class Estimate:
    """Hours and seconds are extrapolated from a sample by file size; null where no file of it could be opened."""

    files: int
    bytes: int
    finished: int
    hours: float | None
    seconds: float | None
    workers: int
    probed: int

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row("files to do", f"{self.files:,}")
        table.add_row("bytes", f"{self.bytes / 1e9:,.3f} GB")
        table.add_row("finished", f"{self.finished:,}")
        hours = "unknown" if self.hours is None else f"about {self.hours:,.2f}"
        table.add_row("hours of video", f"{hours} (from {self.probed} files opened)")
        took = "unknown" if self.seconds is None else f"about {self.seconds / 60:,.1f} minutes"
        table.add_row("estimated time", f"{took} on {self.workers} workers")
        return table


def estimate(config: CurateConfig, console: Console) -> Estimate:
    storage = Storage(config.output)
    check_shots(scans(storage), config)
    done, _ = finished(storage)
    draw = random.Random(0)
    chosen: list[Listed] = []
    files = size = known = 0
    for item in sampled(list_input(config.input, exclude=config.output), config.sample, config.limit):
        if item.listing_id in done:
            known += 1
            continue
        files += 1
        size += item.bytes
        if len(chosen) < PROBES:  # a reservoir: every file has the same chance, in one pass
            chosen.append(item)
        elif (place := draw.randrange(files)) < PROBES:
            chosen[place] = item
    if not files and not known:
        raise ConfigError(f"input {config.input} holds no file")
    workers = config.ray.workers or _processors()
    hours, seconds, probed = _measure(config, chosen, size, console)
    return Estimate(files, size, known, hours, seconds and seconds / workers, workers, probed)


def _processors() -> int:
    """Those this process may use; not every system tells."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _measure(config: CurateConfig, chosen: list[Listed], size: int, console: Console):
    """(hours of video, seconds of work, files opened) for `size` bytes, from the chosen files."""
    sandbox = Sandbox(config.decode.memory_gb, config.decode.stall_s)
    cascade = Cascade(config, Overrides())
    hours = seen = tried_s = tried_bytes = 0.0
    probed = 0
    try:
        with tempfile.TemporaryDirectory(dir=config.scratch) as folder, console.status("Opening a few files"):
            by_size = sorted((item for item in chosen if 0 < item.bytes < FETCH), key=lambda item: item.bytes)
            small = [item for item in by_size if item.bytes < TRIAL] or by_size[:1]
            trials = {small[int(share * len(small))] for share in TRIALS if small}
            cascade.prepare()
            for item in by_size:
                try:
                    started = time.monotonic()
                    with fetched(item.uri, Path(folder), lambda: None) as (path, _):
                        facts = sandbox.run("probe", path=str(path))
                        hours += (facts["duration_s"] or 0) / 3600
                        if item in trials:
                            _scan(config, sandbox, cascade, path, Path(folder))
                            tried_s += time.monotonic() - started
                            tried_bytes += item.bytes
                    probed += 1
                    seen += item.bytes
                except (FetchFailed, JobFailed):
                    seen += item.bytes
    finally:
        sandbox.close()
    return (
        hours / seen * size if probed else None,
        tried_s / tried_bytes * size if tried_bytes else None,
        probed,
    )


def _scan(config: CurateConfig, sandbox: Sandbox, cascade: Cascade, path: Path, folder: Path) -> None:
    """The work of a scan of one video, less cutting and committing."""
    settings = {"config": config.decode.model_dump(mode="json"), "plan": config.plan.model_dump(mode="json")}
    tracks = load_tracks(folder, sandbox.run("decode", None, path=str(path), folder=str(folder), **settings))
    clips = []
    for span in config.shots.shots(tracks):
        start_s, end_s = tracks.seconds(span)
        facts = {"clip_id": str(span), "start_frame": span.start, "end_frame": span.end, "duration_s": end_s - start_s}
        damage = {"decode_errors": int(tracks.damaged[span.start : span.end].sum()), "video_errors": 0}
        clips.append({**facts, **damage, "measured": [], **config.plan.score(tracks, span)})
    cascade.run(clips, tracks)
