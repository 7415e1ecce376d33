"""An audit sample that people filled in: does it belong to its simulation, and do they agree with the labels? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_trainer.data.readers import BadRow, describe, read_rows
from rlhf_trainer.data.rows import Where
from rlhf_trainer.exits import InputError
from rlhf_trainer.simulation.rows import Json, blind
from rlhf_trainer.statistics.intervals import wilson

ANSWERS: dict[str, tuple[Any, ...]] = {"better": ("a", "b"), "good": (True, False)}
"""What people fill in: of a pair which answer is better, of another row whether it is good."""


@dataclass(frozen=True)
class Answer:
    """A row of a filled-in audit file."""

    where: Where
    row: Json
    """As it was shown: without what was filled in."""
    field: str
    """`better` or `good`."""
    value: Any
    """What was filled in; None: nothing."""


def read_answers(path: Path) -> list[Answer]:
    """The rows of a filled-in `audit.jsonl`.

    Raises:
        InputError: a row is not one of an audit file, or says what cannot be said; or none is filled in.
    """
    answers = [_answer(raw.where, _columns(raw)) for raw in read_rows(path)]
    if all(answer.value is None for answer in answers):
        raise InputError(
            f"{path.name}: none of {len(answers)} rows is filled in; expected a value in `better` or `good`"
        )
    return answers


def _columns(raw: Any) -> Json:
    if isinstance(raw, BadRow):
        raise InputError(f"{raw.where}: {raw.problem}")
    return dict(raw.value)


def _answer(where: Where, row: Json) -> Answer:
    field = next((name for name in ANSWERS if name in row), None)
    if field is None or not isinstance(row.get("number"), int):
        raise InputError(f"{where}: found no number and none of {', '.join(ANSWERS)}; expected a row of an audit.jsonl")
    value = row.pop(field)
    value = value.strip().lower() if isinstance(value, str) else value
    if value in ("", None):
        return Answer(where, row, field, None)
    if not any(value is word or (isinstance(value, str) and value == word) for word in ANSWERS[field]):
        expected = "a or b" if field == "better" else "true or false"
        raise InputError(f"{where}: {field}: found {describe(value)}, expected {expected}, or null where nobody looked")
    return Answer(where, row, field, value)


def agreement(answers: Sequence[Answer], keys: Sequence[Json]) -> Json:
    """What people said of the audit sample, beside what its rows were made to be.

    Args:
        answers: rows of the file that people filled in.
        keys: rows of `audit-key.jsonl`.

    Returns:
        `rows`, `answered`; where rows have a label (`chosen`, `rank`), the share on which people agree with it
        (`agreement`, an estimate) and Cohen's `kappa` (1960; None where one side always says the same); else the share
        that is `good`; of ranked completions also the share that is good by grade (`good_by_grade`).

    Raises:
        InputError: a row is not one of this sample, was changed, or comes twice.
    """
    by_number = {key["number"]: key for key in keys}
    judged: list[tuple[Any, Json]] = []
    numbers: set[int] = set()
    for answer in answers:
        key = _matching(answer, by_number, numbers)
        if answer.value is not None:
            judged.append((answer.value, key))
    compared: Json = {"rows": len(keys), "answered": len(judged)}
    labels = [_label(key) for _, key in judged]
    values = [value for value, _ in judged]
    if labels and None not in labels:
        agreed = sum(value == label for value, label in zip(values, labels, strict=True))
        compared["agreement"] = wilson(agreed, len(labels)).as_json()
        compared["kappa"] = kappa(values, labels)
    elif labels:
        compared["good"] = wilson(sum(values), len(values)).as_json()
    grades = dict.fromkeys(key["provenance"]["grade"] for _, key in _by_rank(judged))
    if grades:
        compared["good_by_grade"] = {grade: _good(judged, grade) for grade in grades}
    return compared


def kappa(first: Sequence[Any], second: Sequence[Any]) -> float | None:
    """Cohen's kappa of two raters: agreement beyond what their shares of each word give; None where that is all."""
    n = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = sum(first.count(word) * second.count(word) for word in set(first)) / n**2
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def _matching(answer: Answer, by_number: Mapping[int, Json], numbers: set[int]) -> Json:
    number = answer.row["number"]
    key = by_number.get(number)
    if key is None:
        raise InputError(f"{answer.where}: number: found {number}, which is no row of this audit sample")
    if number in numbers:
        raise InputError(f"{answer.where}: number: found {number} again; expected each row once")
    numbers.add(number)
    shown = blind(key, number, key["swapped"])
    if answer.field not in shown or answer.row != {name: shown[name] for name in shown if name != answer.field}:
        raise InputError(
            f"{answer.where}: row {number} is not what the audit sample shows under that number; expected the stage's own "
            "audit.jsonl with nothing but better or good changed"
        )
    return key


def _label(key: Json) -> Any:
    """What a row was made to be, in the words of those who fill in; None: it has no label."""
    if "chosen" in key:
        return "b" if key["swapped"] else "a"
    return key["rank"] == 0 if "rank" in key else None


def _by_rank(judged: Sequence[tuple[Any, Json]]) -> Iterator[tuple[Any, Json]]:
    yield from sorted((pair for pair in judged if "rank" in pair[1]), key=lambda pair: pair[1]["rank"])


def _good(judged: Sequence[tuple[Any, Json]], grade: str) -> Json:
    values = [value for value, key in judged if key["provenance"].get("grade") == grade]
    return wilson(sum(values), len(values)).as_json()
