"""Time and memory of `rushes select` on synthetic clips tables. One command:

    python benchmarks/selection.py [--rows 1000000 10000000] [--folder DIR]

Each line of the table is one child process; time starts when its imports are done. The baseline does the least that is
of any use: it loads the needed columns of all files at once and filters them with pyarrow, to a table of clip_id and
kept, without reasons, funnel, overrides or atomic replacement.

Near-duplicates are decided of vectors of 32 numbers, half of them near another one: `first` finds the pairs
(benchmarks/duplicates_scale.py says what that costs at the size of real vectors), `threshold moved` reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PER_FILE = 500_000
FIRST, MOVED = "with near-duplicates, first", "with near-duplicates, threshold moved"
RULES = {
    "rules": [
        {"duration_s": {"min": 2, "max": 60}},
        {"motion": {"min": 0.5, "max": 20}},
        {"camera_motion": {"not_in": ["shake"]}},
        {"freeze": {"max": 0.5}},
        {"any": [{"sharpness": {"min": 5}}, {"motion": {"min": 3}}]},
        {"text_area": {"max": 0.05}},
        {"overlay_text": {"max": 0.02}},
        {"nsfw": {"max": 0.2, "missing": "keep"}},
        {"aesthetic": {"best": "80%"}},
    ],
    "overrides": "overrides.csv",
}
SCORES = (
    *("motion", "freeze", "sharpness", "exposure", "blockiness", "brisque", "text_area", "overlay_text", "aesthetic"),
    *("nsfw", "faces", "label_editing", "label_lecture", "label_text", "label_screenshot"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of `rushes select`.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--folder", help="where the tables go (1.7 GB for 10M clips); a temporary folder by default")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "DATASET", "ROWS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, dataset, rows = arguments.child
        near = {FIRST: {"threshold": 0.9}, MOVED: {"threshold": 0.92}}
        if what in near:
            return select(dataset, int(rows), {"near_duplicates": near[what]})
        return {"make": make, "rushes select": select, "baseline": baseline}[what](dataset, int(rows))
    print("| clips | files | clips MB | | wall s | CPU s | peak RSS MB | kept |\n|---|---|---|---|---|---|---|---|")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as dataset:
            made = child("make", dataset, rows)
            for what in ("rushes select", "baseline", FIRST, MOVED):
                found = child(what, dataset, rows)
                measured = f"{found['wall']:.1f} | {found['cpu']:.1f} | {found['rss'] / 2**20:,.0f} | {found['kept']:,}"
                print(f"| {rows:,} | {made['files']} | {made['bytes'] / 1e6:,.0f} | {what} | {measured} |", flush=True)


def child(what: str, dataset: str, rows: int) -> dict[str, float]:
    """A process of its own, because the peak of memory is one number a process."""
    command = [sys.executable, __file__, "--child", what, dataset, str(rows)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def report(start: tuple[float, float], kept: int) -> None:
    wall, cpu = (now - then for now, then in zip((time.perf_counter(), time.process_time()), start, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"wall": wall, "cpu": cpu, "rss": peak, "kept": kept}))


def select(dataset: str, rows: int, more: dict | None = None) -> None:
    import pyarrow as pa

    from curation.rules.selection import Selection
    from curation.schema import CLIPS
    from curation.select import select_dataset
    from curation.video import Column
    from orchestration.storage import Storage

    known = (
        *CLIPS,
        *(Column(name, pa.float64(), "", "") for name in SCORES),
        *(Column(name, pa.string(), "", "") for name in ("camera_motion", "embedding")),
    )
    selection = Selection.model_validate(RULES | (more or {}))
    start = time.perf_counter(), time.process_time()
    funnel = select_dataset(Storage(dataset), selection, known)
    report(start, funnel.kept)
    assert funnel.clips == rows


def baseline(dataset: str, rows: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    start = time.perf_counter(), time.process_time()
    names = ["clip_id", "decode_errors", "duration_s", "motion", "camera_motion", "freeze", "sharpness", "text_area"]
    table = pq.read_table(f"{dataset}/clips", columns=[*names, "overlay_text", "nsfw", "aesthetic"])
    column = {name: pc.field(name) for name in table.column_names}
    passes = (
        (column["decode_errors"] == 0)
        & (column["duration_s"] >= 2)
        & (column["duration_s"] <= 60)
        & (column["motion"] >= 0.5)
        & (column["motion"] <= 20)
        & ~column["camera_motion"].isin(["shake"])
        & column["camera_motion"].is_valid()
        & (column["freeze"] <= 0.5)
        & ((column["sharpness"] >= 5) | (column["motion"] >= 3))
        & (column["text_area"] <= 0.05)
        & (column["overlay_text"] <= 0.02)
        & (~(column["nsfw"] > 0.2) | column["nsfw"].is_null())
    )
    passing = table.filter(passes)
    aesthetic = np.sort(passing["aesthetic"].drop_null().to_numpy())
    limit = aesthetic[len(aesthetic) - -(-len(aesthetic) * 4 // 5)]
    kept = passing.filter(column["aesthetic"] >= limit)["clip_id"]
    decided = pa.table({"clip_id": table["clip_id"], "kept": pc.is_in(table["clip_id"], value_set=kept)})
    pq.write_table(decided, f"{dataset}/baseline.parquet", compression="zstd")
    report(start, len(kept))


def make(dataset: str, rows: int) -> None:
    """Clips of all documented columns and 16 scores, 5 % of each score missing; 100 overrides."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from curation.schema import CLIPS, arrow_schema

    os.makedirs(f"{dataset}/clips")
    fields = [
        *(pa.field(name, pa.string()) for name in ("camera_motion", "embedding")),
        *(pa.field(name, pa.float64()) for name in SCORES),
    ]
    schema = pa.schema([*arrow_schema(CLIPS), *fields])
    files = []
    for number, begin in enumerate(range(0, rows, PER_FILE)):
        path = f"{dataset}/clips/{number:05d}.parquet"
        table = clips(np.random.default_rng(number), begin, min(PER_FILE, rows - begin), schema)
        pq.write_table(table, path, compression="zstd")
        files.append(path)
        embed(np.random.default_rng(rows + number), table["clip_id"].combine_chunks(), f"{dataset}/embeddings", number)
    some = pq.read_table(files[-1], columns=["clip_id"])["clip_id"].slice(0, 100).to_pylist()
    lines = [f"{clip},{('keep', 'drop')[i % 2]},seen by a person" for i, clip in enumerate(some)]
    Path(dataset, "overrides.csv").write_text("\n".join(["clip_id,decision,note", *lines]))
    print(json.dumps({"files": len(files), "bytes": sum(map(os.path.getsize, files))}))


