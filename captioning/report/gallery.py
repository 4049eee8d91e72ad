"""The clips that the page shows one by one, each with what every version says of it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from captioning.english import STOP
from captioning.report.survey import Survey
from curation.report.data import Place, Tables, hashes
from curation.report.previews import small_jpeg
from curation.report.videos import fetch_videos
from curation.rules.decide import IMAGE
from orchestration.report import data_uri, formats

TEXT = 2400  # characters of a caption, or of a raw answer
LISTS = ("flags", "flag_reasons", "others")
Pieces = list[tuple[str, bool]]  # of a text; the second says whether it is marked


@dataclass(frozen=True)
class Chosen:
    """clip_ids of each part of the gallery; none stands in two of them."""

    flagged: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    spread: tuple[str, ...] = ()

    @property
    def clip_ids(self) -> list[str]:
        return [*self.flagged, *self.failed, *self.spread]


def choose(survey: Survey, size: int) -> Chosen:
    """Up to a third are flagged clips, each flag in turn, up to a tenth failed ones, the rest of as many videos as
    there are. Always the same ones."""
    seen: set[str] = set()
    pools = [_apart(group.items, size) for _, group in sorted(survey.flagged.items())]
    in_turn = [pool[at] for at in range(size) for pool in pools if at < len(pool)]
    flagged = _new(in_turn, max(1, size // 3), seen)
    failed = _new(_apart(survey.failed.items, size), max(1, size // 10), seen)
    pool = [item for item in survey.captioned.items if item[2] not in seen]
    rest = _new(_apart(pool, len(pool)), size - len(flagged) - len(failed), seen)
    return Chosen(tuple(flagged), tuple(failed), tuple(rest))


def _apart(items: Iterable[tuple[float, int, str, Place]], size: int) -> list[str]:
    """clip_ids by their hashes, those of videos that had none yet first; one that has several versions once."""
    places = {clip_id: place for *_, clip_id, place in items}
    seen: set[str] = set()
    ranked = []
    for order, clip_id in enumerate(places):
        ranked.append((clip_id[:16] in seen, order, clip_id))  # a clip_id begins with its video's
        seen.add(clip_id[:16])
    return [clip_id for *_, clip_id in sorted(ranked)[:size]]


def _new(clip_ids: Iterable[str], size: int, seen: set[str]) -> list[str]:
    """The first `size` that are not among `seen`, which they are added to."""
    found = [name for name in dict.fromkeys(clip_ids) if name not in seen][: max(0, size)]
    seen.update(found)
    return found


def rows_of(tables: Tables, clip_ids: Sequence[str], lists: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Whole rows of these clips. Their places are found by the ids alone; then single row groups are read."""
    if "clip_id" not in tables.schema.names or not clip_ids:
        return []
    wanted = np.unique(hashes(pa.array(clip_ids, pa.string())))
    places = [
        Place(part.file, part.row + int(at))
        for part in tables.scan(["clip_id"])
        for at in np.flatnonzero(np.isin(hashes(part.strings("clip_id")), wanted))
    ]
    return list(tables.fetch(places, lists).values())


