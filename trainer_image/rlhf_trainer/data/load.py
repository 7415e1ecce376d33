"""From references in a spec to typed rows: read, convert, count what is bad, take the split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rlhf_api.fields import DataRef, Reference
from rlhf_api.job import Input
from rlhf_api.stage_file import StageInput
from rlhf_api.stages.common import Rows
from rlhf_trainer.data.conversion import Check, Conversion
from rlhf_trainer.data.rows import Completion, Conversation, Counts, Dialogue, LabelledAnswer, Pair, Prompt, SafetyPair
from rlhf_trainer.data.splits import Row, canonical, in_heldout
from rlhf_trainer.exits import InputError
from rlhf_trainer.sources.cache import is_kept, verify

log = logging.getLogger(__name__)


class Inputs(Protocol):
    """What finds a reference's input: a StageContext."""

    def input(self, reference: Reference) -> StageInput:
        """Where the reference's input lies."""


def load_conversations(context: Inputs, refs: Sequence[DataRef], *checks: Check) -> tuple[list[Conversation], Counts]:
    """Dialogues to imitate, in file order; those that a check refuses are bad rows, or rejected ones of a stage's product.

    Raises:
        InputError: a file cannot be read, has no such rows, or has too many bad ones; the message names file and row.
    """
    return _load(context, refs, "conversations", checks)


def load_prompts(context: Inputs, refs: Sequence[DataRef], *checks: Check) -> tuple[list[Prompt], Counts]:
    """Prompts, in file order; of rows with answers only the prompt. Each prompt comes once.

    Raises:
        InputError: as `load_conversations`.
    """
    rows: list[Prompt]
    rows, counts = _load(context, refs, "prompts", checks)
    first: dict[bytes, Prompt] = {}
    for row in rows:
        first.setdefault(canonical(row.messages, row.tools), row)
    _count_repeated(counts, "repeated prompt", len(rows) - len(first))
    return list(first.values()), counts


def load_dialogues(context: Inputs, refs: Sequence[DataRef], *checks: Check) -> tuple[list[Dialogue], Counts]:
    """Dialogues of users' turns, in file order. Each comes once.

    Raises:
        InputError: as `load_conversations`.
    """
    rows: list[Dialogue]
    rows, counts = _load(context, refs, "dialogues", checks)
    first: dict[bytes, Dialogue] = {}
    for row in rows:
        first.setdefault(canonical(row.messages), row)
    _count_repeated(counts, "repeated dialogue", len(rows) - len(first))
    return list(first.values()), counts


def load_pairs(context: Inputs, refs: Sequence[DataRef], *checks: Check) -> tuple[list[Pair], Counts]:
    """Preferences, in file order.

    Raises:
        InputError: as `load_conversations`.
    """
    return _load(context, refs, "pairs", checks)


def load_safety_pairs(context: Inputs, refs: Sequence[DataRef], *checks: Check) -> tuple[list[SafetyPair], Counts]:
    """Pairs with a safety label an answer, in file order.

    Raises:
        InputError: as `load_conversations`; also where a safety column is missing.
    """
    return _load(context, refs, "safety pairs", checks)


def load_completions(context: Inputs, refs: Sequence[DataRef], *checks: Check) -> tuple[list[Completion], Counts]:
    """Completions that rules know something of, in file order.

    Raises:
        InputError: as `load_conversations`.
    """
    return _load(context, refs, "completions", checks)


def load_labelled(context: Inputs, refs: Sequence[DataRef], *checks: Check) -> tuple[list[LabelledAnswer], Counts]:
    """Answers with their labels, in file order.

    Raises:
        InputError: as `load_conversations`.
    """
    return _load(context, refs, "labelled answers", checks)


def _load(context: Inputs, refs: Sequence[DataRef], use: Rows, checks: Sequence[Check]) -> tuple[list[Any], Counts]:
    rows: list[Any] = []
    counts = Counts()
    for ref in refs:
        stage_input = context.input(ref)
        _unchanged(stage_input, ref.key)
        conversion = Conversion(ref.key.partition(":")[2], stage_input.input, use, ref.limit, checks)
        converted = list(conversion.rows(Path(stage_input.path)))
        counts.add(conversion.counts)
        selected = select(converted, ref, stage_input.input)
        if not selected:
            share = stage_input.input.heldout if stage_input.input is not None else 0.0
            raise InputError(
                f"{ref.key}: split {ref.split!r} is empty: 0 of {len(converted)} rows (heldout is {share:g})"
            )
        rows.extend(selected)
        _tell(conversion)
    return rows, counts


def _count_repeated(counts: Counts, reason: str, repeated: int) -> None:
    if repeated:
        counts.rejected[reason] += repeated
        counts.used -= repeated


def _unchanged(stage_input: StageInput, key: str) -> None:
    """Refuse an input whose files were changed since `prepare` took their digest."""
    folder = Path(stage_input.path)
    problem = verify(folder) if is_kept(folder) else None
    if problem is not None:
        raise InputError(f"{key}: {problem} since prepare looked at it. Run the job again: it is fetched anew")


def select(rows: list[Row], ref: DataRef, entry: Input | None) -> list[Row]:
    """The rows that a reference's `split` takes."""
    if ref.split == "all":
        return rows
    share = entry.heldout if entry is not None else 0.0
    return [row for row in rows if in_heldout(row, share) == (ref.split == "heldout")]


def _tell(conversion: Conversion) -> None:
    counts = conversion.counts
    left_out = {**({"bad": counts.bad} if counts.bad else {}), **counts.rejected}
    if left_out:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(left_out.items()))
        log.warning("%s: %d of %d rows used; left out: %s", conversion.name, counts.used, counts.read, reasons)
