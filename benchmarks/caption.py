"""What `rushes caption` costs over the bare backend loop, and how long its model waits for frames.

    python benchmarks/caption.py [--clips 192] [--repeat 3]

The model: a Qwen2.5-VL of random weights, as large as makes a clip take about a second of one core (its answers mean
nothing, its work is real), one torch thread, so that the other core decodes, as CPUs do beside a GPU. Bare: all frames
lie in memory, `LocalBackend.answer` is called for one batch after the other, nothing else. rushes: the whole command on
the same clips, frames policy, batch size and prompt. Both run in turn, in processes of their own.

Overhead is that of the rows' time (reading ahead, prompts, checks, commits) over the bare loop's, by medians of
the repetitions; what a run pays once (Ray, loading, tables, report) is told apart. Occupancy is the share of the rows'
time in which the model was asked.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# This file's name is not the package's, but its folder must not hide packages either (benchmarks/model.py).
sys.path[0] = str(ROOT)
sys.path.append(str(ROOT / "tests"))

BATCH, TOKENS = 8, 48
FRAMES = {"policy": "uniform", "count": 8, "pixels": 112 * 112}
PROMPT = "Describe this clip in one sentence."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=192)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--bare", nargs=2, metavar=("CONFIG", "CLIPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        bare(Path(arguments.bare[0]), int(arguments.bare[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        config, length = prepare(Path(folder), arguments.clips)
        loops, rows, onces = [], [], []
        for _ in range(arguments.repeat):
            text = run(sys.executable, __file__, "--bare", str(config), str(arguments.clips))
            loop = json.loads(text.splitlines()[-1])
            loops.append(loop)
            row, whole = whole_run(config, Path(folder) / "dataset")
            rows.append(row)
            onces.append(whole - row["row_s"])
            print(f"bare {loop}, rushes' rows {row}, the whole command {whole:.1f} s", flush=True)

    def median(found: list[dict[str, float]], name: str) -> float:
        return statistics.median(one[name] for one in found)

    loop, cpu, row, row_cpu = (
        *(median(loops, name) for name in ("wall", "cpu")),
        *(median(rows, name) for name in ("row_s", "row_cpu_s")),
    )
    waited, count = median(rows, "waited_s"), length
    print(f"\n{count} clips, {FRAMES['count']} frames each, batches of {BATCH}, {TOKENS} tokens out\n")
    print("| | wall, a clip | | CPU of the process with the model, a clip | |\n|---|---|---|---|---|")
    print(f"| bare backend loop, frames in memory | {1000 * loop / count:.0f} ms | | {1000 * cpu / count:.0f} ms | |")
    print(
        f"| rushes caption, its rows | {1000 * row / count:.0f} ms | {row / loop:.3f} × | "
        f"{1000 * row_cpu / count:.0f} ms | {row_cpu / cpu:.3f} × |"
    )
    print(f"| of that waiting for frames | {1000 * waited / count:.1f} ms | {100 * waited / row:.2f} % | | |")
    asked = median(rows, "asked_s")
    print(f"\nOccupancy: the model is at work {100 * asked / row:.1f} % of the rows' time.")
    print(f"Once a run (Ray, loading, tables, report): {statistics.median(onces):.1f} s")


def prepare(folder: Path, clips: int) -> tuple[Path, int]:
    """A curated dataset and a caption configuration; (the configuration, clips that there are)."""
    import yaml

    from curation.samples import fetch

    raw = folder / "raw"
    raw.mkdir()
    for path in fetch(ROOT / ".cache" / "samples"):
        if path.stat().st_size < 20_000_000:
            (raw / path.name).symlink_to(path)
    settings = [f"input={raw}", f"output={folder / 'dataset'}", "select=all", "report.enabled=false"]
    run(rushes(), "curate", str(ROOT / "tests" / "frames.yaml"), *settings, "shots={kind: stride, seconds: 0.6}")
    config = {
        "dataset": str(folder / "dataset"),
        "captions": {"kind": "local", "model": str(model(folder / "model")), "batch_size": BATCH, "device": "cpu"},
        "recipe": {"prompt": str(folder / "one-1.jinja"), "answer": "text"},
        "frames": FRAMES,
        "sampling": {"max_tokens": TOKENS},
        "resample": 0,
        "limit": clips,
        "ray": {"workers": 1},
    }
    (folder / "one-1.jinja").write_text(PROMPT)
    path = folder / "caption.yaml"
    path.write_text(yaml.safe_dump(config))
    return path, len(rows_of(path))


def model(folder: Path) -> Path:
    """The tiny model's processor with a larger network of random weights, which never ends an answer early."""
    import tiny_vlm
    import torch

    from curation.scorers.runtime import allow_torchvision

    allow_torchvision()
    from transformers import AutoConfig, AutoProcessor, GenerationConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    source = tiny_vlm.folder()
    config: Any = AutoConfig.from_pretrained(source)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 512, 1536, 10
    text.num_attention_heads, text.num_key_value_heads = 8, 4
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [8, 12, 12]}
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    vision.hidden_size, vision.intermediate_size, vision.depth, vision.num_heads = 256, 768, 8, 8
    vision.out_hidden_size, vision.fullatt_block_indexes = 512, [3, 7]
    made = Qwen2_5_VLForConditionalGeneration(config)
    ends = config.text_config.eos_token_id
    with torch.no_grad():  # a logit of 0 is never the largest: no answer ends early
        made.lm_head.weight[ends] = 0
    made.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=config.text_config.pad_token_id)
    made.save_pretrained(folder)
    processor: Any = AutoProcessor.from_pretrained(source)
    size = {"shortest_edge": 112 * 112, "longest_edge": 112 * 112}
    processor.video_processor.size = processor.image_processor.size = size
    processor.save_pretrained(folder)
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The clips that the command will be asked about, as rows for reading."""
    from captioning.config import CaptionConfig
    from captioning.todo import chosen, clip_rows
    from orchestration.config import load_config
    from orchestration.storage import Storage

    config = load_config(CaptionConfig, path)
    storage = Storage(config.dataset)
    return list(clip_rows(storage, chosen(storage, config.limit)))


def bare(path: Path, clips: int) -> None:
    """The loop that everybody writes first, with all frames read beforehand; prints its seconds."""
    import torch

    from captioning.backend import Request, Sampling
    from captioning.backends.local import LocalBackend
    from captioning.config import CaptionConfig
    from captioning.frames import plan_frames
    from curation.read import read_clip
    from orchestration.config import load_config

    torch.set_num_threads(1)
    config = load_config(CaptionConfig, path)
    requests = []
    for row in rows_of(path):
        plan = plan_frames(row, config.frames)
        frames = list(read_clip(row, plan.indices, plan.size, root=config.dataset))
        requests.append(Request(row["clip_id"], PROMPT, frames, plan.seconds, sampling=Sampling(max_tokens=TOKENS)))
    backend = LocalBackend(config.captions)  # type: ignore[arg-type]
    backend.setup()
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(requests), BATCH):
        for answer in backend.answer(requests[start : start + BATCH]):
            assert answer.status == "ok", answer.reason
            assert answer.output_tokens == TOKENS, answer
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))


def whole_run(config: Path, dataset: Path) -> tuple[dict[str, float], float]:
    """Sums over the rows (row_s, row_cpu_s, asked_s, waited_s), and seconds of the whole command."""
    for name in ("captioned", "captions", "runs"):
        shutil.rmtree(dataset / name, ignore_errors=True)
    begun = time.perf_counter()
    run(rushes(), "caption", str(config))
    whole = time.perf_counter() - begun
    (metrics,) = dataset.glob("runs/*-caption-*/metrics.jsonl")
    receipts = [line for line in map(json.loads, metrics.read_text().splitlines()) if "row_s" in line]
    names = ("row_s", "row_cpu_s", "asked_s", "waited_s")
    return {name: round(sum(line[name] for line in receipts), 3) for name in names}, whole


def rushes() -> str:
    return str(Path(sys.executable).with_name("rushes"))


def run(*command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
