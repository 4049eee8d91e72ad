"""Parts, packs, damage, the writer lock: what a kill at any point may leave, and what readers then see."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from orchestration.ledger import DamagedPart, Ledger
from orchestration.lock import Locked, WriterLock
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
    ledger.pack(at_least=1)
    assert rows(ledger) == [*expected, ("k010", 10)]


def test_kill_between_writing_a_pack_and_removing_its_parts(ledger, monkeypatch):
    expected = fill(ledger, 6)
    monkeypatch.setattr(Storage, "remove", lambda self, name: None)
    ledger.pack(at_least=1)
    assert rows(ledger) == expected
    monkeypatch.undo()
    ledger.pack(at_least=1)
    assert rows(ledger) == expected
    assert len(ledger.storage.list("scan")) == 1


def test_rows_can_be_removed_from_loose_parts_and_packs(ledger):
    expected = fill(ledger, 6)
    ledger.pack(at_least=1)
    ledger.commit("k006", {"key": "k006", "value": 6})
    assert ledger.rewrite_without({"k002", "k006"}, "key") == 2
    assert rows(ledger) == [row for row in expected if row[0] != "k002"]


def test_a_damaged_part_fails_loudly_with_its_name(ledger, tmp_path):
    fill(ledger, 3)
    part = tmp_path / "scan" / "k001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(DamagedPart, match=r"k001\.parquet"):
        rows(ledger)


def test_a_write_that_fails_leaves_nothing(tmp_path):
    storage = Storage(tmp_path)
    with pytest.raises(RuntimeError), storage.open_write("a/b.bin") as file:
        file.write(b"half")
        raise RuntimeError
    assert storage.list("a") == []
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_older_parts_lack_newer_columns(ledger, tmp_path):
    fill(ledger, 2)
    wider = Ledger(ledger.storage, "scan", SCHEMA.append(pa.field("extra", pa.string())), "key")
    assert [row["extra"] for table in wider.read() for row in table.to_pylist()] == [None, None]


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
