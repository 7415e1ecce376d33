"""Rows of JSONL, JSON and Parquet files (the first two also gzipped), streamed, each with its file and row number.

What is wrong with one row is a `BadRow`, which the caller counts; what is wrong with a whole file (a truncated gzip,
a damaged Parquet) is an `InputError`, as nobody knows what is missing.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from rlhf_trainer.data.rows import Where
from rlhf_trainer.exits import InputError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".jsonl.gz", ".ndjson.gz", ".json.gz")
"""Files that hold rows."""
NOT_DATA = {"manifest.json", "dataset_infos.json", "dataset_dict.json", "dataset_info.json", "state.json"}
"""Files of a data folder that describe it."""
BOM = b"\xef\xbb\xbf"
SPLIT_WORDS = ("train", "test", "validation", "valid", "val", "dev", "eval", "heldout")
BATCH_ROWS = 1024


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


def select_files(path: Path, subset: str | None = None, split: str | None = None) -> list[Path]:
    """The data files below `path` that belong to `subset` and `split`, sorted.

    Raises:
        InputError: nothing fits.
    """
    if path.is_file():
        if not is_data(path):
            raise InputError(f"{path}: cannot be read as rows; expected one of {', '.join(SUFFIXES)}")
        return [path]
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    below = (file.relative_to(path) for file in path.rglob("*") if file.is_file() and is_data(file))
    names = [name.as_posix() for name in below if not any(part.startswith(".") for part in name.parts)]
    return [path / name for name in choose(str(path), names, card(path), subset, split)]


def choose(place: str, names: list[str], front: dict[str, Any], subset: str | None, split: str | None) -> list[str]:
    """Of a folder's or repository's data files those of `subset` and `split`, sorted.

    A data set card that lists its configurations (`front`) is followed. Otherwise `subset` is a glob or the name of a
    folder, and a file belongs to a split when its path names it (`train.jsonl`, `data/test-00000-of-00001.parquet`).
    Without `split`, the files of `train`; where no path names a split, or there is one file only, all.

    Raises:
        InputError: nothing fits.
    """
    if not names:
        raise InputError(f"{place}: holds no data file; expected one of {', '.join(SUFFIXES)}")
    carded = _from_card(place, names, front, subset, split)
    if carded is not None:
        return carded
    chosen = sorted(names)
    if subset is not None:
        chosen = [name for name in chosen if fnmatch(name, subset) or subset in name.split("/")[:-1]]
        if not chosen:
            raise InputError(f"{place}: input.subset {subset!r} matches no file; found {', '.join(sorted(names)[:8])}")
    return _of_split(place, chosen, split)


def is_data(path: Path) -> bool:
    """Whether a file's name is one of a file of rows."""
    return path.name not in NOT_DATA and path.name.lower().endswith(SUFFIXES)


def card(path: Path) -> dict[str, Any]:
    """The YAML front matter of a folder's README.md (a model or data set card); empty where there is none."""
    readme = path / "README.md"
    if not readme.is_file():
        return {}
    match = re.match(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", readme.read_text("utf-8", errors="replace"), re.DOTALL)
    if match is None:
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        front = YAML(typ="safe", pure=True).load(match[1])
    except YAMLError:
        return {}  # a card is for people; one that is no YAML tells us nothing
    return front if isinstance(front, dict) else {}


def _from_card(
    place: str, names: list[str], front: dict[str, Any], subset: str | None, split: str | None
) -> list[str] | None:
    """Files as the card's `configs` say; None where it says nothing of them."""
    listed = front.get("configs")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    named = {str(entry.get("config_name", "default")): entry for entry in entries if "data_files" in entry}
    default = next((name for name, entry in named.items() if entry.get("default")), "default")
    if subset is None and default not in named and len(named) > 1:
        raise InputError(f"{place}: has several configurations ({', '.join(named)}); set input.subset to one")
    wanted = subset if subset is not None else (default if default in named else next(iter(named), None))
    if wanted is None or wanted not in named:
        return None
    patterns = _patterns(named[wanted]["data_files"], split or "train")
    files = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in patterns))
    if not files:
        raise InputError(f"{place}: configuration {wanted!r} has no file of split {split or 'train'!r}")
    return files


