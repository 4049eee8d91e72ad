"""`rushes latents` over a captioned dataset: what is in the shards, resume, byte equality, sets beside each other."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_vlm
import yaml
from helpers_captions import House as Captions
from helpers_captions import colour_dataset
from helpers_captions import config as caption_config
from helpers_curate import rushes, table
from rich.console import Console

from captioning.todo import clip_rows
from curation.read import read_clip
from latents import commands
from latents import run as running
from latents.config import LatentsConfig
from latents.dataset import LatentDataset
from latents.vae import VideoEncoder
from orchestration.config import load_config
from orchestration.errors import RushesError
from orchestration.storage import Storage

COUNT, FRAMES = 24, 9
BUCKET = "9x48x48"


class Killed(BaseException):
    pass


class House:
    """Runs `rushes latents` in this process: all but Ray is the real thing."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self._left = -1
        self.changes = 0
        self._patch = patch
        patch.setattr(running, "LazyEngine", _NoEngine)
        patch.setattr(running, "run_rows", _run_rows)
        move = Storage.move

        def counted(storage: Storage, source: str, target: str) -> None:
            self.changes += 1
            if self._left == 0:
                raise Killed
            self._left -= 1
            move(storage, source, target)

        patch.setattr(Storage, "move", counted)

    def latents(self, path: object, *arguments: object, code: int = 0) -> str:
        console = self._console()
        if not code:
            commands.latents([str(path), *map(str, arguments)])
            return console.export_text()
        with pytest.raises(RushesError) as caught:
            commands.latents([str(path), *map(str, arguments)])
        assert caught.value.exit_code == code
        return str(caught.value)

    def verified(self, dataset: object, **options: bool) -> str:
        """What `verify` prints of a dataset in which something is wrong."""
        console = self._console()
        with pytest.raises(commands.typer.Exit):
            commands.latents(["verify", str(dataset)], **options)
        return console.export_text()

    def _console(self) -> Console:
        console = Console(width=200, record=True, file=io.StringIO())
        self._patch.setattr(commands, "OUT", console)
        return console

    @contextlib.contextmanager
    def killed_before(self, change: int) -> Iterator[None]:
        self._left = change
        try:
            yield
        except Killed:
            pass
        finally:
            self._left = -1


class _NoEngine(contextlib.nullcontext):
    engine = SimpleNamespace(workers=2)

    def __init__(self, *_: Any):
        super().__init__(self)


def _run_rows(engine: Any, files: list[str], workers: Any, **_: Any) -> Iterator[dict[str, Any]]:
    work = workers()
    with contextlib.closing(work):
        for name in files:
            for row in pq.read_table(name).to_pylist():
                yield work(row, lambda *_: None)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioned")
    dataset, _ = colour_dataset(folder, COUNT, frames=FRAMES)
    with pytest.MonkeyPatch.context() as patch:
        captions = {"kind": "attributes", "categories": False}
        Captions(patch).caption(caption_config(folder, dataset, captions=captions, recipe={}))
    return dataset


@pytest.fixture
def dataset(captioned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(captioned, tmp_path / "dataset"))


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


