"""Rows of JSONL, JSON, CSV, TSV and Parquet files, streamed, each with its file and row number; all but Parquet also
compressed by gzip or zstd.

What is wrong with one row is a `BadRow`, which the caller counts; what is wrong with a whole file (a truncated gzip,
a damaged Parquet) is an `InputError`, as nobody knows what is missing.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from rlhf_api.bounded import MAX_DEPTH, Unreadable, is_deeper, lines, mistaken, unpacked
from rlhf_trainer.data.rows import Where
from rlhf_trainer.exits import InputError
from rlhf_trainer.sources.choose import select_files

BOM = b"\xef\xbb\xbf"
BATCH_ROWS = 1024
LONGEST_CELL = 2**24
"""Characters of one CSV cell, and of a line; a quote that is never closed would make one of the whole file."""
MAX_EMPTY = 100_000
"""Empty lines of a file, which are left out."""
MAX_JSON = 1 << 28
"""Bytes of a `.json` file, which is read whole."""


class Cell(str):
    """A CSV cell: text whose type the file does not tell. Whoever reads the column knows it."""

    __slots__ = ()


@dataclass(frozen=True)
class RawRow:
    """A row as it was written: column to value."""

    where: Where
    value: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that is no object of columns."""

    where: Where
    problem: str
    """What was found and what was expected."""


def read_rows(path: Path, subset: str | None = None, split: str | None = None) -> Iterator[RawRow | BadRow]:
    """Every row of a file, or of a folder's files in the order of their paths.

    Raises:
        InputError: no such file, no file of a kind that can be read, or a file damaged as a whole.
    """
    for file in select_files(path, subset, split):
        name = file.name if file == path else file.relative_to(path).as_posix()
        yield from _read_file(file, name)


def _read_file(file: Path, name: str) -> Iterator[RawRow | BadRow]:
    what = mistaken(file)
    if what is not None:
        raise InputError(f"{name}:1: found {what}")
    plain = name.lower().removesuffix(".gz").removesuffix(".zst")
    if plain.endswith(".parquet"):
        yield from _read_parquet(file, name)
        return
    counter = _Counter()
    try:
        with _open(file, name) as stream:
            for row in _reader(plain)(stream, name):
                counter.row = row.where.row
                yield row
    except Unreadable as error:
        raise InputError(f"{error} ({counter.row} rows could be read)") from error
    except DAMAGED as error:
        if not name.lower().endswith(COMPRESSED):
            raise
        raise InputError(
            f"{name}:{counter.row + 1}: the {'zstd' if name.lower().endswith('.zst') else 'gzip'} file ends early or is "
            f"damaged ({error}); {counter.row} rows could be read. Fetch or compress it again"
        ) from error


DAMAGED = (EOFError, OSError, zlib.error)
COMPRESSED = (".gz", ".zst")
Reader = Callable[[BinaryIO, str], Iterator["RawRow | BadRow"]]


def _reader(plain: str) -> Reader:
    """What reads a file of that name."""
    if plain.endswith((".csv", ".tsv")):
        return _read_csv
    return _read_json if plain.endswith(".json") else _read_lines


@dataclass
class _Counter:
    row: int = 0


def _open(file: Path, name: str) -> BinaryIO:
    suffix, packed = file.suffix.lower(), file.open("rb")
    if suffix == ".gz":
        return unpacked(cast(BinaryIO, gzip.GzipFile(fileobj=packed, mode="rb")), packed, name)
    if suffix == ".zst":
        import pyarrow  # type: ignore[import-untyped]  # ships no types

        return unpacked(pyarrow.CompressedInputStream(packed, "zstd"), packed, name)
    return packed


def _read_lines(stream: BinaryIO, name: str) -> Iterator[RawRow | BadRow]:
    empty = 0
    for number, line in enumerate(lines(stream, name), start=1):
        if line.strip():
            yield _object(line, Where(name, number))
            continue
        empty += 1
        if empty > MAX_EMPTY:
            raise Unreadable(f"{name}:{number}: more than {MAX_EMPTY} empty lines; expected rows")


def _object(line: bytes, where: Where) -> RawRow | BadRow:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadRow(where, _explain(line, error))
    return _row(value, where)


def _row(value: Any, where: Where) -> RawRow | BadRow:
    if isinstance(value, dict):
        if where.row == 1 and _is_table(value):
            names = ", ".join(list(value)[:4])
            return BadRow(
                where,
                f"found a whole table in one object ({names}); expected an object a row (pandas writes them "
                'with to_json(path, orient="records", lines=True))',
            )
        deep = is_deeper(value, MAX_DEPTH)
        return BadRow(where, f"nested more than {MAX_DEPTH} deep") if deep else RawRow(where, value)
    hint = " (a list of rows is a .json file)" if isinstance(value, list) else ""
    return BadRow(where, f"found {describe(value)}, expected an object of columns{hint}")


