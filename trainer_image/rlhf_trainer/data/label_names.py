"""Names of the labels that a moderation model learns: its stage's, or those of its rows."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_trainer.data.rows import LabelledAnswer
from rlhf_trainer.exits import InputError

MOST_LABELS = 256
"""Labels that the data alone may name: more are texts, not labels."""
LONGEST = 40
"""Characters of a label's name in messages."""


def label_names(written: Sequence[str], rows: Sequence[LabelledAnswer]) -> tuple[str, ...]:
    """The labels to learn: those that the stage names, or where it names none those of the data, sorted.

    Raises:
        InputError: no row names one of the stage's, or the data have none or too many; begins with the field.
    """
    in_data = sorted({name for row in rows for name in row.labels})
    shown = ", ".join(name if len(name) <= LONGEST else f"{name[:LONGEST]}..." for name in in_data[:20]) or "none"
    if not written and not 0 < len(in_data) <= MOST_LABELS:
        raise InputError(
            f"data: found {len(in_data)} labels ({shown}); expected 1 to {MOST_LABELS} (name those to learn in labels)"
        )
    for index, name in enumerate(written):
        if name not in in_data:
            raise InputError(f"labels[{index}]: found {name}, which no row names; expected labels of the data: {shown}")
    return tuple(written or in_data)
