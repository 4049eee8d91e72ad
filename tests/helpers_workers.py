"""Workers for the engine's tests; Ray's own workers import them from here."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass

import pyarrow as pa

from orchestration.ledger import Ledger
from orchestration.storage import Storage

SCHEMA = pa.schema([("key", pa.string()), ("status", pa.string())])


@dataclass
class Make:
    """Makes workers that do what a row says: `fine`, `raise`, `die` (the process is killed), `hang`."""

    root: str

    def __call__(self):
        ledger = Ledger(Storage(self.root), "parts", SCHEMA, "key")

        def work(row, beat):
            beat(1, row["key"])
            if row["what"] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if row["what"] == "raise":
                raise ValueError("no good")
            if row["what"] == "hang":
                threading.Event().wait()
            ledger.commit(row["key"], {"key": row["key"], "status": "ok"})
            return {"key": row["key"], "status": "ok", "frames": 1}

        return work


@dataclass
class Broken:
    """Makes no workers at all."""

    root: str

    def __call__(self):
        raise OSError("no credentials")
