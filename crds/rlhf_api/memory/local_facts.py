"""Facts of a job's inputs that lie on this machine: shapes of models, longest rows of data. Reads headers, no weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class InputFacts:
    """What this machine knows of a job's inputs, by the input's name."""

    models: dict[str, ModelFacts] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    """Tokens of the longest row of data."""
    problems: dict[str, str] = field(default_factory=dict)
    """Why a model that lies here has no facts."""


def read_local_facts(job: RLHFJob, folder: Path) -> InputFacts:
    """Look at the inputs that lie on this machine.

    Args:
        job: A valid job.
        folder: The job file's: relative paths are taken from it.

    Returns:
        What is not here, or is neither a model nor rows that can be read, is left out: `prepare` says what is wrong
        with it.
    """
    facts = InputFacts()
    for entry in job.spec.inputs:
        path = local_path(entry.source, folder)
        if path is None or not exists(path):
            continue
        try:
            model = _model(path)
        except (OSError, ValueError) as error:
            facts.problems[entry.name] = str(error)
            continue
        if model is not None:
            facts.models[entry.name] = model
        elif path.is_file():
            longest = _longest(path)
            if longest is not None:
                facts.lengths[entry.name] = longest
    return facts


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
    """The shape of a model folder or GGUF file; None for anything else.

    Raises:
        OSError, ValueError: it cannot be read, or is no shape that `ModelFacts` has.
    """
    if path.is_dir():
        if (path / "config.json").is_file():
            return ModelFacts.from_config(read_object(path / "config.json"))
        files = sorted(path.glob("*.gguf"))
        return _gguf(files[0]) if len(files) == 1 else None
    return _gguf(path) if path.suffix == ".gguf" else None


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
    remaining = MAX_DATA
    for line in rows:
        remaining -= len(line) + 1
        if remaining < 0:
            raise ValueError(f"more than {MAX_DATA} bytes")
        yield line


def _lines(path: Path) -> Iterator[bytes]:
    if path.name.endswith((".jsonl", ".ndjson")):
        with open_regular(path) as file:
            yield from lines(file, path.name)
    elif path.name.endswith((".jsonl.gz", ".ndjson.gz")):
        with gunzip(path) as file:
            yield from lines(file, path.name)