def _patterns(data_files: Any, split: str) -> list[str]:
    """Globs of a split; `data_files` is a glob, a list of globs, or a list of {split, path}."""
    entries = data_files if isinstance(data_files, list) else [data_files]
    found: list[str] = []
    for entry in entries:
        if isinstance(entry, dict):
            if entry.get("split") == split:
                paths = entry.get("path")
                found.extend(map(str, paths if isinstance(paths, list) else [paths]))
        elif split == "train":
            found.append(str(entry))
    return found


def _of_split(place: str, names: list[str], split: str | None) -> list[str]:
    splits = {name: _split_of(name) for name in names}
    known = sorted({found for found in splits.values() if found is not None})
    if split is None and (not known or len(names) == 1):
        return names
    wanted = split or "train"
    chosen = [name for name in names if splits[name] == wanted or wanted in re.split(r"[-_./]", name)]
    if not chosen:
        listed = ", ".join(known) or "none, as no path names one"
        raise InputError(f"{place}: no file of split {wanted!r}; splits found: {listed}. Set input.split")
    return chosen


def _split_of(name: str) -> str | None:
    words = [word for part in reversed(name.split("/")) for word in re.split(r"[-_.]", part.lower())]
    return next((word for word in words if word in SPLIT_WORDS), None)


def _read_file(file: Path, name: str) -> Iterator[RawRow | BadRow]:
    plain = name.lower().removesuffix(".gz")
    if plain.endswith(".parquet"):
        yield from _read_parquet(file, name)
        return
    counter = _Counter()
    try:
        with _open(file) as stream:
            rows = _read_json(stream, name) if plain.endswith(".json") else _read_lines(stream, name)
            for row in rows:
                counter.row = row.where.row
                yield row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{name}:{counter.row + 1}: the gzip file ends early or is damaged ({error}); "
            f"{counter.row} rows could be read. Fetch or compress it again"
        ) from error


@dataclass
class _Counter:
    row: int = 0


def _open(file: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file, "rb")) if file.name.lower().endswith(".gz") else file.open("rb")


def _read_lines(stream: Iterable[bytes], name: str) -> Iterator[RawRow | BadRow]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield _object(line, Where(name, number))


def _object(line: bytes, where: Where) -> RawRow | BadRow:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadRow(where, _explain(line, error))
    return _row(value, where)


def _row(value: Any, where: Where) -> RawRow | BadRow:
    if isinstance(value, dict):
        return RawRow(where, value)
    return BadRow(where, f"found {describe(value)}, expected an object of columns")


def _explain(line: bytes, error: orjson.JSONDecodeError) -> str:
    if line.startswith(BOM):
        return "starts with a byte-order mark; expected UTF-8 without one"
    try:
        line.decode()
    except UnicodeDecodeError as wrong:
        return f"is not UTF-8 (byte {wrong.start + 1}: {wrong.reason}); save the file as UTF-8"
    if re.search(rb"[:\[,]\s*(NaN|-?Infinity)\b", line):
        return "holds NaN or Infinity, which JSON does not have; expected a number or null"
    if not line.endswith(b"\n"):
        return f"the last line is no whole JSON object ({error.msg}, column {error.colno}); the file may be truncated"
    return f"is no JSON object ({error.msg}, column {error.colno})"


def _read_json(stream: BinaryIO, name: str) -> Iterator[RawRow | BadRow]:
    """A list of rows, `{"data": [rows]}`, or - under the name `.json` - JSON lines."""
    content = stream.read()
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        if content.lstrip()[:1] == b"{" and b"\n" in content.strip():
            yield from _read_lines(content.splitlines(keepends=True), name)
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


def _read_parquet(file: Path, name: str) -> Iterator[RawRow | BadRow]:
    import pyarrow  # type: ignore[import-untyped]  # ships no types
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                for value in batch.to_pylist():
                    number += 1
                    yield RawRow(Where(name, number), value)
    except (pyarrow.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0]
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
