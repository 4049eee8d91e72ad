"""The counts of a dataset: files = ok + failed + duplicate, clips = kept + dropped, checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow.parquet as pq
from rich.table import Table

from curation.select import SELECTION
from orchestration.errors import RushesError
from orchestration.storage import Storage
from orchestration.tables import published, snapshot


@dataclass
class Accounts:
    """What a dataset holds. Hours are of video, sizes of source files."""

    videos: dict[str, int] = field(default_factory=lambda: {"ok": 0, "failed": 0, "duplicate": 0})
    clips: dict[str, int] = field(default_factory=lambda: {"kept": 0, "dropped": 0})
    cuts: dict[str, int] = field(default_factory=lambda: {"copy": 0, "encode": 0, "none": 0})
    captions: int = 0  # clips that have one
    trainable: int = 0  # clips whose caption the trainer is given
    latents: int = 0  # clips that have some
    hours: float = 0.0
    kept_hours: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        videos, clips = self.videos, self.clips
        table.add_row("videos", f"{sum(videos.values()):,}", " + ".join(f"{n:,} {name}" for name, n in videos.items()))
        table.add_row("clips", f"{sum(clips.values()):,}", " + ".join(f"{n:,} {name}" for name, n in clips.items()))
        table.add_row("kept clips", f"{clips['kept']:,}", " + ".join(f"{n:,} {name}" for name, n in self.cuts.items()))
        if self.captions:
            table.add_row("captions", f"{self.captions:,}", f"{self.trainable:,} to train with")
        if self.latents:
            table.add_row("latents", f"{self.latents:,}", "clips")
        table.add_row("hours", f"{self.hours:,.3f}", f"{self.kept_hours:,.3f} kept")
        for reason, count in sorted(self.reasons.items(), key=lambda item: -item[1])[:8]:
            table.add_row("failed", f"{count:,}", reason)
        return table


def account(storage: Storage) -> Accounts:
    """Count the published tables. Raises RushesError where they do not add up, or where there is no dataset."""
    found = Accounts()
    if not published(storage, "videos"):
        raise RushesError(f"{storage.uri} holds no curated dataset; run `rushes curate` first")
    reasons: Counter[str] = Counter()
    for table in snapshot(storage, "videos", ["status", "reason", "duration_s"]):
        for row in table.to_pylist():
            found.videos[row["status"]] += 1
            if row["status"] == "ok":
                found.hours += (row["duration_s"] or 0) / 3600
            elif row["status"] == "failed":
                reasons[(row["reason"] or "").partition(":")[0].partition(" (")[0]] += 1
    found.reasons = dict(reasons)
    kept: set[str] = set()
    if storage.exists(SELECTION):
        with storage.open_read(SELECTION) as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=["clip_id", "kept"]):
                names, flags = batch.column(0).to_pylist(), batch.column(1).to_pylist()
                kept.update(name for name, keep in zip(names, flags, strict=True) if keep)
                found.clips["kept"] += sum(flags)
                found.clips["dropped"] += len(flags) - sum(flags)
    total = 0
    for table in snapshot(storage, "clips", ["clip_id", "cut", "duration_s"]):
        total += table.num_rows
        for row in table.to_pylist():
            if row["clip_id"] in kept:
                found.cuts[row["cut"] or "none"] += 1
                found.kept_hours += row["duration_s"] / 3600
    captioned: set[str] = set()
    for table in snapshot(storage, "captions", ["clip_id", "status", "train"]):
        for row in table.to_pylist():
            if row["status"] == "ok":
                captioned.add(row["clip_id"])
                found.trainable += row["clip_id"] in kept and bool(row["train"])
    found.captions = len(captioned)
    encoded: set[str] = set()
    for table in snapshot(storage, "samples", ["clip_id", "status"]):
        encoded.update(row["clip_id"] for row in table.to_pylist() if row["status"] == "ok")
    found.latents = len(encoded)
    decided, made = sum(found.clips.values()), sum(found.cuts.values())
    if total and not decided:
        raise RushesError(f"{storage.uri}: its {total:,} clips are not decided; run `rushes select` or `rushes curate`")
    if total != decided or made != len(kept):
        raise RushesError(
            f"{storage.uri}: {total:,} clips, but the {decided:,} decisions are not theirs; "
            "run `rushes select` or `rushes curate` to decide anew"
        )
    return found
