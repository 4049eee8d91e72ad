"""Parts, packs, damage, the writer lock: what a kill at any point may leave, and what readers then see."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import boto3
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from orchestration import lock
from orchestration.ledger import DamagedPart, Ledger
from orchestration.lock import NAME, Locked, LockLost, WriterLock
from orchestration.storage import Storage

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.int64())])


@pytest.fixture
def ledger(tmp_path):
    return Ledger(Storage(tmp_path), "scan", SCHEMA, "key")


def rows(ledger):
    return sorted((row["key"], row["value"]) for table in ledger.read() for row in table.to_pylist())


def fill(ledger, count):
    for number in range(count):
        ledger.commit(f"k{number:03d}", {"key": f"k{number:03d}", "value": number})
    return [(f"k{number:03d}", number) for number in range(count)]


def test_committing_twice_is_committing_once(ledger):
    expected = fill(ledger, 3)
    ledger.commit("k001", {"key": "k001", "value": 1})
    assert rows(ledger) == expected
    assert ledger.keys() == {"k000", "k001", "k002"}


def test_packing_changes_nothing_that_readers_see(ledger):
    expected = fill(ledger, 10)
    ledger.pack(at_least=5, at_most=4)
    assert rows(ledger) == expected
    assert len(ledger.parts()) == 3
    fill(ledger, 11)  # k000 to k009 are committed again, loose beside the packs that hold them
    assert rows(ledger) == [*expected, ("k010", 10)]
    ledger.pack(at_least=1)
    assert rows(ledger) == [*expected, ("k010", 10)]
    assert len(ledger.parts()) == 1


def test_a_row_committed_after_packing_takes_the_old_ones_place(ledger):
    expected = fill(ledger, 10)
    ledger.pack(at_least=1, at_most=4)
    ledger.commit("k003", {"key": "k003", "value": 33})
    expected[3] = ("k003", 33)
    assert rows(ledger) == expected
    assert [value for table in ledger.read(["value"]) for value in table.column(0).to_pylist()].count(33) == 1
    ledger.pack(at_least=1)
    assert rows(ledger) == expected
    fill(ledger, 10)  # the same keys make a pack of the same name
    ledger.pack(at_least=1)
    ledger.commit("k009", {"key": "k009", "value": 99})
    ledger.pack(at_least=1)
    assert rows(ledger) == [*((f"k{number:03d}", number) for number in range(9)), ("k009", 99)]


class Killed(BaseException):
    """What a SIGKILL looks like from inside: nothing after it has an effect."""


@pytest.fixture
def killer(monkeypatch):
    """killer(n) lets n renames and removals happen; the next one and all that follow raise Killed. killer() heals."""
    left = [None]

    def counted(method):
        def call(self, *arguments):
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return method(self, *arguments)

        return call

    for name in ("move", "remove"):
        monkeypatch.setattr(Storage, name, counted(getattr(Storage, name)))
    return lambda count=None: left.__setitem__(0, count)


STEPS = {
    "pack": lambda ledger: ledger.pack(at_least=1, at_most=3),
    "pack all": lambda ledger: ledger.pack(at_least=1),
    "rewrite": lambda ledger: ledger.rewrite_without({2, 20, 21, 22}, "value"),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_point_loses_nothing_and_brings_nothing_back(step, tmp_path, killer):
    for kills in range(40):
        ledger = Ledger(Storage(tmp_path / str(kills)), "scan", SCHEMA, "key")
        fill(ledger, 9)
        ledger.pack(at_least=1, at_most=4)
        for number in (1, 2, 5, 9):  # value 20 hides value 2; when it goes, 2 must not come back, nor 1 behind 21
            ledger.commit(f"k{number:03d}", {"key": f"k{number:03d}", "value": number + (18, 20)[number != 2]})
        before = rows(ledger)
        after = [row for row in before if row[1] not in (2, 20, 21, 22)] if step == "rewrite" else before
        killer(kills)
        try:
            STEPS[step](ledger)
            done = True
        except Killed:
            done = False
        killer()
        assert Counter(after) <= Counter(rows(ledger)) <= Counter(before)
        STEPS[step](ledger)
        assert rows(ledger) == after
        if done:
            break
    else:
        pytest.fail("it never ended")
    assert kills >= 4


def test_rows_can_be_removed_from_loose_parts_and_packs(ledger):
    expected = fill(ledger, 6)
    ledger.pack(at_least=1)
    ledger.commit("k006", {"key": "k006", "value": 6})
    narrow = Ledger(ledger.storage, "scan", SCHEMA.remove(1), "key")  # does not know all columns, and keeps them
    assert narrow.rewrite_without({"k002", "k006"}, "key") == 2
    assert rows(ledger) == [row for row in expected if row[0] != "k002"]


def test_a_damaged_part_fails_loudly_with_its_name(ledger, tmp_path):
    fill(ledger, 3)
    part = tmp_path / "scan" / "k001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(DamagedPart, match=r"k001\.parquet"):
        rows(ledger)


def write_half(storage, name, size):
    with storage.open_write(name) as file:
        file.write(bytes(size))
        raise RuntimeError


def test_a_write_that_fails_leaves_nothing(tmp_path):
    storage = Storage(tmp_path)
    with pytest.raises(RuntimeError):
        write_half(storage, "a/b.bin", 10)
    assert storage.list("a") == []
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_older_parts_lack_newer_columns(ledger, tmp_path):
    fill(ledger, 2)
    wider = Ledger(ledger.storage, "scan", SCHEMA.append(pa.field("extra", pa.string())), "key")
    assert [row["extra"] for table in wider.read() for row in table.to_pylist()] == [None, None]


@pytest.fixture(scope="module")
def bucket():
    """Address of a bucket on a server of this machine, and a client that bypasses fsspec."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="ledger")
        yield "s3://ledger", client
    server.stop()


