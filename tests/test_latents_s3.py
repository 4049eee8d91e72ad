"""The whole of `rushes latents` in a bucket of a real S3 server on this machine: to the byte what a local run gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from helpers_captions import House as Captions
from helpers_captions import colour_dataset
from helpers_captions import config as caption_config
from helpers_curate import table
from moto.server import ThreadedMotoServer
from test_latents_run import House, Killed, config, files

from latents.dataset import LatentDataset
from orchestration.storage import Storage

COUNT = 8
STORE = "latent-shards"
ROOT = f"{STORE}/dataset"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name, value in {"ACCESS_KEY_ID": "encoder", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket=STORE)
    yield client
    server.stop()


def fetched(client: Any, folder: Path) -> Path:
    for entry in client.list_objects_v2(Bucket=STORE, Prefix="dataset/")["Contents"]:
        target = folder / entry["Key"].removeprefix("dataset/")
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(STORE, entry["Key"], str(target))
    return folder


def test_a_bucket_gives_what_a_folder_gives(client, tmp_path, monkeypatch):
    local, _ = colour_dataset(tmp_path, COUNT, frames=9)
    captions = {"kind": "attributes", "categories": False}
    Captions(monkeypatch).caption(caption_config(tmp_path, local, captions=captions, recipe={}))
    for path in local.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), STORE, f"dataset/{path.relative_to(local)}")
    house, settings = House(monkeypatch), {"shard_samples": 3, "text": {"model": "minilm"}, "report": {"samples": 1}}
    house.latents(config(tmp_path, local, **settings))
    expected = files(local)
    assert len(expected) == 5  # three shards, an index, the empty caption

    path = config(tmp_path, f"s3://{ROOT}", **settings)
    put, names = Storage.put_file, []

    def killed(storage: Storage, source: Path, name: str) -> None:
        names.append(name)
        if len(names) == 2:
            raise Killed
        put(storage, source, name)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put_file", killed)
        with pytest.raises(Killed):
            house.latents(path)
    assert f"{COUNT - 3} to encode" in house.latents(path)
    assert files(fetched(client, tmp_path / "first")) == expected
    assert table(tmp_path / "first", "samples") == table(local, "samples")
    assert (tmp_path / "first" / "report" / "index.html").exists()
    assert "every shard is as its index says" in house.latents("verify", f"s3://{ROOT}")

    near, cache = LatentDataset(local), tmp_path / "cache"
    far = LatentDataset(f"s3://{ROOT}", cache=cache, cache_gb=1)
    assert far.manifest_hash == near.manifest_hash
    for sample, other in zip(far.stream(range(COUNT)), near.stream(range(COUNT)), strict=True):
        assert sample.key == other.key
        assert sample.facts == other.facts
        assert sample.mean.equal(other.mean)
        assert sample.text[0].equal(other.text[0])
    assert str(far.empty_text()) == str(near.empty_text())
    assert len([file for file in cache.rglob("*") if len(file.name) == 64]) == COUNT
    key = far.key(2)
    assert f"s3://{ROOT}/latents/decoded/{key}.mp4" in house.latents("decode", path, key)
    assert client.head_object(Bucket=STORE, Key=f"dataset/latents/decoded/{key}.mp4")["ContentLength"] > 500
    client.delete_object(Bucket=STORE, Key=f"dataset/latents/decoded/{key}.mp4")  # a local run made none

    shards = sorted(name for name in expected if name.endswith(".tar"))
    client.delete_object(Bucket=STORE, Key=f"dataset/latents/{shards[0]}")
    data = bytearray((local / "latents" / shards[1]).read_bytes())
    data[len(data) // 2] ^= 1
    client.put_object(Bucket=STORE, Key=f"dataset/latents/{shards[1]}", Body=bytes(data))
    assert far[1].key == near[1].key  # out of the cache
    named = house.verified(f"s3://{ROOT}", remove=True)
    assert f"{shards[0]}: the shard is missing" in named
    assert "1 files removed" in named
    house.latents(path)
    assert files(fetched(client, tmp_path / "second")) == expected
