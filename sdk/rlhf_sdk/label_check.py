"""Prompts and answers for a moderation model: read here, labelled in a process of the trainer."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from rlhf_api.bounded import Unreadable, gunzip, lines, open_regular
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.local.process import environment

STDIN = "-"
MOST_ROWS = 10_000
MOST_BYTES = 64 << 20
"""Of all rows together."""
ANSWERS = ("answer", "response", "completion")
"""Columns that an answer may be in; the first that a row has counts."""


@dataclass(frozen=True)
class Row:
    """A prompt, and its answer if it has one."""

    where: str
    """`rows.jsonl:3`, or `--prompt`."""
    prompt: list[dict[str, str]]
    answer: str | None
    columns: dict[str, Any] = field(default_factory=dict)
    """As they were read."""

    @classmethod
    def of_text(cls, prompt: str, answer: str | None) -> Row:
        """Of the command's options."""
        return cls("--prompt", [{"role": "user", "content": prompt}], answer)


def read_rows(source: str) -> list[Row]:
    """Rows of a JSON lines file, which may be gzipped, or of stdin.

    Args:
        source: Its path; `-` is stdin.

    Raises:
        CommandError: a row is none, or there are none or too many.
    """
    rows: list[Row] = []
    name = "stdin" if source == STDIN else Path(source).name
    remaining = MOST_BYTES
    try:
        with _opened(source) as stream:
            for number, line in enumerate(lines(stream, name, MOST_BYTES), 1):
                remaining -= len(line)
                if remaining < 0 or len(rows) == MOST_ROWS:
                    expected = f"at most {MOST_ROWS} rows of {MOST_BYTES >> 20} MiB together"
                    raise CommandError(f"{name}: expected {expected}; check them in parts", Exit.INVALID)
                if line.strip():
                    rows.append(_row(f"{name}:{number}", line))
    except (Unreadable, EOFError) as error:
        raise CommandError(f"{error}", Exit.INVALID) from error
    if not rows:
        raise CommandError(f"{name}: found no row; expected rows of prompt and answer, one a line", Exit.INVALID)
    return rows


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == STDIN:
        yield sys.stdin.buffer
        return
    path = Path(source)
    with gunzip(path) if path.suffix == ".gz" else open_regular(path) as stream:
        yield stream


def _row(where: str, line: bytes) -> Row:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise CommandError(f"{where}: is no JSON ({error}); expected an object a line", Exit.INVALID) from error
    if not isinstance(value, dict):
        raise CommandError(f"{where}: found {type(value).__name__}; expected an object a line", Exit.INVALID)
    if "messages" in value:
        messages = _messages(f"{where}: messages", value["messages"])
        last = messages.pop()["content"] if messages[-1]["role"] == "assistant" and len(messages) > 1 else None
        return Row(where, messages, last, value)
    if "prompt" not in value:
        hint = f"prompt (and one of {', '.join(ANSWERS)}), or messages"
        raise CommandError(f"{where}: found {', '.join(list(value)[:6]) or 'nothing'}; expected {hint}", Exit.INVALID)
    prompt = value["prompt"]
    messages = (
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else _messages(f"{where}: prompt", prompt)
    )
    column = next((name for name in ANSWERS if value.get(name) is not None), None)
    answer = None if column is None else value[column]
    if answer is not None and not isinstance(answer, str):
        raise CommandError(f"{where}: {column}: found {type(answer).__name__}; expected a text", Exit.INVALID)
    return Row(where, messages, answer, value)


def _messages(where: str, value: Any) -> list[dict[str, str]]:
    fields = ("role", "content")
    if not isinstance(value, list) or not value:
        raise CommandError(f"{where}: expected a text, or a list of messages", Exit.INVALID)
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(name), str) for name in fields):
            raise CommandError(f"{where}: expected messages of role and content, both texts", Exit.INVALID)
    return [{name: message[name] for name in fields} for message in value]


def typed(rows: Sequence[Row], labelled: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each row's columns with the label furthest above its threshold as `response_type`; a row of none has no such column.

    A row with an answer has the labels of both together, else those of its prompt.
    """
    last = {entry["row"]: entry["probabilities"] for entry in labelled["checks"]}
    for index, row in enumerate(rows):
        triples = zip(labelled["labels"], labelled["thresholds"], last[index], strict=True)
        margins = {name: _logit(value) - _logit(least) for name, least, value in triples}
        furthest = max(margins, key=lambda name: margins[name])
        columns = {name: value for name, value in row.columns.items() if name != "response_type"}
        yield {**columns, "response_type": furthest} if margins[furthest] >= 0 else columns


def _logit(probability: float) -> float:
    """log(p / (1 - p)), infinite at 0 and 1."""
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability) - math.log1p(-probability)


def label(model: Path, rows: list[Row]) -> dict[str, Any]:
    """What the model says, as `rlhf_trainer.label_rows` describes it.

    Raises:
        CommandError: it is no moderation model, or the process failed.
    """
    if importlib.util.find_spec("rlhf_trainer") is None or importlib.util.find_spec("torch") is None:
        raise CommandError("the trainer is not installed here: pip install 'rlhf-operator[local]'")
    with tempfile.TemporaryDirectory(prefix="rlhf-check-") as name:
        work = Path(name)
        written = [{"where": row.where, "prompt": row.prompt, "answer": row.answer} for row in rows]
        (work / "rows.json").write_bytes(orjson.dumps(written))
        command = (sys.executable, "-m", "rlhf_trainer.label_rows", str(model.resolve()), str(work))
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment(False, os.environ), check=False
        )
        if ended.returncode != 0:
            last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise CommandError(f"labelling ended with exit code {ended.returncode}: {last}")
        labelled: dict[str, Any] = orjson.loads((work / "labelled.json").read_bytes())
    if "problem" in labelled:
        raise CommandError(labelled["problem"], Exit.INVALID)
    return labelled
