"""Facts of a job's inputs that lie on this machine: shapes of models, longest rows of data. Reads headers, no weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from rlhf_api.bounded import exists, gunzip, lines, open_regular, read_object
from rlhf_api.gguf import read_header
from rlhf_api.job import RLHFJob
from rlhf_api.memory.facts import ModelFacts
from rlhf_api.packages import package_folder
from rlhf_api.sources import parse_source

BYTES_A_TOKEN = 3
"""Of a row's texts, all of them together: English has 4 to 5, so that a row is rather taken for too long."""
MAX_DATA = 1 << 28
"""Larger files are not read for their longest row."""


def look(job: RLHFJob, folder: Path) -> tuple[dict[str, ModelFacts], dict[str, int]]:
    """What this machine knows of the inputs.

    Args:
        job: A valid job.
        folder: The job file's: relative paths are taken from it.

    Returns:
        (facts of models, tokens of the longest row of data), by the input's name. What is not here, or cannot be
        read, is left out: `prepare` says what is wrong with it.
    """
    facts: dict[str, ModelFacts] = {}
    lengths: dict[str, int] = {}
    for entry in job.spec.inputs:
        path = local_path(entry.source, folder)
        if path is None or not exists(path):
            continue
        model = _model(path)
        if model is not None:
            facts[entry.name] = model
        elif path.is_file():
            longest = _longest(path)
            if longest is not None:
                lengths[entry.name] = longest
    return facts, lengths


def local_path(text: str, folder: Path) -> Path | None:
    """Where a source lies on this machine, if it does; relative paths are taken from `folder`."""
    source = parse_source(text)
    if source.kind == "path":
        return folder / source.location
    if source.kind != "package":
        return None
    package = package_folder(source.location)
    return package / source.path if package is not None else None


def _model(path: Path) -> ModelFacts | None:
    """The shape of a model folder or GGUF file; None for anything else."""
    try:
        if path.is_dir():
            if (path / "config.json").is_file():
                return ModelFacts.from_config(read_object(path / "config.json"))
            files = sorted(path.glob("*.gguf"))
            return _gguf(files[0]) if len(files) == 1 else None
        return _gguf(path) if path.suffix == ".gguf" else None
    except (OSError, ValueError):
        return None


def _gguf(path: Path) -> ModelFacts:
    header = read_header(path)
    tied = ModelFacts.from_gguf(header.fields, tied=True)
    apart = ModelFacts.from_gguf(header.fields, tied=False)
    return min(tied, apart, key=lambda model: abs(model.parameters - header.parameters))


def _longest(path: Path) -> int | None:
    """Tokens of the longest row of a JSON lines file; None for other formats, large and damaged files."""
    try:
        if path.stat().st_size > MAX_DATA:
            return None
        sizes = [_texts(orjson.loads(line)) for line in _bounded(_lines(path)) if line.strip()]
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return -(-max(sizes) // BYTES_A_TOKEN) if sizes else None


def _texts(value: Any) -> int:
    """Bytes of all texts in a row, names of its columns left out; not by recursion, as rows nest as they like."""
    count, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            count += len(item.encode())
        elif isinstance(item, dict | list):
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return count


def _bounded(rows: Iterator[bytes]) -> Iterator[bytes]:
    """Lines of at most MAX_DATA bytes in all, also where they come out of a small compressed file.

    Raises:
        ValueError: there are more.
    """
    left = MAX_DATA
    for line in rows:
        left -= len(line) + 1
        if left < 0:
            raise ValueError(f"more than {MAX_DATA} bytes")
        yield line


def _lines(path: Path) -> Iterator[bytes]:
    if path.name.endswith((".jsonl", ".ndjson")):
        with open_regular(path) as file:
            yield from lines(file, path.name)
    elif path.name.endswith((".jsonl.gz", ".ndjson.gz")):
        with gunzip(path) as file:
            yield from lines(file, path.name)
