"""Values of a row's columns, checked: what was found, what was expected."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from rlhf_api.bounded import MAX_DEPTH, is_deeper
from rlhf_trainer.data.readers import Cell, describe
from rlhf_trainer.data.rows import Expected, Messages

Columns = Mapping[str, Any]
EXPECTED: dict[str, Expected] = {"comply": "comply", "refuse": "refuse", "safe": "comply", "unsafe": "refuse"}
"""By what a row says; XSTest's labels say of the prompt what the others say of its answer."""


class Watched(Mapping[str, Any]):
    """A row that remembers which of its columns were looked at."""

    def __init__(self, row: Columns) -> None:
        self._row = row
        self.read: set[str] = set()

    def __getitem__(self, column: str) -> Any:
        self.read.add(column)
        return self._row[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


class Malformed(Exception):
    """A row that is not what its format says: column, what was found, what was expected."""

    def __init__(self, column: str, actual: str, expected: str) -> None:
        super().__init__(f"{column}: found {actual}, expected {expected}")


class Rejected(Exception):
    """A well-formed row that teaches nothing; its message is the reason, one of a fixed few."""


def value_of(row: Columns, column: str, expected: str) -> Any:
    """A column's value."""
    if column not in row:
        raise Malformed(column, "no such column", expected)
    return row[column]


def typed(value: Any) -> Any:
    """A value that is no text: of a CSV cell, what its text says as JSON; an empty cell is null."""
    if not isinstance(value, Cell):
        return value
    text = value.strip()
    if text.lower() in ("", "true", "false"):
        return {"": None, "true": True, "false": False}[text.lower()]
    try:
        return parse_json(text)
    except ValueError:
        return str(value)


def parse_json(text: str) -> Any:
    """What a text says as JSON.

    Raises:
        ValueError: it is none, or nested deeper than rows are.
    """
    value = orjson.loads(text)
    if is_deeper(value, MAX_DEPTH):
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return value


def text_or_list(value: Any) -> Any:
    """A value that is a text or a list; a CSV cell is a list where it holds one of objects as JSON."""
    if not isinstance(value, Cell):
        return value
    parsed = typed(value) if value.lstrip().startswith("[") else None
    return parsed if isinstance(parsed, list) and all(isinstance(entry, dict) for entry in parsed) else str(value)


def text_of(row: Columns, column: str) -> str:
    """A string."""
    value = value_of(row, column, "a string")
    if not isinstance(value, str):
        raise Malformed(column, describe(value), "a string")
    return str(value)


def flag_of(row: Columns, column: str) -> bool:
    """True or false."""
    value = typed(value_of(row, column, "true or false"))
    if not isinstance(value, bool):
        raise Malformed(column, describe(value), "true or false")
    return value


def which_of(row: Columns, column: str) -> int:
    """Number of an answer, 0 or 1."""
    value = typed(value_of(row, column, "0 or 1"))
    if isinstance(value, bool) or value not in (0, 1) or not isinstance(value, int):
        raise Malformed(column, describe(value), "0 or 1")
    return value


def user_says(text: str) -> Messages:
    """One user's message."""
    return ({"role": "user", "content": text},)


def as_prompt(messages: Messages, column: str) -> Messages:
    """Messages that can be answered."""
    if messages[-1]["role"] == "assistant":
        raise Malformed(column, "an assistant's message at its end", "a prompt that ends before the answer")
    if not any(message["content"].strip() for message in messages if message["role"] != "system"):
        raise Rejected("empty prompt")
    return tuple({key: value for key, value in message.items() if key != "learned"} for message in messages)  # type: ignore[misc]


def category_of(row: Columns) -> str | None:
    """The label of a row, where it has one; several labels are one, joined by commas.

    It is a string or number, a list of labels, or true or false by label (BeaverTails). PKU-SafeRLHF labels the answers:
    what either is harmful by is the row's label.
    """
    if "category" in row:
        return _label(row["category"], "category")
    answers = [f"response_{number}_harm_category" for number in (0, 1)]
    labels = [label for column in answers if column in row for label in _labels(row[column], column)]
    return ", ".join(dict.fromkeys(labels)) or None


def _label(value: Any, column: str) -> str | None:
    if isinstance(value, str):
        text = str(value)
        if not isinstance(value, Cell) or not text.lstrip().startswith(("{", "[")):
            return text or None
    return ", ".join(_labels(value, column)) or None


def _labels(value: Any, column: str) -> list[str]:
    """Labels by which a row goes: none, one, or several."""
    value = typed(value)
    if value is None:
        return []
    if isinstance(value, dict) and all(label is None or isinstance(label, bool | int) for label in value.values()):
        return [name for name, label in value.items() if label]
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str | int) and not isinstance(entry, bool) for entry in entries):
        raise Malformed(column, describe(value), "a string, a list of them, or an object of true or false by label")
    return [str(entry) for entry in entries]


def response_type_of(row: Columns) -> str | None:
    """What rules expect of an answer, where the row says it; as policies write it: `Hard Refuse` is `hard_refuse`."""
    value = row.get("response_type")
    if value is None or isinstance(value, str):
        return canonical_type(str(value)) if value else None
    raise Malformed("response_type", describe(value), "a string such as comply or hard_refuse")


def canonical_type(text: str) -> str:
    """A response type as policies write it."""
    return re.sub(r"[\s-]+", "_", text.strip().lower())


def expectation_of(row: Columns) -> Expected | None:
    """Whether a prompt should be answered or refused, where the row says it."""
    value = row.get("expect")
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    expected = EXPECTED.get(value.strip().lower()) if isinstance(value, str) else None
    if expected is None:
        raise Malformed("expect", describe(value), "comply or refuse (or safe or unsafe, as XSTest labels its prompts)")
    return expected


def propositions_of(row: Columns) -> dict[str, bool] | None:
    """True or false by proposition, where the row has it."""
    value = typed(row.get("propositions"))
    if value is None:
        return None
    if not isinstance(value, dict) or not value or not all(isinstance(flag, bool) for flag in value.values()):
        raise Malformed("propositions", describe(value), "an object of true or false by proposition")
    return dict(value)


def rank_of(row: Columns) -> int | None:
    """Place among the answers to a prompt, where the row has it."""
    value = typed(row.get("rank"))
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise Malformed("rank", describe(value), "a whole number, the lowest of the best answer")


def weight_of(row: Columns) -> float:
    """The probability that the chosen answer is the better one; 1 where the row has none."""
    value = typed(row.get("weight", 1.0))
    if value is None and isinstance(row.get("weight"), Cell):
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise Malformed("weight", describe(value), "a probability from 0 to 1")
    return float(value)