@dataclass
class Gallery:
    """Rows of the clips, and the captions of each by fingerprint."""

    dataset: str
    labels: Mapping[str, str]  # of versions, in the order in which they are shown
    clips: Mapping[str, dict[str, Any]]
    captions: Mapping[str, Mapping[str, dict[str, Any]]]
    differences: bool = False  # whether words that only some versions have are marked
    no_preview: Mapping[str, str] = field(default_factory=dict)

    def cards(self, clip_ids: Iterable[str]) -> list[dict[str, Any]]:
        return [self._card(clip_id) for clip_id in clip_ids]

    def _card(self, clip_id: str) -> dict[str, Any]:
        clip, own = self.clips.get(clip_id, {}), self.captions.get(clip_id, {})
        dense = self._marked([row.get("dense") for row in own.values()])
        short = self._marked([row.get("short") for row in own.values()])
        places = {name: at for at, name in enumerate(own)}
        said = [
            {"label": label, **self._said(own[name], short[places[name]], dense[places[name]])}
            if name in own
            else {"label": label, "state": "absent"}
            for name, label in self.labels.items()
        ]
        span = f"{formats.clock(clip.get('start_s'))} – {formats.clock(clip.get('end_s'))}"
        span = "picture" if clip.get(IMAGE) else span if clip else ""
        texts = [str(row.get(name) or "") for row in own.values() for name in ("short", "dense", "reason")]
        flags = [flag for row in own.values() for flag in row.get("flags") or []]
        return {
            "key": clip_id,
            "span": span,
            "image": clip.get("jpeg"),
            "uri": clip.get("uri") or "",
            "said": said,
            "label": formats.short(f"Clip {clip_id}, {span}. Details", 400),
            "find": formats.short(" ".join(dict.fromkeys([clip_id, clip.get("uri") or "", *flags, *texts])), 6000),
        }

    def _said(self, row: Mapping[str, Any], short: Pieces, dense: Pieces) -> dict[str, Any]:
        return {
            "state": "ok" if row.get("status") == "ok" else "failed",
            "reason": row.get("reason") or "no reason recorded",
            "short": short,
            "dense": dense,
            "tokens": row.get("tokens"),
            "train": bool(row.get("train")),
            "flags": list(zip(row.get("flags") or [], row.get("flag_reasons") or [], strict=False)),
            "others": (row.get("others") or [])[:8],
            "structured": _pretty(row.get("structured")),
        }

    def _marked(self, texts: Sequence[str | None]) -> list[Pieces]:
        """Each text in pieces; marked are those of words that carry meaning and that some other text lacks."""
        shown = [formats.short(text or "", TEXT) for text in texts]
        if not self.differences or len(shown) < 2:
            return [[(text, False)] for text in shown]
        sets = [set(re.findall(r"\w+", text.lower())) for text in shown]
        common = set.intersection(*sets) | STOP
        return [
            [
                (piece, piece[:1].isalnum() and piece.lower() not in common)
                for piece in re.split(r"(\w+)", text)
                if piece
            ]
            for text in shown
        ]

    def records(self) -> dict[str, Any]:
        """What the dialog shows: where the clip is from, and the models' own words."""
        return {clip_id: self._record(clip_id) for clip_id in {**self.clips, **self.captions}}

    def _record(self, clip_id: str) -> dict[str, Any]:
        clip, own = self.clips.get(clip_id, {}), self.captions.get(clip_id, {})
        facts = [("Source", clip.get("uri") or "")]
        if clip and not clip.get(IMAGE):
            facts.insert(0, ("Span", f"{formats.clock(clip.get('start_s'))} – {formats.clock(clip.get('end_s'))}"))
        for name, row in own.items():
            used = [formats.plural(row[of], what) for of, what in _USED.items() if row.get(of) is not None]
            used += [formats.duration(row["seconds"])] if row.get("seconds") else []
            used += [f"ended by {row['finish']}"] if row.get("finish") else []
            facts.append((self.labels[name], ", ".join(used) or "–"))
        record = {
            "state": "kept",
            "verdict": "Answers as they came",
            "facts": [(formats.short(name, 80), formats.short(value)) for name, value in facts],
            "texts": [
                (formats.short(self.labels[name], 80), formats.short(row.get("text") or row.get("reason") or "–", TEXT))
                for name, row in own.items()
            ],
            "command": f"rushes explain {shlex.quote(self.dataset)} {shlex.quote(clip_id)}",
        }
        reason = self.no_preview.get(clip_id)
        return record | ({"no_preview": formats.short(reason)} if reason else {})


_USED = {"tries": "question", "prompt_tokens": "prompt token", "output_tokens": "output token"}


def _pretty(text: str | None) -> str:
    if not text:
        return ""
    try:
        return formats.short(json.dumps(json.loads(text), indent=1, ensure_ascii=False), TEXT)
    except ValueError:
        return formats.short(text, TEXT)


def gather(
    dataset: str,
    tables: tuple[Tables, Tables, Tables],
    labels: Mapping[str, str],
    clip_ids: Sequence[str],
    differences: bool,
) -> Gallery:
    """tables: captions, clips, videos."""
    captions, clips, videos = tables
    order = {name: place for place, name in enumerate(labels)}
    own: dict[str, dict[str, dict[str, Any]]] = {clip_id: {} for clip_id in clip_ids}
    rows = rows_of(captions, clip_ids, LISTS)
    for row in sorted(rows, key=lambda row: order.get(row.get("fingerprint") or "", -1)):
        if row["clip_id"] in own and (row.get("fingerprint") or "") in order:
            own[row["clip_id"]][row.get("fingerprint") or ""] = row
    found = {row["clip_id"]: row for row in rows_of(clips, clip_ids) if row["clip_id"] in own}
    sources = fetch_videos(videos, _present(row.get("video_id") for row in found.values()))
    joined: dict[str, dict[str, Any]] = {}
    for clip_id in clip_ids:
        if clip_id in found:
            clip = found[clip_id]
            jpeg = small_jpeg(clip.pop("thumbnail", None))
            joined[clip_id] = {**sources.get(clip.get("video_id") or "", {}), **clip}
            joined[clip_id]["jpeg"] = data_uri("image/jpeg", jpeg) if jpeg else None
    return Gallery(dataset, labels, joined, own, differences)


def _present(names: Iterable[str | None]) -> Collection[str]:
    return [name for name in names if name]