def _explain(line: bytes, error: orjson.JSONDecodeError) -> str:
    if line.startswith(BOM):
        return "starts with a byte-order mark; expected UTF-8 without one"
    try:
        line.decode()
    except UnicodeDecodeError as wrong:
        return f"is not UTF-8 (byte {wrong.start + 1}: {wrong.reason}); save the file as UTF-8"
    if re.search(rb"[:\[,]\s*(NaN|-?Infinity)\b", line):
        return "holds NaN or Infinity, which JSON does not have; expected a number or null"
    if line.strip() in (b"{", b"["):
        return (
            "begins an object or list that goes on in the next lines; expected one row a line (or name the file .json)"
        )
    if b"\r{" in line and b"\n" not in line.strip():
        return "ends its lines with CR alone, as old Macs did; expected LF or CRLF"
    if line.lstrip().startswith(b"{'"):
        return "is no JSON object: its texts are in single quotes, as Python prints them; expected double ones"
    if not line.endswith(b"\n"):
        return f"the last line is no whole JSON object ({error.msg}, column {error.colno}); the file may be truncated"
    return f"is no JSON object ({error.msg}, column {error.colno})"


def _read_json(stream: BinaryIO, name: str) -> Iterator[RawRow | BadRow]:
    """A list of rows, `{"data": [rows]}`, or - under the name `.json` - JSON lines."""
    content = stream.read(MAX_JSON + 1)
    if len(content) > MAX_JSON:
        raise InputError(f"{name}: has more than {MAX_JSON >> 20} MiB; expected JSON lines (.jsonl), one row a line")
    if not content.strip():
        raise InputError(f"{name}: is empty; expected rows")
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        if content.lstrip()[:1] == b"{" and b"\n" in content.strip():
            yield from _read_lines(io.BytesIO(content), name)
            return
        problem = _explain(content if content.endswith(b"\n") else content + b"\n", error)
        raise InputError(f"{name}:{error.lineno}: {problem}") from error
    rows = value.get("data") if isinstance(value, dict) and isinstance(value.get("data"), list) else value
    if isinstance(rows, dict):
        rows = [rows]
    if not isinstance(rows, list):
        raise InputError(f"{name}:1: found {describe(value)}, expected a list of rows, or an object with one in `data`")
    for number, row in enumerate(rows, start=1):
        yield _row(row, Where(name, number))


def _is_table(value: dict[str, Any]) -> bool:
    """Whether an object is a whole table: pandas' `{column: {"0": value}}`, `{"0": row}`, or lists of texts of one length.

    A single row may have lists too: of messages, which are objects.
    """
    columns = list(value.values())
    tables = [column for column in columns if isinstance(column, dict) and column]
    if tables and len(tables) == len(columns):
        return all(map(str.isdecimal, value)) or all(all(map(str.isdecimal, column)) for column in tables)
    lists = [column for column in columns if isinstance(column, list)]
    return (
        len(lists) == len(columns) > 1
        and len({len(column) for column in lists}) == 1
        and any(len(column) > 1 and all(isinstance(item, str) for item in column) for column in lists)
    )


def _read_csv(stream: BinaryIO, name: str) -> Iterator[RawRow | BadRow]:
    """Rows below a line of column names, as RFC 4180 quotes them; `.tsv` has tabs. Excel's byte-order mark is taken."""
    csv.field_size_limit(LONGEST_CELL)
    text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    number = 0
    try:
        rows = csv.reader(_short_lines(text), delimiter="\t" if ".tsv" in name.lower() else ",", strict=True)
        columns = next(rows, [])
        if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
            raise InputError(
                f"{name}:1: found one column, {columns[0]!r}; expected commas between columns (tabs in a .tsv file)"
            )
        if not all(columns) or len(set(columns)) < len(columns):
            raise InputError(f"{name}:1: found the column names {columns}; expected different ones, none empty")
        for cells in filter(None, rows):
            number += 1
            where = Where(name, number)
            if len(cells) == len(columns):
                yield RawRow(where, dict(zip(columns, map(Cell, cells), strict=True)))
            else:
                yield BadRow(where, f"found {len(cells)} cells, expected {len(columns)}, one a column name")
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{name}:{number + 1}: cannot be read as CSV ({error}); save the file as UTF-8") from error


def _short_lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(LONGEST_CELL + 1):
        if len(line) > LONGEST_CELL:
            raise csv.Error(f"a line of more than {LONGEST_CELL} characters")
        yield line


def _read_parquet(file: Path, name: str) -> Iterator[RawRow | BadRow]:
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                for value in batch.to_pylist():
                    number += 1
                    yield _row(value, Where(name, number))
    except Exception as error:  # the library's, or a text that is not UTF-8, or a time that Python has not
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name}:{number + 1}: cannot be read as Parquet ({problem}). Fetch it again") from error


def describe(value: Any) -> str:
    """A value in a few words, for messages: its type, and a short one itself."""
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"a string of {len(value)} characters"
    kind = (
        "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else f"a {type(value).__name__}"
    )
    return f"{kind} of {len(value)}" if hasattr(value, "__len__") else kind
