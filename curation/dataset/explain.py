"""`rushes explain`: everything the dataset knows of one clip, and why it was kept or dropped."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

import pyarrow.compute as pc
import pyarrow.dataset as ds
from rich.table import Table
from rich.text import Text

from curation.dataset.vlm_labels import KIND, find
from curation.schema import CLIPS
from curation.scorers import AnyScorer, score_columns
from curation.scorers.labels import LABELS
from orchestration.errors import ConfigError
from orchestration.storage import Storage
from orchestration.tables import published

_COLUMNS = {scorer().kind: scorer().columns() for scorer in get_args(get_args(AnyScorer)[0])}


def explain(storage: Storage, clip_id: str) -> dict[str, Any]:
    """{"clip", "video", "decision", "labels", "captions"}; raises ConfigError for an unknown clip.

    "labels": what a vision-language model said of it, where its labels are those of the clips table.
    """
    clips = _rows(storage, "clips", "clip_id", clip_id, without=("thumbnail",))
    if not clips:
        raise ConfigError(f"there is no clip {clip_id!r} in {storage.uri}; ids are in clips/*.parquet and the report")
    clip = clips[0]
    videos = [row for row in _rows(storage, "videos", "video_id", clip["video_id"]) if row["status"] == "ok"]
    decisions = _rows(storage, "selection.parquet", "clip_id", clip_id)
    return {
        "clip": clip,
        "video": videos[0] if videos else None,
        "decision": decisions[0] if decisions else None,
        "labels": find(storage, clip)
        if any(name.startswith(f"{KIND}:") for name in clip.get("measured") or ())
        else None,
        "captions": _rows(storage, "captions", "clip_id", clip_id),
    }


def render(facts: dict[str, Any], thresholds: dict[str, list[str]]) -> Table:
    """`thresholds`: conditions of the configuration by column, as text."""
    clip, video, decision = facts["clip"], facts["video"] or {}, facts["decision"] or {}
    table = Table(title=Text(clip["clip_id"]), title_justify="left", show_header=True, header_style="bold")
    table.add_column("")
    table.add_column("value", overflow="fold")
    table.add_column("unit")
    table.add_column("rule")
    table.add_row("source", Text(str(video.get("uri"))), "", "")
    span = f"frames {clip['start_frame']} to {clip['end_frame'] - 1}, {clip['start_s']:.3f} to {clip['end_s']:.3f} s"
    table.add_row("span", "a still picture" if clip.get("image") else span, "", "")
    kept = decision.get("kept")
    verdict = "not decided yet" if kept is None else "kept" if kept else f"dropped: {decision['drop_reason']}"
    table.add_row("decision", verdict, "", "")
    for reason in (decision.get("drop_reasons") or [])[1:]:
        table.add_row("", f"also: {reason}", "", "")
    if favoured := decision.get("duplicate_of"):
        table.add_row("kept instead", Text(favoured), "", "")
    made = clip["media"] or "not cut"
    table.add_row("file", f"{made} ({clip['cut']}{', ' + clip['cut_reason'] if clip['cut_reason'] else ''})", "", "")
    table.add_section()
    shown = {"duration_s", "decode_errors"}
    looked = {name.partition(":")[0] for name in clip.get("measured") or ()}
    missing = {column.name: "no value" for kind in looked for column in _COLUMNS.get(kind, ())}
    for column in (*(c for c in CLIPS if c.name in shown), *score_columns()):
        text = _text(clip.get(column.name)) or missing.get(column.name, "not scored")
        table.add_row(column.name, Text(text), column.unit, "; ".join(thresholds.get(column.name, [])))
    if labels := facts["labels"]:
        given = ", ".join(name for name in LABELS if labels[name] is not None) or "no label: it is unsure"
        table.add_row("labels", Text(f"{labels['model']} gave {given}: {labels['evidence']}"), "", "")
    for caption in facts["captions"]:
        flags = ", ".join(caption.get("flags") or ())
        said = caption.get("dense") or caption.get("reason") or ""
        verdict = "trains" if caption.get("train") else flags or caption.get("status")
        plain = "".join(
            letter if letter.isprintable() else " " for letter in said
        )  # a terminal obeys control characters
        table.add_row(f"caption {caption.get('version')}", Text(plain), "", Text(str(verdict)))
    return table


def _text(value: Any) -> str:
    """Empty for None; of boxes, how many of each kind."""
    if isinstance(value, list):
        kinds = Counter(str(box["kind"]) for box in value)
        return ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()) or "none"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _rows(storage: Storage, name: str, key: str, value: str, without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    files = [storage.path(file) for file in published(storage, name)]
    if name.endswith(".parquet"):
        files = [storage.path(name)] if storage.exists(name) else []
    if not files:
        return []
    table = ds.dataset(files, filesystem=storage.fs, format="parquet")
    columns = [column for column in table.schema.names if column not in without]
    return table.to_table(columns=columns, filter=pc.field(key) == value).to_pylist()