def config(folder: Path, dataset: object, **sections: Any) -> Path:
    settings = {
        "dataset": str(dataset),
        "buckets": {"table": [[9, 48, 48]]},
        "vae": {"model": "small"},
        "text": {"model": None},
        "shard_samples": 6,
        "report": {"enabled": False},
        **sections,
    }
    path = folder / f"latents{len(list(folder.glob('latents*.yaml')))}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def files(dataset: Path) -> dict[str, str]:
    """SHA-256 of all that a reader sees."""
    folder = dataset / "latents"
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_every_clip_is_a_sample_with_its_own_latents_and_caption(house, dataset, tmp_path):
    path = config(tmp_path, dataset)
    text = house.latents(path)
    assert f"{COUNT} to encode" in text
    samples = LatentDataset(dataset)
    assert len(samples) == COUNT
    captions = {row["clip_id"]: row["dense"] for row in table(dataset, "captions")}
    rows = {row["clip_id"]: row for row in clip_rows(Storage(dataset), set(captions))}
    encoder = VideoEncoder(load_config(LatentsConfig, path).vae)
    encoder.setup()
    for number in range(0, COUNT, 5):
        sample = samples[number]
        facts = sample.facts
        assert facts["caption"] == captions[facts["clip_id"]]
        assert facts["bucket"] == [9, 48, 48]
        assert len(facts["frames"]) == 9
        pictures = read_clip(rows[facts["clip_id"]], facts["frames"], (48, 48), root=str(dataset))
        assert np.array_equal(encoder.encode(pictures)["mean"].numpy(), sample.mean.numpy())
        assert sample.logvar is not None
        assert sample.mean.shape == (16, 3, 6, 6)
    assert "every shard is as its index says" in house.latents("verify", dataset)
    assert json.loads(rushes("status", dataset, "--json"))["latents"] == COUNT
    assert "0 to encode" in house.latents(path)


