"""A captions table and its versions beside the tables of helpers_dataset, as `rushes caption` publishes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captioning.records import Version, schema
from orchestration.storage import Storage

PLACES = ("harbour", "kitchen", "forest path", "market hall", "rehearsal room", "night street", "quarry", "river bank")
WHO = ("a woman in a red coat", "two cyclists", "an old fisherman", "a brown rabbit", "a street musician", "a goat")
DOES = ("walks past", "looks towards", "turns away from", "circles", "points at", "waits beside", "runs across")
WHAT = ("a parked van", "wooden crates", "the open door", "a flock of pigeons", "stacked chairs", "wet cobblestones")
LIGHT = ("low evening light", "flat grey daylight", "neon signs", "one bare bulb", "hard noon sun")
CAMERA = (
    "The camera pans left slowly.",
    "The camera stays still.",
    "The camera follows from behind.",
    "A slow zoom in.",
)
FLAGS = (
    ("repetition", "4-gram 'past a parked van' 7 times"),
    ("camera_contradiction", "says the camera pans left; measured static (0.93)"),
    ("screen_text", "repeats 9 of 12 words of on-screen text"),
)


def write_version(storage: Storage, name: str, number: int, **settings: Any) -> Version:
    """Its settings, without a caption."""
    captions = {"kind": "local", "model": f"models/{name}", **settings.pop("captions", {})}
    fields: dict[str, Any] = {
        "model": f"{name}-8B@3f2a91",
        "recipe": "single",
        "prompts": {"structured-1": "Describe the clip as JSON.\n{{ fields }}"},
        "settings": {"captions": captions, "frames": {"policy": "fps", "fps": 2.0}, "sampling": {"seed": 0}},
        **settings,
    }
    version = Version(hashlib.sha256(f"{name}{number}".encode()).hexdigest()[:16], name, number, **fields)
    version.write(storage)
    return version


def said(rng: np.random.Generator) -> tuple[str, str]:
    """A short and a dense caption."""
    who, does, what, place, light = (str(rng.choice(of)) for of in (WHO, DOES, WHAT, PLACES, LIGHT))
    short = f"{who.capitalize()} {does} {what}."
    more = [f"Then {rng.choice(WHO)} {rng.choice(DOES)} {rng.choice(WHAT)}." for _ in range(int(rng.integers(0, 9)))]
    dense = f"{short[:-1]} in a {place}, under {light}. {' '.join(more)} {rng.choice(CAMERA)}"
    return short, " ".join(dense.split())


def write_captions(
    root: Path,
    versions: Sequence[Version],
    clip_ids: Sequence[str],
    *,
    fail: Callable[[int, int], bool] = lambda version, clip: (clip + version) % 23 == 7,
    flag: Callable[[int, int], bool] = lambda version, clip: (clip * 7 + version) % 11 == 3,
    hostile: str = "",
    rows_per_file: int = 250_000,
    changed: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """`captions/*.parquet` with a row a version and clip, except that the second version lacks every fifth clip; the
    rows. The first version that has an unflagged caption trains. hostile: in every text of the first clip."""
    storage, rows = Storage(root), []
    for order, version in enumerate(versions):
        rng = np.random.default_rng(order)
        kind = version.settings.get("captions", {}).get("kind")
        for at, clip_id in enumerate(clip_ids):
            if order == 1 and at % 5 == 4:
                continue
            rows.append(_row(version, order, at, clip_id, rng, fail(order, at), flag(order, at), kind == "attributes"))
            if hostile and at == 0:
                texts = ("version", "short", "dense", "model", "recipe", "reason", "text", "structured")
                rows[-1] |= dict.fromkeys(texts, hostile)
                rows[-1] |= {"status": "ok", "flags": [hostile], "flag_reasons": [hostile], "others": [hostile]}
            rows[-1] |= changed or {}
    trained: set[str] = set()
    for row in rows:
        row["train"] = row["status"] == "ok" and not row["flags"] and row["clip_id"] not in trained
        trained |= {row["clip_id"]} if row["train"] else set()
    for number, start in enumerate(range(0, max(1, len(rows)), rows_per_file)):
        some = pa.Table.from_pylist(rows[start : start + rows_per_file], schema())
        with storage.open_write(f"captions/{number:05d}.parquet") as file:
            pq.write_table(some, file, row_group_size=20_000, compression="zstd")
    return rows


def _row(
    version: Version,
    order: int,
    at: int,
    clip_id: str,
    rng: np.random.Generator,
    failed: bool,
    flagged: bool,
    free: bool,
) -> dict[str, Any]:
    short, dense = said(rng)
    tokens = round(1.35 * len(dense.split())) + (120 if at % 17 == 0 else 0)
    row = dict.fromkeys(schema().names) | {
        "clip_id": clip_id,
        "fingerprint": version.fingerprint,
        "version": version.name,
        "model": version.model,
        "recipe": version.recipe,
        "status": "failed" if failed else "ok",
        "others": [],
        "flags": [],
        "flag_reasons": [],
        "train": False,
        "finish": "stop",
        "prompt_tokens": None if free else 1200 + int(rng.integers(0, 300)),
        "output_tokens": None if free else tokens + 40,
        "tries": 1,
        "seconds": 0.02 if free else 0.4 + 0.2 * float(rng.random()),
        "retry": False,
        "checked": "1-x",
    }
    if failed:
        return row | {"reason": "the frames cannot be read: broken packet" if at % 2 else f"HTTP 500: clip {at}"}
    row |= {"short": short, "dense": dense, "tokens": min(tokens, 226), "whole_tokens": tokens, "text": f"raw: {dense}"}
    if not free:
        row["structured"] = json.dumps({"summary": short, "subjects": [{"name": short.split(" ")[1]}]})
    if flagged:
        name, why = FLAGS[(at + order) % len(FLAGS)]
        row |= {"flags": [name], "flag_reasons": [why]}
    return row


def kept_clips(root: Path) -> list[str]:
    rows = pq.read_table(root / "selection.parquet").to_pylist()
    return [row["clip_id"] for row in rows if row["kept"]]
