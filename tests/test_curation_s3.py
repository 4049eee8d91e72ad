"""The whole job against a real S3 server on this machine equals the local run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import boto3
import pytest
from helpers_curate import contents, curate, rushes, table
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "curator", "AWS_SECRET_ACCESS_KEY": "canary-7f3a", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server():
    """Environment that points every S3 client at a fresh server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    server.stop()


@pytest.fixture(scope="module")
def client(server):
    client = boto3.client(
        "s3",
        endpoint_url=server["AWS_ENDPOINT_URL"],
        aws_access_key_id=server["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=server["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="footage")
    return client


def download(client, prefix: str, folder: Path) -> Path:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="footage", Prefix=prefix):
        for entry in page.get("Contents", []):
            target = folder / entry["Key"].removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download_file("footage", entry["Key"], str(target))
    return folder


def test_a_bucket_gives_the_same_dataset_as_a_folder(samples, server, client, tmp_path):
    raw = tmp_path / "raw"
    (raw / "deep").mkdir(parents=True)
    for video in samples.glob("*.mp4"):
        shutil.copy(video, raw)
    shutil.copy(samples / "bikes.mp4", raw / "deep" / "again, with space.mov")
    (raw / "broken.mp4").write_bytes(b"no video")
    for path in raw.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "footage", f"raw/{path.relative_to(raw)}")
    # a quantile makes the cuts come later, which fetches the sources a second time
    rules = "select.rules=[{duration_s: {min: 2}}, {sharpness: {best: 60%}}]"
    curate(raw, tmp_path / "local", rules)
    text = curate("s3://footage/raw", "s3://footage/clips", rules, "report.enabled=true", **server)
    fetched = download(client, "clips/", tmp_path / "bucket")
    local = contents(tmp_path / "local")
    assert contents(fetched) == local
    assert sum(name.startswith("media/") for name in local) >= 2
    assert {row["uri"].removeprefix("s3://footage/raw/") for row in table(fetched, "videos")} == {
        row["uri"].removeprefix(f"{raw}/") for row in table(tmp_path / "local", "videos")
    }
    assert (fetched / "report" / "index.html").exists()
    secret = server["AWS_SECRET_ACCESS_KEY"]
    assert secret not in text
    assert not [path for path in fetched.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]

    # run again: nothing to do; one new object: only that
    assert "0 new or changed files" in curate("s3://footage/raw", "s3://footage/clips", rules, **server)
    client.upload_file(str(samples / "carphone_pristine.mp4"), "footage", "raw/new name.mp4")
    assert "1 new or changed files" in curate("s3://footage/raw", "s3://footage/clips", rules, **server)
    status = json.loads(rushes("status", "s3://footage/clips", "--json", **server))
    assert status["videos"] == {"ok": 4, "failed": 1, "duplicate": 2}
    video_id = table(fetched, "videos")[0]["video_id"]
    rushes("forget", "s3://footage/clips", video_id, "--yes", **server)
    keys = [path for path in download(client, "clips/", tmp_path / "after").rglob("*") if video_id in str(path)]
    assert [path.parent.name for path in keys] == ["tombstones"]


def test_wrong_bucket_is_one_clear_message(server, client, tmp_path):
    text = curate("s3://no-such-bucket/raw", tmp_path / "out", code=2, **server)
    assert "no-such-bucket" in text
    assert "Traceback" not in text
    with contextlib.suppress(KeyError):
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in text
