"""Synthetic datasets with the shape of real ones: videos, clips with scores and thumbnails, a selection, a funnel."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.duplicates.pairs import PAIRS
from curation.duplicates.pairs import SCHEMA as PAIRS_SCHEMA
from curation.rules.funnel import Funnel, Stage
from curation.schema import CLIPS, VIDEOS, arrow_schema, clip_id
from curation.video import BOXES, Column
from orchestration.storage import Storage

SCORES: tuple[Column, ...] = (
    Column("motion", pa.float32(), "% of the width / s", "mean optical flow of the scene, without the camera's"),
    Column("camera_motion", pa.string(), "", "what the camera does: static, pan, tilt, zoom, shake"),
    Column("camera_confidence", pa.float32(), "", "share of the flow that the camera explains"),
    Column("freeze", pa.float32(), "", "share of the frames that repeat the one before"),
    Column("sharpness", pa.float32(), "", "variance of the Laplacian, on the sharpest tile of the frame"),
    Column("exposure", pa.float32(), "", "mean luma, 0 black to 1 white"),
    Column("exposure_clipped", pa.float32(), "", "share of the pixels at either end"),
    Column("blockiness", pa.float32(), "", "steps at the 8×8 grid over steps elsewhere"),
    Column("crop_x", pa.int32(), "px", "left edge of the picture inside black bars"),
    Column("crop_w", pa.int32(), "px", "width of the picture inside black bars"),
)
LABELS = ("editing", "disconnected_motion", "low_quality", "lecture", "text_dominated", "screenshot")
SEEN: tuple[Column, ...] = (  # of scorers that look at pictures
    Column("text_area", pa.float32(), "of the picture", "covered by text"),
    Column("overlay_text", pa.float32(), "of the picture", "covered by text that stays in place"),
    Column("text_boxes", BOXES, "", "text of the thumbnail"),
    Column("faces", pa.float32(), "per picture", "faces, mean of the pictures"),
    Column("face_area", pa.float32(), "of the picture", "covered by faces"),
    Column("persons", pa.float32(), "per picture", "persons, mean of the pictures"),
    Column("talking_head", pa.float32(), "0-1", "one large face in the middle", temporal=True),
    Column("face_boxes", BOXES, "", "faces and persons of the thumbnail"),
    *(Column(f"label_{name}", pa.float32(), "", f"how well `{name}` fits") for name in LABELS),
)
NEAR_DUPLICATE = "near-duplicate (>= 0.85)"
THRESHOLDS: dict[str, list[tuple[float | None, float | None]]] = {
    "motion": [(0.8, None)],
    "freeze": [(None, 0.3)],
    "sharpness": [(60.0, None)],
    "exposure": [(0.12, 0.88)],
}
STAGES: list[dict[str, Any]] = [
    {"name": "fetch", "seconds": 41.2, "items": 412, "unit": "videos", "bytes": 18_400_000_000},
    {"name": "decode and score", "seconds": 1893.0, "items": 402_331, "unit": "frames", "bytes": 18_400_000_000},
    {"name": "cut", "seconds": 122.5, "items": 2871, "unit": "clips", "bytes": 4_100_000_000},
    {"name": "select", "seconds": 0.8, "items": 4113, "unit": "clips", "bytes": None},
]


class Footage:
    """Pictures of real videos, for thumbnails; without files they are made of noise."""

    def __init__(self, files: Sequence[Path]):
        self.files = list(files)
        self.facts: list[dict[str, Any]] = []
        self.jpegs = [self._read(file) for file in self.files] or [[self._noise(seed) for seed in range(8)]]

    def _read(self, file: Path) -> list[bytes]:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            jpegs, count = [], 0
            for count, frame in enumerate(container.decode(video=0), start=1):
                if count % 24 == 12:
                    jpegs.append(_jpeg(frame.to_ndarray(format="bgr24")))
            fps = float(stream.average_rate or 25)
            self.facts.append(
                {"width": stream.width, "height": stream.height, "fps": fps, "codec": "h264", "frames": count}
            )
        return jpegs

    @staticmethod
    def _noise(seed: int) -> bytes:
        small = np.random.default_rng(seed).integers(40, 220, (5, 9, 3), np.uint8)
        return _jpeg(cv2.resize(small, (224, 126), interpolation=cv2.INTER_CUBIC))


def _jpeg(picture: np.ndarray) -> bytes:
    height = round(224 * picture.shape[0] / picture.shape[1])
    small = cv2.resize(picture, (224, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()


def write_dataset(
    root: Path,
    *,
    videos: int = 40,
    files: Sequence[Path] = (),
    thumbnails: bool = True,
    failures: Sequence[tuple[str, str]] = (),
    duplicates: int = 2,
    hostile: str = "",
    select: bool = True,
    seen: bool = False,
    seed: int = 7,
) -> Funnel | None:
    """Write tables below `root` and return the funnel. The videos cycle through the footage in `files`.

    With `seen` there are the columns SEEN, near-duplicates, and three still pictures.
    """
    rng, footage, storage = np.random.default_rng(seed), Footage(files), Storage(root)
    video_rows, clip_rows = [], []
    for number in range(videos):
        video_id = hashlib.sha256(f"{seed}-{number}".encode()).hexdigest()
        row = _video(number, video_id, footage, rng)
        if hostile and number == 0:
            row["uri"] = hostile
        video_rows.append(row)
        clip_rows += _clips(row, footage.jpegs[number % len(footage.jpegs)], rng, thumbnails)
    if seen:
        _see(video_rows, clip_rows, footage.jpegs[0], hostile)
    if hostile and clip_rows:
        clip_rows[0]["clip_id"] = hostile
    ok = list(video_rows)
    video_rows += [{"uri": uri, "status": "failed", "reason": reason} for uri, reason in failures]
    for number in range(min(duplicates, len(ok))):
        video_rows.append(
            ok[number] | {"uri": f"{ok[number]['uri']}.copy", "status": "duplicate", "duplicate_of": ok[number]["uri"]}
        )
    scores = (*SCORES, *SEEN) if seen else SCORES
    clips = pa.schema([*arrow_schema(CLIPS), *arrow_schema(scores), pa.field("thumbnail", pa.binary())])
    storage.write_table("videos/part-0.parquet", _table(video_rows, arrow_schema(VIDEOS)))
    storage.write_table("clips/part-0.parquet", _table(clip_rows, clips))
    return _select(storage, clip_rows, hostile, seen) if select else None


def _see(videos: list[dict[str, Any]], clips: list[dict[str, Any]], jpegs: list[bytes], hostile: str) -> None:
    """Adds three pictures, and what models found in the clips: in two of three, the rest were not looked at."""
    for number, kind in enumerate(("jpeg", "png", "webp")):
        video = {
            "video_id": hashlib.sha256(kind.encode()).hexdigest(), "uri": f"s3://footage/stills/{number}.{kind}",
            "status": "ok", "bytes": 90_000, "container": f"{kind}_pipe", "codec": kind, "width": 1600, "height": 900,
            "frames_decoded": 1, "duration_s": 0.0,
        }  # fmt: skip
        name = clip_id(video["video_id"], 0, 1)
        clip = {
            "clip_id": name, "video_id": video["video_id"], "image": True, "start_frame": 0, "end_frame": 1,
            "start_s": 0.0, "end_s": 0.0, "duration_s": 0.0, "media": f"media/{name}.{kind}", "cut": "copy",
            "sharpness": 90.0, "exposure": 0.5, "thumbnail": jpegs[number % len(jpegs)],
        }  # fmt: skip
        videos.append(video)
        clips.append(clip)
    rng = np.random.default_rng(11)
    for order, clip in enumerate(clips):
        clip.setdefault("image", False)
        if order % 3 == 2:
            continue
        people, lines = int(rng.poisson(0.7)), int(rng.poisson(0.8))
        faces = [_box(rng, "face", 0.06, 0.25, 16 / 9) for _ in range(people)]
        text = [
            _box(rng, str(rng.choice(["scene", "overlay", "subtitle", "watermark"])), 0.25, 0.07) for _ in range(lines)
        ]
        if hostile and order < 2:
            odd = {"x": float("nan"), "y": 0.1, "w": 0.2, "h": 0.2, "kind": "scene"}
            far = {"x": -1e30, "y": -5.0, "w": 3e30, "h": 90.0, "kind": hostile}
            text = [odd, far, *text, *[_box(rng, "scene", 0.02, 0.02) for _ in range(100)]]
        clip |= {
            "faces": float(people),
            "face_area": sum(box["w"] * box["h"] for box in faces),
            "persons": float(people),
            "talking_head": None if clip["image"] else min(1.0, 2 * faces[0]["h"]) if people == 1 else 0.0,
            "face_boxes": [*faces, *(_body(box) for box in faces)],
            "text_area": sum(box["w"] * box["h"] for box in text),
            "overlay_text": sum(box["w"] * box["h"] for box in text if box["kind"] != "scene"),
            "text_boxes": text,
            **{f"label_{name}": float(rng.beta(0.5, 5)) for name in LABELS},
        }


def _box(rng: np.random.Generator, kind: str, width: float, height: float, aspect: float = 1.0) -> dict[str, Any]:
    scale = float(rng.uniform(0.5, 1.6))
    w, h = width * scale, height * scale if aspect == 1.0 else width * scale * aspect
    place = {"subtitle": (0.5 - w / 2, 0.84), "watermark": (0.95 - w, 0.05)}
    x, y = place.get(kind, (float(rng.uniform(0, 1 - w)), float(rng.uniform(0, 1 - h))))
    return {"x": x, "y": y, "w": w, "h": h, "kind": kind}


def _body(face: dict[str, Any]) -> dict[str, Any]:
    top = face["y"] - 0.2 * face["h"]
    return {"x": face["x"] - face["w"], "y": top, "w": 3 * face["w"], "h": 1.0 - top, "kind": "person"}


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def _video(number: int, video_id: str, footage: Footage, rng: np.random.Generator) -> dict[str, Any]:
    names = ("street", "harbour", "kitchen", "interview", "drone", "market", "night-drive", "rehearsal")
    row: dict[str, Any] = {
        "video_id": video_id,
        "uri": f"s3://footage/2026/{names[number % 8]}/{names[number * 5 % 8]}_{number:04d}.mp4",
        "status": "ok",
        "bytes": int(rng.integers(2_000_000, 900_000_000)),
        "container": "mp4",
        "codec": str(rng.choice(["h264", "hevc", "vp9"], p=[0.6, 0.3, 0.1])),
        "pix_fmt": "yuv420p",
        "width": 1920,
        "height": 1080,
        "rotation": 0,
        "pixel_aspect": 1.0,
        "interlaced": False,
        "hdr": "",
        "fps": float(rng.choice([23.98, 25, 29.97, 50])),
        "decode_errors": int(rng.random() < 0.05),
    }
    if footage.files:
        row |= {"uri": str(footage.files[number % len(footage.files)]), **footage.facts[number % len(footage.files)]}
        frames, rate = row["frames"], row["fps"]
    else:
        frames, rate = int(rng.gamma(2, 2500)) + 100, row["fps"]
        if number % 9 == 8:
            row |= {"width": 1080, "height": 1920}
    return row | {"frames": frames, "frames_decoded": frames, "duration_s": frames / rate}


def _clips(
    video: dict[str, Any], jpegs: list[bytes], rng: np.random.Generator, thumbnails: bool
) -> list[dict[str, Any]]:
    rows, start, rate, count = [], 0, video["fps"], video["frames"]
    while start < count - 10:
        end = min(count, start + max(10, int(rng.gamma(3, 1.2) * rate)))
        motion = float(rng.gamma(0.6, 0.5) if rng.random() < 0.25 else rng.gamma(2.2, 2.4))
        rows.append(
            {
                "clip_id": clip_id(video["video_id"], start, end),
                "video_id": video["video_id"],
                "start_frame": start,
                "end_frame": end,
                "start_s": start / rate,
                "end_s": end / rate,
                "duration_s": (end - start) / rate,
                "decode_errors": 0,
                "media": None,
                "cut": "none",
                "motion": None if rng.random() < 0.02 else motion,
                "camera_motion": str(rng.choice(["static", "pan", "zoom", "shake"], p=[0.5, 0.3, 0.12, 0.08])),
                "camera_confidence": float(rng.beta(6, 2)),
                "freeze": float(rng.beta(0.3, 4)),
                "sharpness": float(rng.lognormal(5.2, 0.9)),
                "exposure": float(rng.beta(3.2, 3.8)),
                "exposure_clipped": float(rng.beta(0.6, 12)),
                "blockiness": float(rng.normal(1.06, 0.08)),
                "crop_x": 0,
                "crop_w": video["width"],
                "thumbnail": jpegs[len(rows) % len(jpegs)] if thumbnails else None,
            }
        )
        start = end + (int(rng.integers(0, 12)) if rng.random() < 0.3 else 0)
    return rows


def _select(storage: Storage, clips: list[dict[str, Any]], hostile: str, seen: bool) -> Funnel:
    rules = [
        (f"{name} {'<' if side == 'min' else '>'} {value:g}", name, side, value)
        for name, pairs in THRESHOLDS.items()
        for pair in pairs
        for side, value in zip(("min", "max"), pair, strict=True)
        if value is not None
    ]
    rows, failing = [], {reason: 0 for reason, *_ in rules}
    for order, clip in enumerate(clips):
        reasons = []
        for reason, name, side, value in rules:
            score = clip.get(name)
            if score is None and clip.get("image"):
                continue
            if score is None or (score < value if side == "min" else score > value):
                reasons.append(reason)
                failing[reason] += 1
        if hostile and order == 1:
            reasons = [f"dropped by hand: {hostile}"]
        rows.append(
            {
                "clip_id": clip["clip_id"],
                "kept": not reasons,
                "drop_reason": reasons[0] if reasons else None,
                "drop_reasons": reasons,
            }
        )
    fields: list[Any] = [
        ("clip_id", pa.string()),
        ("kept", pa.bool_()),
        ("drop_reason", pa.string()),
        ("drop_reasons", pa.list_(pa.string())),
    ]
    if seen:
        fields.append(("duplicate_of", pa.string()))
        failing[NEAR_DUPLICATE] = _drop_near_duplicates(storage, rows)
    schema = pa.schema(fields)
    with storage.open_write("selection.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    seconds = {row["clip_id"]: clip["duration_s"] for row, clip in zip(rows, clips, strict=True)}
    first: dict[str, list[str]] = {}
    for row in rows:
        first.setdefault(row["drop_reason"] or "", []).append(row["clip_id"])
    kept = first.pop("", [])
    stages = [
        Stage(
            reason=reason,
            kind="hand"
            if reason.startswith("dropped by hand")
            else "duplicate"
            if reason == NEAR_DUPLICATE
            else "rule",
            dropped=len(first.get(reason, [])),
            failing=failing.get(reason, 1),
            dropped_s=sum(seconds[key] for key in first.get(reason, [])),
        )
        for reason in dict.fromkeys([*failing, *first])
    ]
    return Funnel(
        fingerprint="0" * 16,
        damage="keep_clean",
        clips=len(rows),
        kept=len(kept),
        kept_by_hand=0,
        unscored=0,
        seconds=sum(seconds.values()),
        kept_seconds=sum(seconds[key] for key in kept),
        stages=tuple(stages),
    )


def _drop_near_duplicates(storage: Storage, rows: list[dict[str, Any]]) -> int:
    """Groups of 1 to 12 clips go for the kept one before them; every fifth similarity is not stored."""
    kept = [row for row in rows if row["kept"]]
    pairs, start, size = [], 0, min(12, len(kept) // 4)
    while size and start + size < len(kept) // 2:
        for order, row in enumerate(kept[start + 1 : start + 1 + size]):
            row |= {"kept": False, "drop_reason": NEAR_DUPLICATE, "drop_reasons": [NEAR_DUPLICATE]}
            row["duplicate_of"] = kept[start]["clip_id"]
            if order % 5 < 4:
                a, b = sorted((row["clip_id"], kept[start]["clip_id"]))
                pairs.append({"clip_a": a, "clip_b": b, "similarity": 0.99 - 0.01 * order, "vector": None})
        start, size = start + size + 1, size - 1
    storage.write_table(PAIRS, pa.Table.from_pylist(pairs, schema=PAIRS_SCHEMA))
    return sum("duplicate_of" in row for row in rows)
