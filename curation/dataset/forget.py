"""`rushes forget`: take a video down. Its rows and media go, a tombstone stays that blocks it from coming back."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.dataset.records import cuts, scans, tombstones
from orchestration.errors import ConfigError
from orchestration.ledger import Ledger
from orchestration.lock import WriterLock
from orchestration.storage import Storage


def forget(storage: Storage, video_id: str) -> dict[str, int]:
    """Counts of what was removed. The tombstone is written first, so that a kill leaves nothing that can return.

    `video_id` may be shortened to 16 digits or more. Raises ConfigError where nothing of that id is known.
    """
    with WriterLock(storage, "forget"):
        full = _resolve(storage, video_id)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        tombstones(storage).commit(full, {"video_id": full, "date": today})
        clips = _drop(storage, "clips", "video_id", full)
        removed = {"clips": clips, "rows": _drop(storage, "videos", "video_id", full), "media": 0}
        _drop(storage, "selection.parquet", "clip_id", f"{full[:16]}-")
        for folder in ("captions", "embeddings"):
            _drop(storage, folder, "clip_id", f"{full[:16]}-")
        for name in storage.list(f"media/{full}"):
            storage.remove(name)
            removed["media"] += 1
        if storage.local:
            folder = storage.local_path(f"media/{full}")
            if folder.is_dir():
                folder.rmdir()
        removed["rows"] += scans(storage).rewrite_without({full}, "video_id")
        removed["rows"] += cuts(storage).rewrite_without({full}, "video_id")
        for folder in sorted({name.rsplit("/", 1)[0] for name in storage.list("scores", ".parquet")}):
            schema = pa.schema([("key", pa.string()), ("video_id", pa.string())])
            removed["rows"] += Ledger(storage, folder, schema, "key").rewrite_without({full}, "video_id")
        if storage.exists("report/index.html"):
            storage.remove("report/index.html")  # it shows pictures of the video; `rushes report` makes it anew
        return removed


def _resolve(storage: Storage, video_id: str) -> str:
    if len(video_id) < 16:
        raise ConfigError("give at least 16 digits of the video id (a clip id begins with them)")
    found = {
        name
        for table in scans(storage).read(["video_id"])
        for name in table.column(0).to_pylist()
        if name and name.startswith(video_id)
    }
    if len(found) != 1:
        what = "several videos begin" if found else "no video begins"
        raise ConfigError(f"{what} with {video_id!r} in {storage.uri}; ids are in videos/*.parquet")
    return found.pop()


def _drop(storage: Storage, name: str, column: str, value: str) -> int:
    """Rewrite the files of a table without the rows whose `column` begins with `value`; returns how many went."""
    files = [name] if name.endswith(".parquet") and storage.exists(name) else storage.list(name, ".parquet")
    removed = 0
    for file in files:
        with storage.open_read(file) as source:
            table = pq.read_table(source)
        keep = [not (text or "").startswith(value) for text in table.column(column).to_pylist()]
        if all(keep):
            continue
        removed += keep.count(False)
        storage.write_table(file, table.filter(pa.array(keep)))
    return removed


def forgotten(storage: Storage) -> list[dict[str, Any]]:
    return [row for table in tombstones(storage).read() for row in table.to_pylist()]
