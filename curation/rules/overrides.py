"""A person's word on single clips: `clip_id,decision,note`, one line a clip, written by hand or by a spreadsheet."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestration.errors import ConfigError
from orchestration.storage import Storage

_COLUMNS = ("clip_id", "decision", "note")
_SHOWN = 20  # problems named in one message


@dataclass(frozen=True)
class Overrides:
    """M decisions in the order of the file."""

    name: str = ""
    clip_ids: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))  # [M]
    keep: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # [M]
    reasons: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))  # [M] drop_reason of the dropped
    lines: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # [M] line in the file
    digest: str = ""  # changes with any decision or note, not with order, spaces or the name of the file

    def find(self, clip_ids: pa.Array) -> np.ndarray:
        """[n] int64: for each clip the decision about it, -1 where there is none."""
        if not len(self.clip_ids):
            return np.full(len(clip_ids), -1)
        index = pc.index_in(clip_ids, value_set=self.clip_ids)
        return pc.fill_null(index, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    def unknown(self, seen: np.ndarray) -> list[str]:
        """A line for each decision whose clip is not in the dataset; `seen` is [M] bool."""
        absent = np.flatnonzero(~seen)
        named = [f"{self.name}:{self.lines[i]}: there is no clip {self.clip_ids[i].as_py()!r}" for i in absent[:_SHOWN]]
        return named + [f"{self.name}: {len(absent) - _SHOWN} more clips that are not there"] * (len(absent) > _SHOWN)


def read_overrides(storage: Storage, name: str) -> Overrides:
    """Read `name` in the dataset. ConfigError names every malformed line."""
    if name.startswith("/") or ".." in name.split("/"):
        raise ConfigError(f"select.overrides: {name} has to be a path inside the dataset {storage.uri}")
    if not storage.exists(name):
        raise ConfigError(f"select.overrides: there is no {name} in {storage.uri}")
    return parse_overrides(storage.read_bytes(name), name)


def parse_overrides(data: bytes, name: str) -> Overrides:
    """`data` is UTF-8 CSV, with or without a byte order mark, split by commas or, as spreadsheets in half of Europe
    write it, by semicolons."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{name}:{line}: not UTF-8; save it as `CSV UTF-8`") from error
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in first and "," not in first else ",")
    try:
        header, rows = _rows(reader)
    except csv.Error as error:
        raise ConfigError(f"{name}:{reader.line_num}: {error}") from error
    if set(header) - set(_COLUMNS) or not {"clip_id", "decision"} <= set(header) or len(set(header)) < len(header):
        raise ConfigError(
            f"{name}:1: expected the columns clip_id,decision,note, found {','.join(header) or 'nothing'}"
        )
    decisions: dict[str, tuple[int, bool, str]] = {}
    problems = []
    for line, cells in rows:
        if len(cells) > len(header):
            problems.append(
                f"{name}:{line}: {len(cells)} cells for {len(header)} columns; quote a note with commas in it"
            )
            continue
        row = dict(zip(header, cells, strict=False))
        clip_id, decision = row["clip_id"], row.get("decision", "").lower()
        if not clip_id:
            problems.append(f"{name}:{line}: no clip_id")
        elif decision not in ("keep", "drop"):
            problems.append(f"{name}:{line}: {clip_id}: decision {decision!r} is neither keep nor drop")
        elif clip_id in decisions:
            problems.append(f"{name}:{line}: {clip_id} was already decided in line {decisions[clip_id][0]}")
        else:
            decisions[clip_id] = (line, decision == "keep", row.get("note", ""))
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] * (len(problems) > _SHOWN)
        raise ConfigError("; ".join(problems[:_SHOWN] + more))
    digest = hashlib.sha256(repr(sorted((key, keep, note) for key, (_, keep, note) in decisions.items())).encode())
    return Overrides(
        name=name,
        clip_ids=pa.array(list(decisions), pa.string()),
        keep=np.array([keep for _, keep, _ in decisions.values()], bool),
        reasons=pa.array(
            [f"dropped by hand: {note}" if note else "dropped by hand" for _, _, note in decisions.values()],
            pa.string(),
        ),
        lines=np.array([line for line, _, _ in decisions.values()], np.int64),
        digest=digest.hexdigest()[:16],
    )


def _rows(reader) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header in lower case, and every line that is not blank with its number; spaces around cells are dropped."""
    header = [cell.strip().lower() for cell in next(reader, [])]
    while header and not header[-1]:
        header.pop()
    rows = []
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        while len(cells) > len(header) and not cells[-1]:  # spreadsheets pad lines with empty cells
            cells.pop()
        if any(cells):
            rows.append((reader.line_num, cells))
    return header, rows
