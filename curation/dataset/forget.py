"""`rushes forget`: take a video down. Its rows and media go, a tombstone stays that blocks it from coming back."""

from __future__ import annotations

import contextlib
import datetime
import json
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from curation.dataset.records import cuts, embeddings, scans, tombstones
from curation.duplicates.pairs import PAIRS
from curation.rules.decide import Damage
from curation.schema import CLIPS
from curation.scorers import score_columns
from curation.select import SELECTION, read_funnel, read_selection, select_dataset
from orchestration.errors import ConfigError, RushesError
from orchestration.ledger import Ledger
from orchestration.lock import WriterLock
from orchestration.storage import Storage
from orchestration.tables import settle

PLACES = pa.schema([("key", pa.string()), ("video_id", pa.string())])  # what rows of scores of any kind have


def forget(storage: Storage, video_id: str) -> dict[str, int]:
    """Counts of what was removed: {"clips", "rows", "media"}.

    `video_id` may be shortened to 16 digits or more. The tombstone is written first and the scan rows go last: after a
    kill at any point nothing can return, and the same call does the rest. Raises ConfigError where nothing of that id
    is known.
    """
    with WriterLock(storage, "forget"):
        settle(storage)
        full = _resolve(storage, video_id)
        forgotten = tombstones(storage).keys()
        if full not in forgotten:
            today = datetime.datetime.now(datetime.UTC).date().isoformat()
            tombstones(storage).commit(full, {"video_id": full, "date": today})
        media = _drop_folder(storage, f"media/{full}")
        _drop_folder(storage, "report")  # it and its pages show pictures of the video; each command makes its page anew
        _drop(storage, "captions", "clip_id", f"{full[:16]}-")
        _drop_shards(storage, f"{full[:16]}-")
        _drop_listed(storage, "captioned", "captions", "clip_id", f"{full[:16]}-")
        vectors = embeddings(storage).rewrite_without({full}, "video_id")
        storage.remove(PAIRS)  # made of the vectors, and made anew where clips are decided
        clips = _drop(storage, "clips", "video_id", full)
        _decide_anew(storage)
        rows = vectors + _drop(storage, "videos", "video_id", full)
        for folder in sorted({name.rsplit("/", 1)[0] for name in storage.list("scores", ".parquet")}):
            rows += Ledger(storage, folder, PLACES, "key").rewrite_without({full}, "video_id")
        rows += cuts(storage).rewrite_without({full}, "video_id")
        _drop_metrics(storage, _uris(storage, full))
        rows += scans(storage).rewrite_without({full}, "video_id")
        return {"clips": clips, "rows": rows, "media": media}


def _resolve(storage: Storage, video_id: str) -> str:
    if len(video_id) < 16:
        raise ConfigError("give at least 16 digits of the video id (a clip id begins with them)")
    known = {name for table in scans(storage).read(["video_id"]) for name in table.column(0).to_pylist() if name}
    found = {name for name in known | tombstones(storage).keys() if name.startswith(video_id)}
    if len(found) != 1:
        what = "several videos begin" if found else "no video begins"
        raise ConfigError(f"{what} with {video_id!r} in {storage.uri}; ids are in videos/*.parquet")
    return found.pop()


def _uris(storage: Storage, video_id: str) -> set[str]:
    """Every place where the video was ever found."""
    return {
        uri
        for table in scans(storage).read(["video_id", "uri"])
        for found, uri in zip(*(column.to_pylist() for column in table.columns), strict=True)
        if found == video_id
    }


def _drop_folder(storage: Storage, folder: str) -> int:
    count = len(storage.list(folder))
    storage.remove_folder(folder)
    return count


def _drop(storage: Storage, folder: str, column: str, start: str) -> int:
    """Rewrite the files of a table without the rows whose `column` begins with `start`; returns how many went."""
    removed = 0
    for name in storage.list(folder, ".parquet"):
        with storage.open_read(name) as source, pq.ParquetFile(source) as file:
            groups = range(file.num_row_groups)
            marks = [file.read_row_group(group, [column]).column(0).to_pylist() for group in groups]
            keep = [[not (text or "").startswith(start) for text in texts] for texts in marks]
            gone = sum(flags.count(False) for flags in keep)
            if not gone:
                continue
            with (
                storage.open_write(name) as target,
                pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer,
            ):
                for group in groups:
                    writer.write_table(file.read_row_group(group).filter(pa.array(keep[group], pa.bool_())))
        removed += gone
    return removed


def _drop_shards(storage: Storage, start: str) -> None:
    """Remove shards of latents with samples whose key begins with `start`, and the indexes that name them: `rushes
    latents` makes both anew, without those samples."""
    _drop(storage, "samples", "clip_id", start)
    if storage.exists("latents/decoded"):
        for name in storage.list("latents/decoded"):
            if name.rpartition("/")[2].startswith(start):
                storage.remove(name)
    for file in storage.list("encoded", ".parquet"):
        with storage.open_read(file) as source:
            table = pq.read_table(source)
        rows = table.to_pylist()
        doomed = [row for row in rows if any(key.startswith(start) for key in row["planned"])]
        for row in doomed:  # files go before the rows that name them, so that a kill leaves them to the next call
            storage.remove(f"latents/{row['bucket']}/index.json")
            if row["name"]:
                storage.remove(f"latents/{row['bucket']}/{row['name']}")
        if len(doomed) == len(rows):
            storage.remove(file)
        elif doomed:
            storage.write_table(file, pa.Table.from_pylist([row for row in rows if row not in doomed], table.schema))


def _drop_listed(storage: Storage, folder: str, column: str, name: str, start: str) -> None:
    """Rewrite files whose rows hold lists of structs in `column`, without the structs whose `name` begins with
    `start`."""
    for file in storage.list(folder, ".parquet"):
        with storage.open_read(file) as source:
            table = pq.read_table(source)
        rows = table.to_pylist()
        left = [{**row, column: [one for one in row[column] if not one[name].startswith(start)]} for row in rows]
        if left == rows:
            continue
        if left := [row for row in left if row[column]]:
            storage.write_table(file, pa.Table.from_pylist(left, table.schema))
        else:
            storage.remove(file)


def _decide_anew(storage: Storage) -> None:
    """Decide the clips that are left by the rules of the last time. Where that cannot be done no decision is left, and
    `rushes select` is asked for."""
    if not storage.exists(SELECTION):
        return
    with contextlib.suppress(RushesError):
        rules, funnel = read_selection(storage), read_funnel(storage)
        if rules and funnel:
            select_dataset(storage, rules, (*CLIPS, *score_columns()), damage=cast(Damage, funnel.damage))
            return
    storage.remove(SELECTION)


def _drop_metrics(storage: Storage, uris: set[str]) -> None:
    """Take the lines that name one of `uris` out of the metrics of all runs."""
    for name in storage.list("runs", "/metrics.jsonl"):
        lines = storage.read_bytes(name).splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line).get("uri") not in uris]
        if len(kept) < len(lines):
            storage.write_bytes(name, b"".join(kept))
