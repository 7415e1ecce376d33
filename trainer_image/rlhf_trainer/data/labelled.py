"""Rows that say which labels an answer has: true or false by label, or the names of those that it has."""

from __future__ import annotations

from typing import Any

from rlhf_trainer.data.columns import Columns, Malformed, Rejected, flag_of, text_or_list, typed, value_of
from rlhf_trainer.data.demonstrations import COMPLETIONS
from rlhf_trainer.data.dialogues import answer_text, first_with_value, one_answer, read_prompt
from rlhf_trainer.data.messages import messages_of
from rlhf_trainer.data.readers import Cell, describe
from rlhf_trainer.data.rows import LabelledAnswer, Where

UNSAFE = "unsafe"
"""The label that `is_safe` (BeaverTails) gives: its contrary."""
LABELLED = ("labels", "category", "is_safe")
"""Columns that say something of labels."""
FLAGS = "an object of true or false by label"


def labelled_answer(row: Columns, where: Where) -> LabelledAnswer:
    """An answer with its labels; an empty answer counts, as a policy gives it sooner or later."""
    column = first_with_value(row, COMPLETIONS)
    value = text_or_list(value_of(row, column, "a string or a list of messages"))
    is_list = isinstance(value, list)
    answer = one_answer(messages_of(value, column), column) if is_list else answer_text(row, column)
    labels, complete = _labels_of(row)
    if row.get("is_safe") is not None and typed(row["is_safe"]) is not None:
        unsafe = not flag_of(row, "is_safe")
        if labels.setdefault(UNSAFE, unsafe) != unsafe:
            raise Rejected("inconsistent safety labels")
    if not labels and not complete:
        raise Rejected("no label")
    return LabelledAnswer(read_prompt(row), answer, labels, where, complete)


def _labels_of(row: Columns) -> tuple[dict[str, bool], bool]:
    """(true or false by label, whether labels that are not named are false)."""
    column = first_with_value(row, ("labels", "category"))
    if not any(name in row for name in LABELLED):
        raise Malformed("labels", "no such column", f"{FLAGS}, or a list of labels")
    value = _parsed(row.get(column))
    if value is None:
        return {}, False
    if isinstance(value, dict):
        return _by_name(value, column), False
    if column == "category":  # of other rows it is the prompt's label
        raise Malformed(column, describe(value), f"{FLAGS} (map a column of lists or names to labels)")
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise Malformed(column, describe(value), f"{FLAGS}, a list of the labels that are true, or one of them")
    return dict.fromkeys(map(str.strip, names), True), True


def _parsed(value: Any) -> Any:
    """A CSV cell that holds an object or a list is read as one; any text else is a label's name."""
    if not isinstance(value, Cell):
        return value
    return typed(value) if value.lstrip().startswith(("{", "[")) else str(value) or None


def _by_name(flags: dict[Any, Any], column: str) -> dict[str, bool]:
    """True and false by label; null says nothing of a label."""
    for name, flag in flags.items():
        if not isinstance(name, str) or not name.strip():
            raise Malformed(column, f"a label named {describe(name)}", "a name that is not empty")
        if flag is not None and (not isinstance(flag, bool | int) or flag not in (0, 1)):
            raise Malformed(f"{column}.{name}", describe(flag), "true, false (1, 0) or null where it is not known")
    return {name.strip(): bool(flag) for name, flag in flags.items() if flag is not None}