def embed(random, clip_ids, folder: str, number: int) -> None:
    """A pack of one row with the vectors of these clips: every second one is like the one before."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from curation.dataset.records import embeddings
    from orchestration.storage import Storage

    os.makedirs(folder, exist_ok=True)
    vectors = np.repeat(random.normal(size=(len(clip_ids) // 2, 32)), 2, axis=0)
    vectors = (vectors + 0.15 * random.normal(size=vectors.shape)).astype(np.float16)
    offsets = pa.array(np.arange(0, vectors.size + 1, 32), pa.int32())
    pairs = pa.StructArray.from_arrays(
        [clip_ids, pa.ListArray.from_arrays(offsets, vectors.ravel())], ["clip_id", "vector"]
    )
    row = pa.ListArray.from_arrays(pa.array([0, len(clip_ids)], pa.int32()), pairs)
    names = [pa.array([text]) for text in (f"{number:032x}", f"{number:032x}", "embedding:1:32")]
    pq.write_table(pa.table([*names, row], embeddings(Storage(folder)).schema), f"{folder}/pack-{number}.parquet")


def clips(random, begin: int, count: int, schema):
    """A table of `count` clips, 20 of each video."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    video = np.arange(begin, begin + count) // 20
    videos = np.unique(video)
    names = pa.array([f"{id_ * 0x9E3779B97F4A7C15 % 2**64:016x}" for id_ in videos.tolist()]).take(
        pa.array(video - videos[0])
    )
    duration = random.gamma(2.0, 3.0, count).round(3)
    start = random.integers(0, 9_999_999, count)
    text = pc.cast(pa.array(start), pa.string())
    ids = pc.binary_join_element_wise(names, pc.utf8_lpad(text, 7, "0"), pc.utf8_lpad(text, 7, "1"), "-")
    # Scores as scorers leave them: a few thousand distinct values for some, all different for others.
    values = {name: random.gamma(2.0, 0.01, count) for name in SCORES} | {
        "motion": random.gamma(1.5, 2.0, count),
        "freeze": random.beta(0.5, 5.0, count).round(3),
        "sharpness": random.gamma(2.0, 5.0, count),
        "aesthetic": random.normal(4.9, 0.6, count).round(4),
        "faces": random.poisson(0.7, count).astype(float),
        "nsfw": random.beta(0.3, 8.0, count),
    }
    columns = {name: pa.array(value, mask=random.random(count) < 0.05) for name, value in values.items()} | {
        "clip_id": ids,
        "video_id": pc.binary_join_element_wise(names, names, names, names, ""),
        "start_frame": start,
        "end_frame": start + 100,
        "start_s": start / 25,
        "end_s": start / 25 + duration,
        "duration_s": duration,
        "start_pts": start * 3600,
        "end_pts": start * 3600 + 360_000,
        "decode_errors": random.integers(0, 50, count) // 49,
        "first_hash": random.integers(0, 2**63, count).astype(np.uint64),
        "last_hash": random.integers(0, 2**63, count).astype(np.uint64),
        "frames_hash": pc.binary_join_element_wise(ids, ids, ""),
        "media": pc.binary_join_element_wise("media", ids, ".mp4", ""),
        "cut": np.full(count, "copy"),
        "cut_reason": pa.nulls(count, pa.string()),
        "camera_motion": random.choice(["static", "pan", "tilt", "zoom", "shake"], count),
        "embedding": np.full(count, "thirty-two"),
    }
    absent = [pa.nulls(count, field.type) if field.name not in columns else columns[field.name] for field in schema]
    return pa.table(absent, schema=schema)


if __name__ == "__main__":
    main()
