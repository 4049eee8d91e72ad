"""The reader: order, workers, threads, stores and their cache; every sample comes whole, or is named as damaged."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import multiprocessing
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import torch
from helpers_shards import BUCKET, OTHER, SET, keys, make, sample, shard_path
from moto.server import ThreadedMotoServer
from torch.utils.data import DataLoader

import latents.ranges
from latents.cache import RangeCache
from latents.dataset import LatentDataset, LatentSample
from latents.shard import ShardError
from orchestration.errors import ConfigError
from orchestration.storage import Storage

STORE = "latents-shards"


def is_whole(found: LatentSample, bucket: str = BUCKET) -> bool:
    """It is the very sample that was written."""
    _, tensors, facts = sample(found.key, bucket)
    return (
        found.facts == facts
        and found.bucket == bucket
        and found.mean.equal(tensors["mean"])
        and found.mean.dtype == torch.bfloat16
        and found.logvar is not None
        and found.logvar.equal(tensors["logvar"])
        and len(found.text) == 2
        and all(text.equal(tensors[f"text.{number}"]) for number, text in enumerate(found.text))
        and found.text_tokens == (3, 4)
    )


def damage(path: Path, at: int, mask: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ mask]))


def test_samples_come_by_number_in_one_fixed_order(tmp_path):
    make(tmp_path, BUCKET, shards=3, samples=4)
    make(tmp_path, "1x64x64", shards=2, samples=3, first=50)
    data = LatentDataset(tmp_path)
    expected = [*keys(0, 4), *keys(1, 4), *keys(2, 4), *keys(50, 3), *keys(51, 3)]
    assert [data.key(number) for number in range(len(data))] == expected
    assert data.buckets == {BUCKET: range(12), "1x64x64": range(12, 18)}  # by name
    for bucket, numbers in data.buckets.items():
        assert all(is_whole(data[number], bucket) for number in numbers)
    assert [found.key for found in data] == expected  # ends by IndexError
    assert data[-1].key == expected[-1]
    assert data.find(expected[7]) == 7
    with pytest.raises(KeyError):
        data.find("nobody")
    for number in (18, -19):
        with pytest.raises(IndexError):
            data[number]
        with pytest.raises(IndexError):
            list(data.stream([number]))
    assert data.encoder == {"vae": "tiny", "dtype": "float32"}


def test_the_manifests_hash_is_of_the_data_and_of_nothing_else(tmp_path):
    for name in ("one", "other"):
        make(tmp_path / name)
    one = LatentDataset(tmp_path / "one")
    assert one.manifest_hash == LatentDataset(tmp_path / "other", text=None, verify="always").manifest_hash
    seen = {one.manifest_hash}
    make(tmp_path / "one", shards=2)
    seen.add(LatentDataset(tmp_path / "one").manifest_hash)
    make(tmp_path / "one", samples=5)
    seen.add(LatentDataset(tmp_path / "one").manifest_hash)
    make(tmp_path / "one", captions=1)
    seen.add(LatentDataset(tmp_path / "one").manifest_hash)
    make(tmp_path / "other", "1x64x64", first=50)
    seen |= {
        LatentDataset(tmp_path / "other").manifest_hash,
        LatentDataset(tmp_path / "other", ["1x64x64"]).manifest_hash,
    }
    assert len(seen) == 6


def test_of_several_sets_one_has_to_be_chosen(tmp_path):
    make(tmp_path)
    make(tmp_path, "1x64x64", fingerprint=OTHER, first=50)
    with pytest.raises(ConfigError, match=f"several sets.*{SET}, {OTHER}"):
        LatentDataset(tmp_path)
    with pytest.raises(ConfigError, match=f"no set abc.*{SET}"):
        LatentDataset(tmp_path, set="abc")
    assert list(LatentDataset(tmp_path, set=OTHER).buckets) == ["1x64x64"]
    assert len(LatentDataset(tmp_path, [BUCKET])) == 12
    with pytest.raises(ConfigError, match=f"no set {OTHER}; there are: {SET}"):
        LatentDataset(tmp_path, [BUCKET], set=OTHER)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match="rushes latents"):
        LatentDataset(tmp_path)
    make(tmp_path)
    with pytest.raises(ConfigError, match=f"9x64x64.*{BUCKET}"):
        LatentDataset(tmp_path, ["9x64x64"])
    with pytest.raises(ConfigError, match="no bucket"):
        LatentDataset(tmp_path, ["../17x64x96"])
    with pytest.raises(ConfigError, match="verify"):
        LatentDataset(tmp_path, verify="never")  # type: ignore[arg-type]


def test_text_can_be_left_out(tmp_path):
    make(tmp_path)
    found = LatentDataset(tmp_path, text=None)[3]
    assert (found.text, found.text_tokens) == ((), ())
    assert len(found.facts["captions"]) == 2


def test_tensors_are_their_samples_own(tmp_path):
    make(tmp_path)
    data = LatentDataset(tmp_path)
    first = data[0]
    first.mean.zero_()
    first.text[0].zero_()
    assert is_whole(data[0])


def test_importing_the_reader_does_not_import_torch(tmp_path):
    make(tmp_path)
    code = (
        "import sys; from latents.dataset import LatentDataset; from latents.verify import verify\n"
        f"assert len(LatentDataset({str(tmp_path)!r})) == 12; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# Workers and threads


def test_workers_give_the_same_as_none(tmp_path):
    make(tmp_path, shards=3, samples=5)
    data = LatentDataset(tmp_path)
    order = random.Random(0).sample(range(15), 15)
    for workers, context in ((0, None), (2, "fork"), (2, "spawn")):
        loader = DataLoader(
            data, batch_size=4, sampler=order, num_workers=workers, collate_fn=list, multiprocessing_context=context
        )
        found = [each for batch in loader for each in batch]
        assert [each.key for each in found] == [data.key(number) for number in order]
        assert all(map(is_whole, found))


def test_a_pickled_reader_reads(tmp_path):
    make(tmp_path)
    data = LatentDataset(tmp_path)
    before = len(pickle.dumps(data))
    assert is_whole(data[5])
    text = pickle.dumps(data)
    assert len(text) == before
    again = pickle.loads(text)
    assert is_whole(again[5])
    assert again.manifest_hash == data.manifest_hash


@pytest.mark.parametrize("ahead", [1, 2, 7, 100])
@pytest.mark.parametrize("threads", [1, 3])
def test_streams_keep_the_order(tmp_path, ahead, threads):
    make(tmp_path, shards=3, samples=6)
    data = LatentDataset(tmp_path)
    fixed = random.Random(ahead)
    orders = [range(18), fixed.sample(range(18), 18), [0, 0, 1, 1], [], [-1, 3, 4, 5, 6, 0], range(17, -1, -1)]
    for order in orders:
        found = list(data.stream(order, ahead=ahead, threads=threads))
        assert [each.key for each in found] == [data.key(number) for number in order]
        assert all(map(is_whole, found))


def test_a_stream_takes_from_its_order_only_what_it_reads_ahead(tmp_path):
    make(tmp_path)
    data, taken = LatentDataset(tmp_path), itertools.count()
    stream = data.stream((next(taken) % 12 for _ in itertools.repeat(None)), ahead=8, threads=2)
    for _ in range(20):
        next(stream)
    assert next(taken) <= 20 + 8 + 2
    stream.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stream_fails_where_the_damaged_sample_is(tmp_path, threads):
    make(tmp_path, shards=2, samples=8)
    data = LatentDataset(tmp_path)
    damage(shard_path(tmp_path, 1), shard_path(tmp_path, 1).stat().st_size // 2)
    broken = keys(1, 8)[3] if not readable(data, 11) else keys(1, 8)[4]
    for order in (list(range(16)), list(range(15, -1, -1)), random.Random(1).sample(range(16), 16)):
        found = []
        with pytest.raises(ShardError, match=f"{SET}-000001.tar, sample {broken}: .*SHA-256"):
            found.extend(each for each in gathered(found, data.stream(order, threads=threads)))
        assert [each.key for each in found] == [data.key(number) for number in order][: len(found)]
        assert data.key(order[len(found)]) == broken


def readable(data: LatentDataset, number: int) -> bool:
    try:
        data[number]
    except ShardError:
        return False
    return True


def gathered(found, stream):
    for each in stream:
        found.append(each)
    yield from ()


# Verification


@pytest.fixture
def counted(monkeypatch):
    """How often a range's SHA-256 was computed in this process."""
    count = itertools.count()
    seen = [0]

    class Counting:
        @staticmethod
        def sha256(data):
            seen[0] = next(count) + 1
            return hashlib.sha256(data)

    monkeypatch.setattr(latents.ranges, "hashlib", Counting)
    return seen


