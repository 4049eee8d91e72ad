"""The engine on real Ray: every row is accounted for, whatever its worker does."""

from __future__ import annotations

import os
import signal
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_workers import SCHEMA, Broken, Make

from orchestration.ledger import Ledger
from orchestration.runner import Stalled, WorkerFailed, run_rows
from orchestration.session import RayConfig, Stopped, engine
from orchestration.storage import Storage


def drive(tmp_path, rows, make=Make, **settings):
    ledger = Ledger(Storage(tmp_path / "out"), "parts", SCHEMA, "key")
    listing = tmp_path / "listing.parquet"
    pq.write_table(pa.Table.from_pylist(rows), listing)

    def crashed(row, reason):
        ledger.commit(row["key"], {"key": row["key"], "status": reason})
        return {"key": row["key"], "status": reason}

    with engine(RayConfig(workers=2, **settings), tmp_path / "ray.txt") as running:
        receipts = run_rows(
            running,
            [str(listing)],
            make(str(tmp_path / "out")),
            key="key",
            is_committed=ledger.has,
            crashed=crashed,
            on_progress=lambda frames, busy: None,
        )
        got = list(receipts)
    return got, {row["key"]: row["status"] for table in ledger.read() for row in table.to_pylist()}


def test_poison_rows_get_a_reason_and_neighbours_are_untouched(tmp_path):
    whats = ["fine"] * 10
    whats[3] = whats[7] = "die"
    rows = [{"key": f"k{number}", "what": what} for number, what in enumerate(whats)]
    receipts, committed = drive(tmp_path, rows)
    assert sorted(receipt["key"] for receipt in receipts) == sorted(row["key"] for row in rows)
    assert [key for key, status in committed.items() if status == "ok"] == [
        f"k{number}" for number in range(10) if number not in (3, 7)
    ]
    assert committed["k3"] == committed["k7"] == "crashed: its worker process died twice"


def test_a_run_that_does_not_move_says_where(tmp_path):
    with pytest.raises(Stalled, match="working on k0"):
        drive(tmp_path, [{"key": "k0", "what": "hang"}], stall_s=25)


def test_sigterm_stops_the_run_cleanly(tmp_path):
    timer = threading.Timer(25, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Stopped, match="run the same command again"):
        drive(tmp_path, [{"key": "k0", "what": "hang"}])
    timer.cancel()


@pytest.mark.parametrize(("what", "make", "words"), [("raise", Make, "no good"), ("fine", Broken, "no credentials")])
def test_what_workers_raise_is_not_blamed_on_videos(tmp_path, what, make, words):
    with pytest.raises(WorkerFailed, match=words):
        drive(tmp_path, [{"key": "k0", "what": what}], make=make)
    assert not (tmp_path / "out" / "parts").exists()