def test_what_others_put_into_a_bucket_is_seen_at_once(bucket):
    root, client = bucket
    ledger = Ledger(Storage(f"{root}/fresh"), "scan", SCHEMA, "key")
    fill(ledger, 2)
    assert len(ledger.parts()) == 2  # a listing that must not answer later questions
    assert not ledger.has("k002")
    client.copy_object(Bucket="ledger", Key="fresh/scan/k002.parquet", CopySource="ledger/fresh/scan/k001.parquet")
    assert ledger.has("k002")
    assert len(ledger.parts()) == 3
    client.delete_object(Bucket="ledger", Key="fresh/scan/k002.parquet")
    assert not ledger.has("k002")
    ledger.pack(at_least=1)
    assert rows(ledger) == [("k000", 0), ("k001", 1)]


def test_an_upload_that_fails_leaves_nothing(bucket):
    root, client = bucket
    storage = Storage(f"{root}/failed")
    storage.write_bytes("a.bin", b"old")
    for size in (10, 60 * 2**20):  # put at once, and uploaded in parts
        with pytest.raises(RuntimeError):
            write_half(storage, "a.bin", size)
        assert storage.read_bytes("a.bin") == b"old"
        assert "Uploads" not in client.list_multipart_uploads(Bucket="ledger")
    storage.move("a.bin", "b/c.bin")
    assert storage.list("") == ["b/c.bin"]
    storage.remove_folder("b")
    assert storage.list("") == []


HOLD = """
import sys, time
from orchestration.lock import WriterLock
from orchestration.storage import Storage
with WriterLock(Storage(sys.argv[1]), "curate"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_writer_a_dataset_and_a_killed_one_is_replaced_at_once(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Locked, match=f"process {holder.pid}"), WriterLock(Storage(tmp_path), "select"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    started = time.monotonic()
    with WriterLock(Storage(tmp_path), "select"):
        pass
    assert time.monotonic() - started < 5
    assert not (tmp_path / "runs" / "writer.lock").exists()


@pytest.fixture
def places(tmp_path, bucket):
    return {"folder": str(tmp_path / "dataset"), "bucket": f"{bucket[0]}/{tmp_path.name}"}


RACE = """
import sys, time
from orchestration.lock import Locked, WriterLock
from orchestration.storage import Storage
storage = Storage(sys.argv[1])
sys.stdin.readline()
try:
    with WriterLock(storage, "curate"):
        print("held", flush=True)
        time.sleep(3)
except Locked:
    print("locked", flush=True)
"""


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_of_many_that_take_over_a_dead_lock_at_once_one_gets_it(places, place):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, places[place]], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([sys.executable, "-c", RACE, places[place]], **pipe) for _ in range(4)]
    time.sleep(1.5)
    holder.kill()
    holder.wait()
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    assert sorted(racer.communicate()[0] for racer in racers) == ["held\n", *["locked\n"] * 3]
    with WriterLock(Storage(places[place]), "select"):
        pass
    assert not Storage(places[place]).exists(NAME)


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_lost_lock_stops_the_run_and_is_left_to_its_new_holder(places, place, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    storage = Storage(places[place])
    held = WriterLock(storage, "curate")

    def run():
        with held:
            storage.remove(NAME)
            storage.write_bytes(NAME, b'{"id": "another", "command": "forget"}')
            time.sleep(20)

    started = time.monotonic()
    with pytest.raises(LockLost, match="taken over"):
        run()
    assert time.monotonic() - started < 5
    assert storage.read_bytes(NAME) == b'{"id": "another", "command": "forget"}'


def test_a_store_that_is_away_for_a_moment_does_not_end_the_run(places, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    storage = Storage(places["bucket"])
    with WriterLock(storage, "curate") as held:
        failures = []

        def away(mine):
            failures.append(mine)
            raise OSError("no route to host")

        with monkeypatch.context() as patch:
            patch.setattr(held._place, "renew", away)
            time.sleep(1)
            held.check()
            patch.setattr(lock, "STALE_S", 1.0)
            with pytest.raises(KeyboardInterrupt):
                time.sleep(20)
        assert failures
        with pytest.raises(LockLost, match="no route to host"):
            held.check()
        held._lost = ""


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_fresh_lock_of_another_machine_is_respected_and_an_old_one_is_not(places, place):
    storage = Storage(places[place])
    text = '{{"id": "x", "host": "{}", "machine": "other", "pids": 1, "pid": 1, "started": 1, "renewed": {}}}'
    host = os.uname().nodename  # machines may share a name
    storage.write_bytes(NAME, text.format(host, time.time()).encode())
    with pytest.raises(Locked, match="process 1 on"), WriterLock(storage, "curate"):
        pass
    storage.write_bytes(NAME, text.format(host, time.time() - 61).encode())
    with WriterLock(storage, "curate"):
        assert b"curate" in storage.read_bytes(NAME)