@pytest.mark.parametrize("points", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_shards_are_equal_to_the_byte_after_a_kill_at_any_point(house, captioned, tmp_path, points):
    whole = Path(shutil.copytree(captioned, tmp_path / "whole"))
    house.latents(config(tmp_path, whole))
    expected, changes = files(whole), house.changes
    assert sum(name.endswith(".tar") for name in expected) == 4
    draw = random.Random(points)
    for number, point in enumerate(sorted(draw.choices(range(changes), k=points))):
        killed = Path(shutil.copytree(captioned, tmp_path / f"killed{number}"))
        path = config(tmp_path, killed)
        with house.killed_before(point):
            house.latents(path)
        house.latents(path)
        assert files(killed) == expected, f"killed before change {point} of {changes}"
        shutil.rmtree(killed)


@pytest.mark.slow
def test_one_worker_or_four_write_the_same_bytes(captioned, tmp_path):
    found = []
    for workers in (1, 4):
        dataset = Path(shutil.copytree(captioned, tmp_path / f"by{workers}"))
        rushes("latents", config(tmp_path, dataset), f"ray.workers={workers}")
        found.append(files(dataset))
    assert found[0] == found[1]


def test_other_settings_make_another_set_beside_the_old_one(house, dataset, tmp_path):
    house.latents(config(tmp_path, dataset))
    before = files(dataset)
    text = house.latents(config(tmp_path, dataset, vae={"model": "small", "moments": "mean"}))
    assert "the VAE or its settings. A new set is made beside the 1 there" in text
    after = files(dataset)
    assert {name: after[name] for name in before if name.endswith(".tar")} == {
        name: digest for name, digest in before.items() if name.endswith(".tar")
    }
    sets = {path.name for path in (dataset / "encoded" / "sets").iterdir()}
    assert len(sets) == 2
    for name in sets:
        samples = LatentDataset(dataset, set=name.removesuffix(".json"))
        assert len(samples) == COUNT
    assert "every shard is as its index says" in house.latents("verify", dataset)


def test_other_readers_take_clips_whose_scores_differ(house, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    path = next((dataset / "clips").glob("*.parquet"))
    clips = pq.read_table(path)
    at, ids = clips.column_names.index("motion"), clips.column("clip_id").to_pylist()
    late = set(sorted(ids)[COUNT // 2 :])  # `datasets` takes the types of the first five samples for those of all
    motion = pa.array([2.5 if name in late else None for name in ids], clips.schema.field(at).type)
    pq.write_table(clips.set_column(at, clips.schema.field(at), motion), path)
    house.latents(config(tmp_path, dataset))
    shards = sorted(map(str, (dataset / "latents" / BUCKET).glob("*.tar")))
    read = datasets.load_dataset(
        "webdataset", data_files={"train": shards}, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(read) == COUNT
    for row in read.select_columns(["__key__", "json"]).to_list():
        scores = {score["name"]: score["value"] for score in row["json"]["scores"]}
        assert scores.get("motion") == (2.5 if row["json"]["clip_id"] in late else None)
        start, end = row["json"]["span"]
        assert row["__key__"] == f"{row['json']['video_id'][:16]}-{start:07d}-{end:07d}-w0"


def test_what_gives_no_sample_is_a_row_with_its_reason(house, dataset, tmp_path):
    media = sorted((dataset / "media").rglob("*.mp4"))
    media[2].write_bytes(media[2].read_bytes()[:200])
    text = house.latents(config(tmp_path, dataset, buckets={"table": [[9, 48, 48], [17, 48, 48]]}))
    assert "1 failed" in text
    rows = table(dataset, "samples")
    assert len(rows) == COUNT
    failed = [row for row in rows if row["status"] == "failed"]
    assert [row["clip_id"] for row in failed] == [media[2].stem]
    assert failed[0]["reason"]
    short = house.latents(config(tmp_path, dataset, buckets={"table": [[17, 48, 48]]}))
    assert "0 samples" in short
    skipped = [row for row in table(dataset, "samples") if row["status"] == "skipped"]
    assert len(skipped) == COUNT
    assert all(row["reason"].startswith("too short") for row in skipped)
    house.latents(config(tmp_path, dataset, buckets={"table": [[9, 48, 48], [17, 48, 48]]}))
    rows = table(dataset, "samples")
    assert [row for row in rows if row["status"] == "skipped"] == skipped
    assert len(rows) == 2 * COUNT


def test_a_flipped_bit_is_named_and_a_sample_is_shown(house, dataset, tmp_path):
    path = config(tmp_path, dataset)
    house.latents(path)
    key = LatentDataset(dataset).key(3)
    shown = house.latents("decode", path, key)
    assert "PSNR" in shown
    assert (dataset / "latents" / "decoded" / f"{key}.mp4").stat().st_size > 500
    shard = sorted((dataset / "latents" / BUCKET).glob("*.tar"))[1]
    assert "every shard is as its index says" in house.latents("verify", dataset)  # what was decoded is no problem
    flip(shard)
    assert shard.name in house.verified(dataset)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_what_is_gone_cut_or_damaged_is_named_removed_and_made_again(house, dataset, tmp_path):
    media = sorted((dataset / "media").rglob("*.mp4"))
    whole = media[2].read_bytes()
    media[2].write_bytes(whole[:200])  # its sample fails: the shard holds fewer than were planned
    path = config(tmp_path, dataset, text={"model": "minilm"})
    house.latents(path, "limit=9")  # what later runs plan is cut otherwise
    house.latents(path)
    before, rows = files(dataset), table(dataset, "samples")
    shards = sorted((dataset / "latents" / BUCKET).glob("*.tar"))
    assert len(shards) == 5
    (dataset / "latents" / BUCKET / "index.json").write_bytes(b"{}")
    for shard in shards[:2]:
        shard.unlink()
    text = house.latents(path)
    assert all(f"{shard.name} is missing: its" in text for shard in shards[:2])
    assert files(dataset) == before

    os.truncate(shards[1], 5000)
    flip(shards[2])
    flip(empty := next((dataset / "latents").glob("*-empty.safetensors")))
    shards[3].unlink()
    named = house.verified(dataset)
    assert all(path.name in named for path in (*shards[1:4], empty))
    assert shards[0].name not in named
    assert shards[2].exists()
    removed = house.verified(dataset, remove=True)
    assert "3 files removed" in removed
    assert not any(path.exists() for path in (*shards[1:4], empty))
    assert shards[0].exists()
    text = house.latents(path)
    assert all(f"{shard.name} is missing" in text for shard in shards[1:4])
    assert files(dataset) == before
    assert table(dataset, "samples") == rows
    assert "every shard is as its index says" in house.latents("verify", dataset)
    empty.unlink()
    assert "it is made again" in house.latents(path)
    assert files(dataset) == before
    assert "0 to encode" in house.latents(path)


@pytest.mark.parametrize("points", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_making_again_may_be_killed_at_any_point(house, dataset, tmp_path, points):
    path = config(tmp_path, dataset)
    house.latents(path)
    before, start = files(dataset), house.changes
    shards = sorted((dataset / "latents" / BUCKET).glob("*.tar"))
    shards[1].unlink()
    house.latents(path)
    changes = house.changes - start
    assert files(dataset) == before
    for point in sorted(random.Random(points).choices(range(changes), k=points)):
        shards[1].unlink()
        os.truncate(shards[2], 99)
        with house.killed_before(point):
            house.latents(path)
        house.latents(path)
        assert files(dataset) == before, f"killed before change {point} of {changes}"


def test_a_lost_shard_of_another_set_is_left_out_of_the_index_until_its_own_run(house, dataset, tmp_path):
    first, second = config(tmp_path, dataset), config(tmp_path, dataset, vae={"model": "small", "moments": "mean"})
    house.latents(first)
    shard = sorted((dataset / "latents" / BUCKET).glob("*.tar"))[1]
    house.latents(second)
    before = files(dataset)
    shard.unlink()
    assert f"{shard.name} is missing: it is of another set" in house.latents(second)
    assert "every shard is as its index says" in house.latents("verify", dataset)
    assert not [row for row in table(dataset, "samples") if row["shard"] == str(shard.relative_to(dataset))]
    house.latents(first)
    assert files(dataset) == before


def test_shards_of_clips_that_are_not_kept_any_more_are_not_missed(house, dataset, tmp_path):
    path = config(tmp_path, dataset)
    house.latents(path)
    before = files(dataset)
    for shard in (dataset / "latents" / BUCKET).glob("*.tar"):
        shard.unlink()
    house.latents(path, "limit=2")
    assert len(LatentDataset(dataset)) == 2
    assert len(table(dataset, "samples")) == 2
    assert "every shard is as its index says" in house.latents("verify", dataset)
    house.latents(path)
    assert len(LatentDataset(dataset)) == COUNT
    assert before.keys() <= files(dataset).keys()


def test_a_worker_with_other_weights_refuses(house, dataset, tmp_path, monkeypatch):
    facts = running.VideoEncoder.facts
    monkeypatch.setattr(
        running,
        "VideoEncoder",
        lambda given: SimpleNamespace(facts={**facts.func(VideoEncoder(given)), "weights": "f00d"}),
    )
    text = house.latents(config(tmp_path, dataset), code=2)
    assert "vae.model is another one on" in text
    assert "weights: 'f00d' there" in text
    assert not list((dataset / "latents").rglob("*.tar"))


def test_a_takedown_takes_latents_along(house, dataset, tmp_path):
    path = config(tmp_path, dataset)
    house.latents(path)
    victim = LatentDataset(dataset)[0].facts["video_id"]
    doomed = {row["clip_id"] for row in table(dataset, "clips") if row["video_id"] == victim}
    assert 0 < len(doomed) <= COUNT
    rushes("forget", dataset, victim, "--yes")
    left = b"".join(file.read_bytes() for file in (dataset / "latents").rglob("*.*"))
    assert victim[:16].encode() not in left
    if len(doomed) < COUNT:
        house.latents(path)
        assert len(LatentDataset(dataset)) == COUNT - len(doomed)
        assert "every shard is as its index says" in house.latents("verify", dataset)


def test_new_clips_go_into_new_shards(house, dataset, tmp_path):
    path = config(tmp_path, dataset)
    house.latents(path, "limit=7")
    before = files(dataset)
    house.latents(path)
    after = files(dataset)
    old = {name: digest for name, digest in before.items() if name.endswith(".tar")}
    assert old.items() <= after.items()
    assert len(LatentDataset(dataset)) == COUNT
    assert f"{COUNT - 7}  of clips that are not kept now, or beyond the limit" in house.latents(path, "limit=7")
    assert LatentDataset(dataset)[0].facts["fps"] == tiny_vlm.FPS