@pytest.mark.parametrize(("verify", "again"), [("first", 12), ("always", 24)])
def test_sha256_is_compared_on_first_touch_or_always(tmp_path, counted, verify, again):
    make(tmp_path)
    data = LatentDataset(tmp_path, verify=verify)
    list(data)
    assert counted == [12]
    list(data.stream(range(12)))
    assert counted == [again]


def test_what_a_forked_worker_has_verified_is_verified(tmp_path, counted):
    make(tmp_path)
    data = LatentDataset(tmp_path)
    list(DataLoader(data, batch_size=3, num_workers=2, collate_fn=list, multiprocessing_context="fork"))
    assert counted == [0]
    assert len(list(data)) == 12
    assert counted == [0]


@pytest.mark.parametrize("verify", ["first", "always"])
def test_damage_after_the_first_touch_is_noticed(tmp_path, verify):
    make(tmp_path)
    data = LatentDataset(tmp_path, verify=verify)
    fixed = random.Random(2)
    assert len(list(data)) == 12
    size = (shard_path(tmp_path).stat().st_size - 1024) // 4
    for number in range(4):
        at = number * size + fixed.randrange(size)
        damage(shard_path(tmp_path), at)
        with pytest.raises(ShardError, match=keys(0, 4)[at // size]):
            data[at // size]
        damage(shard_path(tmp_path), at)
        assert is_whole(data[number])


def test_a_worker_passes_the_error_on(tmp_path):
    make(tmp_path)
    damage(shard_path(tmp_path, 1), 600)
    loader = DataLoader(LatentDataset(tmp_path), batch_size=4, num_workers=1, collate_fn=list)
    with pytest.raises(Exception, match=f"{SET}-000001.tar, sample {keys(1, 1)[0]}"):
        list(loader)


def test_an_error_goes_through_pickle(tmp_path):
    error = pickle.loads(pickle.dumps(ShardError("latents/x.tar", "k", "cut")))
    assert (error.file, error.key, error.what) == ("latents/x.tar", "k", "cut")
    assert "latents/x.tar, sample k: cut." in str(error)


# Stores


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(server, monkeypatch, tmp_path):
    """Address of a data set with 3 shards of 4 samples in a bucket."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "trainer",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket=STORE)
    make(f"s3://{STORE}/data")
    return f"s3://{STORE}/data"


@pytest.fixture
def fetched(monkeypatch):
    """Numbers of the samples that were fetched from the store by this process."""
    numbers, fetch = [], latents.ranges.VerifiedRanges._fetch

    def counting(self, number, size):
        numbers.append(number)
        return fetch(self, number, size)

    monkeypatch.setattr(latents.ranges.VerifiedRanges, "_fetch", counting)
    return numbers


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*"))


def test_a_store_gives_the_same_as_a_folder(store, tmp_path):
    make(tmp_path)
    local, remote = LatentDataset(tmp_path), LatentDataset(store)
    assert remote.manifest_hash == local.manifest_hash
    order = [7, 3, 11, 0, 1, 2]
    for found in ([remote[number] for number in order], list(remote.stream(order)), remote.__getitems__(order)):
        assert [each.key for each in found] == [local.key(number) for number in order]
        assert all(map(is_whole, found))
    assert remote.empty_text()[0].equal(torch.ones(12, 16))
    for context in ("fork", "spawn"):
        loader = DataLoader(
            remote, batch_size=4, sampler=order, num_workers=2, collate_fn=list, multiprocessing_context=context
        )
        assert [each.key for batch in loader for each in batch] == [local.key(number) for number in order]


def test_the_cache_spares_the_store_and_survives_damage(store, tmp_path, fetched):
    folder = tmp_path / "cache"
    data = LatentDataset(store, cache=folder)
    assert all(map(is_whole, data))
    assert fetched == list(range(12))
    assert all(map(is_whole, data))
    assert all(map(is_whole, LatentDataset(store, cache=folder, verify="always").stream(range(12))))
    assert len(fetched) == 12
    kept = sorted(folder.glob("??/*"))
    assert len(kept) == 12
    damage(kept[3], 700)
    kept[5].write_bytes(kept[5].read_bytes()[:-5])
    kept[7].unlink()
    assert all(map(is_whole, data))
    assert len(fetched) == 15
    assert all(map(is_whole, data))
    assert len(fetched) == 15


def test_the_cache_keeps_to_its_limit_and_drops_what_was_not_used(store, tmp_path, fetched):
    folder = tmp_path / "cache"
    everything = LatentDataset(store, cache=tmp_path / "all")
    list(everything)
    size = used(tmp_path / "all") // 12
    fetched.clear()
    data = LatentDataset(store, cache=folder, cache_gb=5 * size / 1e9)
    for number in (0, 1, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7):
        assert is_whole(data[number])
        assert used(folder) <= 5 * size
    assert fetched.count(0) == 1  # the one in use
    fetched.clear()
    assert is_whole(data[1])
    assert fetched == [1]
    none = LatentDataset(store, cache=tmp_path / "small", cache_gb=size / 2e9)
    assert is_whole(none[0])
    assert used(tmp_path / "small") == 0


def test_damage_in_a_store_is_refused_and_not_kept(store, tmp_path):
    storage, name = Storage(store), f"latents/{BUCKET}/{SET}-000001.tar"
    content = bytearray(storage.read_bytes(name))
    content[700] ^= 4
    storage.write_bytes(name, bytes(content))
    data = LatentDataset(store, cache=tmp_path)
    with pytest.raises(ShardError, match=rf"s3://{STORE}/data/{name}, sample {keys(1, 1)[0]}: .*SHA-256"):
        data[4]
    assert used(tmp_path) == 0
    storage.write_bytes(name, bytes(content[:10_000]))
    with pytest.raises(ShardError, match=rf"sample {keys(1, 4)[3]}: the shard (is cut|cannot be read)"):
        data[7]
    storage.remove(name)
    with pytest.raises(ShardError, match="the shard is missing"):
        data[5]
    assert is_whole(data[0])


def fill(folder: str, limit: int, seed: int, over: list[int]) -> None:
    """One of several processes that put and get; what they see above the limit goes to `over`."""
    fixed, cache = random.Random(seed), RangeCache(folder, limit)
    for _ in range(150):
        name = fixed.randrange(60)
        content = bytes([name]) * (500 + 10 * name)
        digest = hashlib.sha256(content).hexdigest()
        found = cache.get(digest, len(content))
        assert found is None or found == content
        if found is None:
            cache.put(digest, content)
        with open(f"{folder}/used", "a") as file:  # while nobody writes: else a file may be seen with its successor
            fcntl.flock(file, fcntl.LOCK_EX)
            if (total := used(Path(folder))) > limit:
                over.append(total)


def test_several_processes_share_a_cache_within_its_limit(tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        over = manager.list()
        workers = [context.Process(target=fill, args=(str(tmp_path), 20_000, seed, over)) for seed in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(100)
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert list(over) == []
    assert 10_000 < used(tmp_path) <= 20_000


def test_a_cache_counts_anew_when_its_count_is_lost(tmp_path):
    cache = RangeCache(tmp_path, 1000)
    for number in range(3):
        cache.put(f"{number}" * 64, bytes(300))
    for text in ("", "junk", "999999999"):
        (tmp_path / "used").write_text(text)
        cache.put(os.urandom(32).hex(), bytes(300))
        assert used(tmp_path) <= 1000
    assert used(tmp_path) >= 600
    shutil.rmtree(tmp_path)
    assert cache.get("0" * 64, 300) is None
    cache.put("0" * 64, bytes(300))
    assert cache.get("0" * 64, 300) == bytes(300)
