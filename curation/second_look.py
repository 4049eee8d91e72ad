"""Second looks at videos that are scanned already: scores that were never measured, clips that were chosen later."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.config import CurateConfig
from curation.dataset.publish import roster
from curation.dataset.records import CUT_COLUMNS, clip_schema, commit_scores, cuts, scores, token
from curation.fetch import FetchFailed, fetched
from curation.plan import MeasurePlan
from curation.rules.overrides import Overrides
from curation.rules.prospects import could_be_kept
from curation.sandbox import JobFailed
from curation.scan import Beat, Desk, cut_settings
from curation.select import kept_clips
from curation.video import Span
from orchestration.passes import write_listing
from orchestration.progress import alive
from orchestration.storage import Storage
from orchestration.tables import snapshot

TODO = pa.schema([("key", pa.string()), ("uri", pa.string()), ("video_id", pa.string()), ("work", pa.string())])
ROWS_PER_FILE = 1000
CUT_FIELDS = (
    *("clip_id", "video_id", "start_frame", "end_frame", "start_pts", "end_pts"),
    *("first_hash", "last_hash", "frames_hash"),
)


def unscored(storage: Storage, config: CurateConfig, overrides: Overrides) -> Iterator[dict[str, Any]]:
    """Videos with clips that lack a score of `config`: rows of TODO, `work` = {"clips": rows of the clips table}.

    A frame scorer has to have looked at every clip, a picture scorer at those which the rules on the rest could keep.
    """
    columns = [name for name in clip_schema().names if name != "thumbnail"]
    speaking = roster(storage)

    def wanted() -> Iterator[dict[str, Any]]:
        for table in snapshot(storage, "clips", columns):
            lacking = _lacking(table, config, overrides)
            for clip in table.filter(pa.array(lacking)).to_pylist():
                yield {name: value for name, value in clip.items() if value is not None}

    for video_id, clips in itertools.groupby(wanted(), key=lambda clip: clip["video_id"]):
        found = list(clips)
        names = (name for clip in found for name in (clip["clip_id"], *clip["measured"]))
        yield _todo(video_id, speaking.canonical(video_id), {"clips": found}, *names)


def _lacking(clips: pa.Table, config: CurateConfig, overrides: Overrides) -> np.ndarray:
    """[n] bool: the clip is to be looked at again."""
    pictures = config.picture_scorers
    frames = [~_measured(clips, token(scorer)) for scorer in config.plan.frame_scorers]
    lacks = np.array([~_measured(clips, token(scorer)) for scorer in pictures], bool).reshape(
        len(pictures), clips.num_rows
    )
    found = np.logical_or.reduce(frames) if frames else np.zeros(clips.num_rows, bool)
    for pattern in np.unique(lacks, axis=1).T:  # few: most clips lack the same scorers
        if not pattern.any():
            continue
        here = (lacks == pattern[:, None]).all(axis=0)
        if not config.score_all:
            missing = [scorer for scorer, lack in zip(pictures, pattern, strict=True) if lack]
            pending = {column.name for scorer in missing for column in scorer.columns()}
            settings = {"damage": config.damage, "overrides": overrides}
            here[here] = could_be_kept(clips.filter(pa.array(here)), config.select, pending, **settings)
        found = found | here
    return found


def _measured(clips: pa.Table, name: str) -> np.ndarray:
    """[n] bool: a scorer, by its token, has looked at the clip."""
    measured = clips.column("measured").combine_chunks()
    hits = pc.list_parent_indices(measured).filter(pc.equal(pc.list_flatten(measured), name))
    found = np.zeros(clips.num_rows, bool)
    found[hits.to_numpy()] = True
    return found


def uncut(storage: Storage, config: CurateConfig) -> Iterator[dict[str, Any]]:
    """Videos with kept clips that have no file made with the present settings: rows of TODO, `work` = {"clips"}."""
    if config.cut.mode == "none":
        return
    settings = cut_settings(config.cut)
    kept = kept_clips(storage)
    pending: dict[str, list[dict[str, Any]]] = {}
    for table in snapshot(storage, "clips", [*CUT_FIELDS, "cut_settings"]):
        for clip in table.to_pylist():
            if clip["clip_id"] in kept and clip.pop("cut_settings") != settings:
                pending.setdefault(clip["video_id"], []).append(clip)
    speaking = roster(storage)
    for video_id, clips in pending.items():
        names = (clip["clip_id"] for clip in clips)
        yield _todo(video_id, speaking.canonical(video_id), {"clips": clips}, settings, *names)


def _todo(video_id: str, uri: str, work: dict[str, Any], *names: str) -> dict[str, Any]:
    key = hashlib.sha256("\0".join((video_id, *names)).encode()).hexdigest()[:24]
    return {"key": key, "uri": uri, "video_id": video_id, "work": json.dumps(work)}


def write_todo(rows: Iterator[dict[str, Any]], folder: Path, name: str) -> tuple[list[str], int]:
    """Parquet files for the runner, and how many rows they hold."""
    return write_listing(rows, TODO, folder, name, ROWS_PER_FILE)


@dataclass(frozen=True)
class SecondLook:
    """Makes the workers of a second look: `kind` is "score" or "cut"; `run` is the number of the run."""

    config: CurateConfig
    scratch: str
    kind: str
    run: int
    overrides: Overrides

    def __call__(self) -> Callable[[dict[str, Any], Beat], dict[str, Any]]:
        return _Work(self)


class _Work:
    """Fetches a known video again and works on it; what does not work now stays undone and is said."""

    def __init__(self, settings: SecondLook):
        self._settings, self._config = settings, settings.config
        self._desk = Desk(settings.config, settings.scratch, settings.overrides)

    def __call__(self, row: dict[str, Any], beat: Beat) -> dict[str, Any]:
        problem = None

        def report(frames: int = 0) -> None:
            beat(frames, row["uri"])

        try:
            with self._desk.folder() as folder, fetched(row["uri"], folder, report) as (path, video_id):
                if video_id != row["video_id"]:
                    raise FetchFailed("the file has changed since it was scanned; run curate again to take it in")
                work = json.loads(row["work"])
                if self._settings.kind == "score":
                    self._score(path, row, work, folder, report)
                else:
                    self._cut(path, row, work, folder, report)
        except (FetchFailed, JobFailed) as error:
            problem = str(error)
        return {"key": row["key"], "uri": row["uri"], "status": "failed" if problem else "ok", "reason": problem}

    def _score(
        self, path: Path, row: dict[str, Any], work: dict[str, Any], folder: Path, beat: Callable[..., None]
    ) -> None:
        clips = work["clips"]
        before = {clip["clip_id"]: set(clip["measured"]) for clip in clips}
        scorers = self._config.plan.frame_scorers
        lacking = tuple(s for s in scorers if any(token(s) not in names for names in before.values()))
        tracks, _ = self._desk.decode(path, folder, MeasurePlan(scorers=lacking), beat)
        for clip in clips:
            for scorer in lacking:
                if (name := token(scorer)) not in clip["measured"]:
                    clip |= scorer.score(tracks, Span(clip["start_frame"], clip["end_frame"]))
                    clip["measured"] = [*clip["measured"], name]
        with alive(lambda: beat(tracks.frames)):
            self._desk.look(row["video_id"], clips, tracks)
        for scorer in self._config.scorers:
            name, columns = token(scorer), [column.name for column in scorer.columns()]
            new = [clip for clip in clips if name in clip["measured"] and name not in before[clip["clip_id"]]]
            if new:
                values = [{column: clip.get(column) for column in ("clip_id", *columns)} for clip in new]
                commit_scores(scores(self._desk.storage, scorer), row["video_id"], name, values)

    def _cut(
        self, path: Path, row: dict[str, Any], work: dict[str, Any], folder: Path, beat: Callable[..., None]
    ) -> None:
        clips = [{**clip, "media": None, "cut": "none"} for clip in work["clips"]]
        self._desk.cut(path, clips, folder, beat)
        made = [{name: clip.get(name) for name in CUT_COLUMNS} for clip in clips]
        record = {"key": row["key"], "video_id": row["video_id"], "run": self._settings.run, "clips": made}
        cuts(self._desk.storage).commit(row["key"], record)
