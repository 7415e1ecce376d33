"""From references in a spec to typed rows: read, convert, count what is bad, take the split."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson

from rlhf_api.fields import DataRef, Reference
from rlhf_api.job import Input
from rlhf_api.stage_file import StageInput
from rlhf_trainer.data.columns import Malformed, Rejected
from rlhf_trainer.data.formats import FORMATS, SAFETY_COLUMNS, Format, Use, detect, renamed
from rlhf_trainer.data.readers import BadRow, RawRow, read_rows
from rlhf_trainer.data.rows import Completion, Conversation, Counts, Messages, Pair, Prompt, SafetyPair
from rlhf_trainer.exits import InputError
from rlhf_trainer.sources.keep import is_kept, verify

log = logging.getLogger(__name__)
Row = TypeVar("Row", Conversation, Prompt, Pair, SafetyPair, Completion)
SHOWN = 5
"""Bad rows that an error or a count names."""


class Inputs(Protocol):
    """What finds a reference's input: a StageContext."""

    def input(self, reference: Reference) -> StageInput:
        """Where the reference's input lies."""


def load_conversations(context: Inputs, refs: Sequence[DataRef]) -> tuple[list[Conversation], Counts]:
    """Dialogues to imitate, in file order.

    Raises:
        InputError: a file cannot be read, has no such rows, or has too many bad ones; the message names file and row.
    """
    return _load(context, refs, "conversations")


def load_prompts(context: Inputs, refs: Sequence[DataRef]) -> tuple[list[Prompt], Counts]:
    """Prompts, in file order; of rows with answers only the prompt. Each prompt comes once.

    Raises:
        InputError: as `load_conversations`.
    """
    rows: list[Prompt]
    rows, counts = _load(context, refs, "prompts")
    first: dict[bytes, Prompt] = {}
    for row in rows:
        first.setdefault(canonical(row.messages), row)
    unique = list(first.values())
    if len(unique) < len(rows):
        counts.rejected["repeated prompt"] += len(rows) - len(unique)
        counts.used -= len(rows) - len(unique)
    return unique, counts


def load_pairs(context: Inputs, refs: Sequence[DataRef]) -> tuple[list[Pair], Counts]:
    """Preferences, in file order.

    Raises:
        InputError: as `load_conversations`.
    """
    return _load(context, refs, "pairs")


def load_safety_pairs(context: Inputs, refs: Sequence[DataRef]) -> tuple[list[SafetyPair], Counts]:
    """Pairs with a safety label an answer, in file order.

    Raises:
        InputError: as `load_conversations`; also where a safety column is missing.
    """
    return _load(context, refs, "safety pairs")


def load_completions(context: Inputs, refs: Sequence[DataRef]) -> tuple[list[Completion], Counts]:
    """Completions that rules know something of, in file order.

    Raises:
        InputError: as `load_conversations`.
    """
    return _load(context, refs, "completions")


