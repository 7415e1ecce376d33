"""From raw rows of one input to typed rows of one use: each is made, checked and counted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_api.error_messages import nearest
from rlhf_api.job import Input
from rlhf_api.stages.common import Rows
from rlhf_trainer.data.columns import Columns, Malformed, Rejected, Watched
from rlhf_trainer.data.formats import FORMATS, Format, detect, renamed
from rlhf_trainer.data.guess import suggest
from rlhf_trainer.data.labelled import LABELLED
from rlhf_trainer.data.messages import unknown_fields
from rlhf_trainer.data.preferences import SAFETY_COLUMNS
from rlhf_trainer.data.readers import BadRow, RawRow, read_rows
from rlhf_trainer.data.rows import Counts
from rlhf_trainer.data.template import TemplateProblem
from rlhf_trainer.exits import InputError

SAMPLE = 1000
"""Rows at a file's start that tell its format."""


SHOWN = 5
"""Bad rows that an error or a count names."""


REFUSED = "refused by the chat template"


Check = Callable[[Any], object]
"""Raises TemplateProblem where a chat template does not take an example."""


@dataclass
class Conversion:
    """Rows of one input turned into examples of one use, one after the other."""

    name: str
    """The input's or stage's name, for messages."""
    entry: Input | None
    use: Rows
    limit: int | None = None
    checks: Sequence[Check] = ()
    """Of each example; by raising TemplateProblem they refuse it."""
    counts: Counts = field(default_factory=Counts)
    format: str | None = None
    """As given, or as told by the columns; of files that differ, all, joined by commas."""
    unused: Counter[str] = field(default_factory=Counter)
    """Rows that have a value in a column that made nothing, by column as the file calls it."""
    _names: dict[str, None] = field(default_factory=dict)
    """Columns of all rows, as the files call them."""

    def rows(self, path: Path) -> Iterator[Any]:
        """Examples in file order; bad and rejected rows are counted.

        Raises:
            InputError: more bad rows than allowed, no usable row, or columns that cannot serve the use.
        """
        subset, split = (self.entry.subset, self.entry.split) if self.entry is not None else (None, None)
        filled: Counter[str] = Counter()
        read: set[str] = set()
        for _, raws in itertools.groupby(read_rows(path, subset, split), lambda raw: raw.where.file):
            yield from self._file(raws, filled, read)
            if self._full():
                break
        self.unused = Counter({column: count for column, count in filled.items() if column not in read})
        self._judge(path, read)

    @property
    def _columns(self) -> Mapping[str, str]:
        return self.entry.columns if self.entry is not None else {}

    def _full(self) -> bool:
        return self.limit is not None and self.counts.used >= self.limit

    def _file(self, raws: Iterator[RawRow | BadRow], filled: Counter[str], read: set[str]) -> Iterator[Any]:
        """Examples of one file, whose first rows tell its format; columns with a value and those used are noted."""
        columns = self._columns
        first = list(itertools.islice(raws, SAMPLE))
        maker: Callable[[Any, Any], Any] | None = None
        for raw in itertools.chain(first, raws):
            if self._full():
                return
            self.counts.read += 1
            if isinstance(raw, BadRow):
                self._bad(f"{raw.where}: {raw.problem}")
                continue
            if maker is None:
                maker = self._maker([row for row in first if isinstance(row, RawRow)] or [raw], columns)
            self._names.update(dict.fromkeys(raw.value))
            row = Watched(renamed(raw.value, columns))
            try:
                example = maker(row, raw.where)
                for check in self.checks:
                    check(example)
            except Malformed as problem:
                self._bad(f"{raw.where}: {problem}")
            except TemplateProblem as problem:
                self._refused(f"{raw.where}: {problem}")
            except Rejected as reason:
                self._reject(f"{raw.where}: {reason}", str(reason))
            else:
                self.counts.used += 1
                yield example
            filled.update(name for name, value in raw.value.items() if value not in (None, "", [], {}))
            used = {columns.get(name, name) for name in row.read}
            filled.update(unknown_fields({name: value for name, value in raw.value.items() if name in used}))
            read.update(used)

    def _maker(self, sample: list[RawRow], columns: Mapping[str, str]) -> Callable[[Any, Any], Any]:
        """What makes examples of a file's rows, by what most of its first ones are."""
        rows = [renamed(raw.value, columns) for raw in sample]
        votes = Counter(detect(row) for row in rows)
        name = (self.entry.format if self.entry is not None else None) or votes.most_common(1)[0][0]
        example = next((raw for raw, row in zip(sample, rows, strict=True) if detect(row) == name), sample[0])
        absent = absent_column(columns, dict.fromkeys(key for raw in sample for key in raw.value))
        if name is None and absent is not None:
            raise InputError(f"{self.name} ({example.where}): {absent}")
        if name is None:
            raise InputError(
                f"{self.name} ({example.where}): no format has the columns {_names(example.value)}; expected those of one of "
                f"{', '.join(FORMATS)} (docs/data-formats.md). {self._hint(example.value, by_order=True)}"
            )
        if self.format is None or name not in self.format.split(", "):
            self.format = name if self.format is None else f"{self.format}, {name}"
        kind = FORMATS[name]
        self._need(kind, name, rows, example)
        self._keep_input(name, sample, columns)
        maker = kind.maker(self.use)
        if maker is None:
            able = ", ".join(format for format, candidate in FORMATS.items() if candidate.maker(self.use) is not None)
            raise InputError(
                f"{self.name} ({example.where}): rows of format {name} give no {self.use}; expected one of: {able}. "
                f"Columns found: {_names(example.value)}. {self._hint(example.value)}"
            )
        return maker

    def _hint(self, row: dict[str, Any], *, by_order: bool = False) -> str:
        absent = absent_column(self._columns, row)
        if absent is not None:
            return absent
        line = suggest(row, self.use, by_order=by_order)
        if line is None:
            return "Rename yours with `columns`"
        return f"Rename yours with `columns`, for {self.use} perhaps:\n  {line}"

    def _need(self, kind: Format, name: str, rows: list[Columns], raw: RawRow) -> None:
        needed = list(kind.required)
        if name == "safe-rlhf" and self.use == "pairs":
            needed.append(("better_response_id",))
        if name == "safe-rlhf" and self.use == "safety pairs":
            needed += [("safer_response_id",), *((column,) for column in SAFETY_COLUMNS)]
        if self.use == "labelled answers" and kind.labelled is not None:
            needed.append(LABELLED)
        columns = set().union(*rows)
        missing = [" or ".join(names) for names in needed if not columns.intersection(names)]
        if missing:
            raise InputError(
                f"{self.name} ({raw.where}): {self.use} of format {name} need the columns {', '.join(missing)}; "
                f"found {_names(raw.value)}. {self._hint(raw.value)}"
            )

    def _keep_input(self, name: str, sample: list[RawRow], columns: Mapping[str, str]) -> None:
        """Refuse to leave out what an instruction is about."""
        extra = next((raw for raw in sample if detect(raw.value) == "alpaca" and raw.value.get("input")), None)
        if name != "alpaca" and extra is not None and "input" not in columns.values():
            raise InputError(
                f"{self.name} ({extra.where}): rows of Alpaca read as {name} lose their column input, which the "
                "instruction is about; leave `format` and `columns` out, and both are read"
            )

    def _bad(self, message: str) -> None:
        self.counts.bad += 1
        self._show(message)

    def _refused(self, message: str) -> None:
        """A row that a chat template does not take: bad, but of a stage's product, which nobody can mend, rejected."""
        if self.entry is None:
            self._reject(message, REFUSED)
        else:
            self._bad(message)

    def _reject(self, message: str, reason: str) -> None:
        self.counts.rejected[reason] += 1
        self._show(message)

    def _show(self, message: str) -> None:
        if len(self.counts.examples) < SHOWN:
            self.counts.examples.append(message)

    def _judge(self, path: Path, read: Container[str]) -> None:
        allowed = self.entry.max_bad_rows if self.entry is not None else 0.0
        counts = self.counts
        shown = "".join(f"\n  {example}" for example in counts.examples)
        mapped = {ours: theirs for ours, theirs in self._columns.items() if theirs in read}  # others: of another format
        absent = absent_column(mapped, self._names) if self._names and not self._full() else None
        if absent is not None:
            raise InputError(f"{self.name}: {absent}")
        if counts.bad > allowed * counts.read:
            raise InputError(
                f"{self.name}: {counts.bad} of {counts.read} rows are bad, more than maxBadRows {allowed:g} allows:{shown}"
            )
        if counts.read == 0:
            raise InputError(f"{self.name}: {path.name} holds no rows")
        if counts.used == 0:
            raise InputError(f"{self.name}: none of {counts.read} rows can be used as {self.use}:{shown}")


def absent_column(columns: Mapping[str, str], names: Iterable[str]) -> str | None:
    """An entry of `columns` that maps to a column which is not among `names`, in words; None: there is none."""
    columns_read = [str(name) for name in names]
    for ours, theirs in columns.items():
        if theirs not in columns_read:
            near = nearest(theirs, columns_read)
            hint = f" (did you mean {near}?)" if near else ""
            expected = ", ".join(sorted(columns_read)[:20])
            return f"columns.{ours}: found {theirs}, which no row has; expected one of {expected}{hint}"
    return None


def _names(row: dict[str, Any]) -> str:
    return ", ".join(sorted(map(str, row))[:20]) or "none"
