"""Are an input's rows fit for their uses: format, columns, bad rows, and nothing empty after its split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_api.job import Input
from rlhf_trainer.data.conversion import Check, Conversion
from rlhf_trainer.data.rows import Counts, Prompt
from rlhf_trainer.data.splits import canonical, in_heldout, opening
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.uses import DataUse

PROMPTS = 1024
"""Different prompts that are counted; whoever asks for more gets so many."""
COLUMNS = 12
"""Unused columns that a note names."""


@dataclass
class RowFacts:
    """What was found."""

    format: str | None = None
    counts: Counts = field(default_factory=Counts)
    """Of the use that leaves most rows out."""
    problems: list[str] = field(default_factory=list)
    """One sentence a problem, with the field of the job."""
    notes: list[str] = field(default_factory=list)
    prompts: dict[str, int] = field(default_factory=dict)
    """Different prompts of each use that takes prompts, at most PROMPTS."""
    unused: dict[str, int] = field(default_factory=dict)
    """Rows with a value in a column that no use reads, by column."""


@dataclass
class _Tally:
    """Rows that one reference gets, counted as they pass."""

    use: DataUse
    rows: int = 0
    openings: set[str] = field(default_factory=set)
    """Two of them are enough to know that a holdout is possible."""
    prompts: set[bytes] = field(default_factory=set)
    """Different ones, up to PROMPTS."""


def inspect_rows(
    entry: Input,
    path: Path,
    uses: Sequence[DataUse],
    checks: Callable[[DataUse], AbstractContextManager[Sequence[Check]]] = lambda _: nullcontext(()),
) -> RowFacts:
    """Read every row once for each kind of use and its readers.

    Args:
        entry: of the job.
        path: where its rows lie.
        uses: of the rows.
        checks: gives what the models that read a use's rows say of each, while its context is open.
    """
    facts = RowFacts()
    unused: list[dict[str, int]] = []
    for kind, names in dict.fromkeys((use.rows, use.readers) for use in uses):
        same = [use for use in uses if (use.rows, use.readers) == (kind, names)]
        conversion = Conversion(entry.name, entry, kind)
        try:
            with checks(same[0]) as conversion.checks:
                tallies = _pass(conversion, path, entry, same)
        except InputError as error:
            facts.problems.append(f"{'; '.join(use.where for use in same)}: {error}")
            facts.format = facts.format or conversion.format
            continue
        facts.format = conversion.format
        unused.append(conversion.unused)
        if facts.counts.read == 0 or conversion.counts.used < facts.counts.used:
            facts.counts = conversion.counts
        facts.prompts |= {tally.use.where: len(tally.prompts) for tally in tallies if kind == "prompts"}
        facts.problems.extend(problem for tally in tallies if (problem := _problem(tally, entry)))
    left_out = facts.counts.bad + facts.counts.rejected.total()
    if left_out:
        facts.notes.append(
            f"{entry.name}: {left_out} of {facts.counts.read} rows are left out ({_reasons(facts.counts)})"
        )
    if unused:
        facts.unused = {name: count for name, count in unused[0].items() if all(name in counts for counts in unused)}
    if facts.unused:
        columns = ", ".join(f"{name} ({count} rows)" for name, count in list(facts.unused.items())[:COLUMNS])
        further = len(facts.unused) - COLUMNS
        facts.notes.append(
            f"{entry.name}: read as {facts.format}; columns that are not used: {columns}"
            f"{f' and {further} more' if further > 0 else ''}"
        )
    return facts


def _pass(conversion: Conversion, path: Path, entry: Input, uses: Sequence[DataUse]) -> list[_Tally]:
    tallies = [_Tally(use) for use in uses]
    for number, row in enumerate(conversion.rows(path)):
        for tally in tallies:
            ref = tally.use.ref
            if ref.limit is not None and number >= ref.limit:
                continue
            if ref.split != "all" and in_heldout(row, entry.heldout) != (ref.split == "heldout"):
                continue
            tally.rows += 1
            if len(tally.openings) < 2:
                tally.openings.add(opening(row))
            if isinstance(row, Prompt) and len(tally.prompts) < PROMPTS:
                tally.prompts.add(canonical(row.messages, row.tools))
    return tallies


def _problem(tally: _Tally, entry: Input) -> str | None:
    use = tally.use
    if tally.rows == 0:
        return (
            f"{use.where}: split {use.ref.split!r} of {entry.name} is empty (heldout is {entry.heldout:g}); "
            "set inputs[].heldout, or take split: all"
        )
    if use.holdout > 0 and len(tally.openings) < 2:
        return f"{use.where}: holdout {use.holdout:g} needs two different prompts; {entry.name} has one. Set holdout: 0"
    return None


def _reasons(counts: Counts) -> str:
    reasons = [f"{number} {reason}" for reason, number in sorted(counts.rejected.items())]
    return ", ".join([*([f"{counts.bad} bad"] if counts.bad else []), *reasons])
