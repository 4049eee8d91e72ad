"""Tables of captions: CSV (Open-Sora, Panda-70M, OpenVid, metadata.csv), JSON lines and arrays, Parquet. Streamed."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Cells
from dataclasses import replace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from captioning.brought.columns import Mapping, recognise
from captioning.brought.config import BroughtConfig
from captioning.brought.files import TABLES, address, label, open_file, suffix
from captioning.brought.rows import Problem, Row, RowError, listed, make_row, quoted
from curation.fetch import shown
from curation.ingest import Listed
from orchestration.errors import RushesError

MAX_RECORD = 16 * 2**20  # bytes of a line, or of a cell with line breaks in it, behind which reading can go on
MAX_ARRAY = 512 * 2**20  # a JSON array is read whole
BATCH = 256  # rows of Parquet
_LOOK = 100  # records whose keys are the columns of JSON, and whose values say what a column of times is
Record = tuple[str, Cells[str, Any] | str]  # (line or row number, cells by column or why they cannot be read)


class Unread(Exception):
    """Nothing, or nothing more, of a file can be read; the message says why."""


class Table:
    """One file. `mapping` is what its columns are, or why they are not what is looked for."""

    def __init__(self, item: Listed, root: str, config: BroughtConfig):
        """Reads the beginning. Raises ConfigError where several columns could be the path or the caption."""
        self.name = label(item, root)
        self._item, self._config = item, config
        self._folder = address(item.uri).rpartition("/")[0]
        self.mapping: Mapping | str = ""
        for _ in self._records():
            break

    def rows(self) -> Iterator[Row | Problem]:
        """Rows and problems in the order of the file; none where the mapping failed (see `mapping`)."""
        for where, cells in self._records():
            place = f"{self.name}:{where}" if where else self.name
            try:
                if isinstance(cells, str):
                    raise RowError(cells)
                yield self._row(place, cells)
            except RowError as error:
                yield Problem(place, str(error))

    def _records(self) -> Iterator[Record]:
        """Of a recognised table; recognises it on the way."""
        try:
            with open_file(self._item) as file:
                columns, read = _OPEN[TABLES.get(suffix(self._item.uri), "json")](file)
                mapping = recognise(columns, self._config, self.name)
                if isinstance(mapping, str):
                    self.mapping = mapping
                    return
                records = _to_the_end(read(mapping.columns))
                head = list(itertools.islice(records, _LOOK))
                self.mapping = _with_spans(mapping, head)
                yield from itertools.chain(head, records)
        except RushesError:
            raise
        except Exception as error:
            self.mapping = _reason(error)

    def _row(self, where: str, cells: Cells[str, Any]) -> Row:
        assert isinstance(self.mapping, Mapping)
        span: Any = None
        if self.mapping.span:
            values = [cells.get(column) for column in self.mapping.span]
            if any(value not in (None, "") for value in values):
                span = values[0] if len(values) == 1 else values
        return make_row(
            self.name, where, self._folder, cells.get(self.mapping.path), cells.get(self.mapping.caption), span
        )


def _to_the_end(records: Iterator[Record]) -> Iterator[Record]:
    """A damaged file ends in a record that says so: what was read of it, and the other files, stay."""
    try:
        yield from records
    except Exception as error:
        yield "", _reason(error)


def _reason(error: Exception) -> str:
    # Drivers and Arrow have errors of their own.
    return str(error) if isinstance(error, Unread) else f"cannot be read: {quoted(shown(str(error)))}"


def _with_spans(mapping: Mapping, head: list[Record]) -> Mapping:
    """Without its one column of times where that holds something else, such as dates."""
    if len(mapping.span) != 1:
        return mapping
    values = (cells.get(mapping.span[0]) for _, cells in head if not isinstance(cells, str))
    first = next((value for value in values if value not in (None, "")), None)
    return mapping if listed(first) else replace(mapping, span=())


Reader = tuple[list[str], Callable[[list[str]], Iterator[Record]]]  # columns, and records with some of them


def _csv(file: IO[bytes]) -> Reader:
    lines = _decoded(file)
    first = next(lines, "")
    reader = csv.reader(itertools.chain([first], lines), delimiter=max(",;\t", key=first.count))
    columns = [cell.strip() for cell in _next(reader) or []]

    def read(_: list[str]) -> Iterator[Record]:
        while True:
            line = reader.line_num + 1
            try:
                cells = _next(reader)
            except csv.Error as error:
                if "field limit" in str(error):
                    raise Unread(
                        f"a cell that begins in line {line} has no end within {MAX_RECORD // 2**20} MiB (a quote that "
                        "is not closed?); what follows it was not read"
                    ) from error
                yield str(line), f"no CSV: {error}"
                continue
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) > len(columns):
                yield str(line), f"{len(cells)} cells for {len(columns)} columns; is text with a comma quoted?"
            else:
                yield str(line), dict(zip(columns, cells, strict=False))

    return columns, read


def _decoded(file: IO[bytes]) -> Iterator[str]:
    """Bytes that are not UTF-8 become surrogates, which the cells are checked for."""
    for number, line in _lines(file):
        if line is None:
            raise Unread(f"line {number} is longer than {MAX_RECORD // 2**20} MiB; it and what follows was not read")
        yield line.decode(errors="surrogateescape")


def _next(reader: Any) -> list[str] | None:
    before = csv.field_size_limit(MAX_RECORD)  # a setting of the whole process
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(before)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """(number, line) split at line feeds only, without a byte order mark; None in place of one that is too long."""
    for number in itertools.count(1):
        line = file.readline(MAX_RECORD)
        if not line:
            return
        if len(line) == MAX_RECORD and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_RECORD)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _jsonl(file: IO[bytes]) -> Reader:
    return _objects(_json_lines(file))


def _json_lines(file: IO[bytes]) -> Iterator[Record]:
    for number, line in _lines(file):
        if line is None:
            yield str(number), f"longer than {MAX_RECORD // 2**20} MiB"
        elif line.strip():
            try:
                value = json.loads(line.decode())
            except (ValueError, RecursionError) as error:
                yield str(number), "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"no JSON: {error}"
                continue
            yield str(number), value if isinstance(value, dict) else "no JSON object"


def _json(file: IO[bytes]) -> Reader:
    data = file.read(MAX_ARRAY + 1)
    if len(data) > MAX_ARRAY:
        raise Unread(f"larger than {MAX_ARRAY // 2**20} MiB; write it as JSON lines")
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Unread(f"no JSON: {error}") from error
    if not isinstance(value, list):
        raise Unread("no JSON array of objects")
    return _objects(
        (f"item {number}", item if isinstance(item, dict) else "no JSON object") for number, item in enumerate(value, 1)
    )


def _objects(records: Iterator[Record]) -> Reader:
    head = list(itertools.islice(records, _LOOK))
    columns = list(dict.fromkeys(key for _, cells in head if not isinstance(cells, str) for key in cells))
    return columns, lambda _: itertools.chain(head, records)


def _parquet(file: IO[bytes]) -> Reader:
    table = pq.ParquetFile(file)
    schema = table.schema_arrow

    def read(columns: list[str]) -> Iterator[Record]:
        # A video column of Hugging Face is {bytes, path}: the bytes stay where they are.
        wanted = [f"{c}.path" if _is_media(schema.field(c).type) else c for c in columns]
        number = 0
        for batch in table.iter_batches(batch_size=BATCH, columns=wanted):
            for i in range(len(batch)):
                number += 1
                try:
                    yield f"row {number}", {name: batch.column(name)[i].as_py() for name in batch.schema.names}
                except UnicodeDecodeError:
                    yield f"row {number}", "not UTF-8"

    return schema.names, read


def _is_media(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("path") >= 0


_OPEN: dict[str, Callable[[IO[bytes]], Reader]] = {"csv": _csv, "jsonl": _jsonl, "json": _json, "parquet": _parquet}