def split_by_prompt(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(train, held out), split by the opening of the dialogue: no prompt is on both sides.

    The held-out side gets ceil(fraction x distinct openings), those of the lowest seeded hash; never all of them.
    The order of rows is kept.
    """
    hashes = {start: _hash(start, seed) for start in {opening(row) for row in rows}}
    size = min(math.ceil(fraction * len(hashes)), len(hashes) - 1) if fraction > 0 else 0
    held = set(sorted(hashes, key=lambda start: hashes[start])[: max(size, 0)])
    train: list[Row] = []
    heldout: list[Row] = []
    for row in rows:
        (heldout if opening(row) in held else train).append(row)
    return train, heldout


def canonical(messages: Messages) -> bytes:
    """A prompt's canonical bytes: equal exactly where its turns are, blanks around them aside."""
    return orjson.dumps([[message["role"], message["content"].strip()] for message in messages])


def in_heldout(row: Conversation | Prompt | Pair | SafetyPair | Completion, share: float) -> bool:
    """Whether a row belongs to its input's held-out share: a function of the dialogue's opening alone."""
    return _hash(opening(row), None) < share


@dataclass
class Conversion:
    """Rows of one input turned into examples of one use, one after the other."""

    name: str
    """The input's or stage's name, for messages."""
    entry: Input | None
    use: Use
    limit: int | None = None
    counts: Counts = field(default_factory=Counts)
    format: str | None = None
    """As given, or as told from the first row's columns."""

    def rows(self, path: Path) -> Iterator[Any]:
        """Examples in file order; bad and rejected rows are counted.

        Raises:
            InputError: more bad rows than allowed, no usable row, or columns that cannot serve the use.
        """
        entry = self.entry
        self.format = entry.format if entry is not None else None
        columns = entry.columns if entry is not None else {}
        subset, split = (entry.subset, entry.split) if entry is not None else (None, None)
        maker: Callable[[Any, Any], Any] | None = None
        for raw in read_rows(path, subset, split):
            if self.limit is not None and self.counts.used >= self.limit:
                break
            self.counts.read += 1
            if isinstance(raw, BadRow):
                self._bad(f"{raw.where}: {raw.problem}")
                continue
            row = renamed(raw.value, columns)
            if maker is None:
                maker = self._maker(row, raw)
            try:
                example = maker(row, raw.where)
            except Malformed as problem:
                self._bad(f"{raw.where}: {problem}")
            except Rejected as reason:
                self.counts.rejected[str(reason)] += 1
                self._show(f"{raw.where}: {reason}")
            else:
                self.counts.used += 1
                yield example
        self._judge(path)

    def _maker(self, row: Any, raw: RawRow) -> Callable[[Any, Any], Any]:
        found = self.format or detect(row)
        if found is None:
            raise InputError(
                f"{self.name} ({raw.where}): no format has the columns {_names(raw.value)}; expected those of one of "
                f"{', '.join(FORMATS)} (docs/data-formats.md). Rename yours with `columns`"
            )
        self.format = found
        kind = FORMATS[found]
        self._need(kind, found, row, raw)
        maker = kind.maker(self.use)
        if maker is None:
            able = ", ".join(name for name, other in FORMATS.items() if other.maker(self.use) is not None)
            raise InputError(
                f"{self.name} ({raw.where}): rows of format {found} give no {self.use}; expected one of: {able}. "
                f"Columns found: {_names(raw.value)}"
            )
        return maker

    def _need(self, kind: Format, found: str, row: Any, raw: RawRow) -> None:
        needed = list(kind.required)
        if found == "safe-rlhf" and self.use == "pairs":
            needed.append("better_response_id")
        if found == "safe-rlhf" and self.use == "safety pairs":
            needed += ["safer_response_id", *SAFETY_COLUMNS]
        missing = [name for name in needed if name not in row]
        if missing:
            raise InputError(
                f"{self.name} ({raw.where}): {self.use} of format {found} need the columns {', '.join(missing)}; "
                f"found {_names(raw.value)}. Rename yours with `columns`"
            )

    def _bad(self, message: str) -> None:
        self.counts.bad += 1
        self._show(message)

    def _show(self, message: str) -> None:
        if len(self.counts.examples) < SHOWN:
            self.counts.examples.append(message)

    def _judge(self, path: Path) -> None:
        allowed = self.entry.max_bad_rows if self.entry is not None else 0.0
        counts = self.counts
        shown = "".join(f"\n  {example}" for example in counts.examples)
        if counts.bad > allowed * counts.read:
            raise InputError(
                f"{self.name}: {counts.bad} of {counts.read} rows are bad, more than maxBadRows {allowed:g} allows:{shown}"
            )
        if counts.read == 0:
            raise InputError(f"{self.name}: {path} holds no rows")
        if counts.used == 0:
            raise InputError(f"{self.name}: none of {counts.read} rows can be used as {self.use}:{shown}")


def _load(context: Inputs, refs: Sequence[DataRef], use: Use) -> tuple[list[Any], Counts]:
    rows: list[Any] = []
    counts = Counts()
    for ref in refs:
        found = context.input(ref)
        _unchanged(found, ref.key)
        conversion = Conversion(ref.key.partition(":")[2], found.input, use, ref.limit)
        taken = list(conversion.rows(Path(found.path)))
        counts.add(conversion.counts)
        kept = select(taken, ref, found.input)
        if not kept:
            share = found.input.heldout if found.input is not None else 0.0
            raise InputError(f"{ref.key}: split {ref.split!r} is empty: 0 of {len(taken)} rows (heldout is {share:g})")
        rows.extend(kept)
        _tell(conversion)
    return rows, counts


def _unchanged(found: StageInput, key: str) -> None:
    """Refuse an input whose files were changed since `prepare` took their digest."""
    folder = Path(found.path)
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


def opening(row: Conversation | Prompt | Pair | SafetyPair | Completion) -> str:
    """The dialogue's first user's message: deeper turns of one dialogue stay on one side."""
    messages = row.prompt if isinstance(row, Pair | SafetyPair | Completion) else row.messages
    first = next((message for message in messages if message["role"] == "user"), messages[0])
    return first["content"].strip()


def _hash(text: str, seed: int | None) -> float:
    """Uniform in [0, 1), a function of the text and the seed."""
    salt = b"heldout" if seed is None else b"holdout:%d" % seed
    return int.from_bytes(hashlib.sha256(salt + b"\0" + text.encode()).digest()[:8], "big") / 2**64


def _names(row: dict[str, Any]) -> str:
    return ", ".join(sorted(map(str, row))[:20]) or "none"
