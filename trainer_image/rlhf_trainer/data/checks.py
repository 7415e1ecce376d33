"""Does a chat template take a row: all of its encoding that can be refused, with next to nothing tokenised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from rlhf_trainer.data.chat import same_tokenizer, write_prompt, write_turns
from rlhf_trainer.data.conversion import Check
from rlhf_trainer.data.rows import Completion, Conversation, Dialogue, LabelledAnswer, Message, Pair, Prompt, SafetyPair
from rlhf_trainer.data.template import Tokenizer

Reading = Literal["row", "prompt", "grader", "judge", "guard"]
"""What a model reads of a row: all of it, its prompt, with a grader's question behind an answer, or with an answer. A judge of answers reads
text only where its tokenizer is not that of a model which answers."""
QUESTION: Message = {"role": "user", "content": "Is it so?"}
Encoded = TypeVar("Encoded")


class LoadedReader(NamedTuple):
    """A model that reads rows."""

    name: str
    tokenizer: Tokenizer
    """Prepared."""
    reading: Reading


def readers_of_text(readers: Sequence[LoadedReader]) -> list[LoadedReader]:
    """The readers without judges that take every answering model's ids as they are."""
    answering = [reader.tokenizer for reader in readers if reader.reading == "row"]
    return [
        reader
        for reader in readers
        if reader.reading != "judge"
        or any(
            tokenizer is not reader.tokenizer and same_tokenizer(tokenizer, reader.tokenizer) for tokenizer in answering
        )
    ]


def check_of(tokenizer: Tokenizer, reading: Reading = "row") -> Check:
    """Raises TemplateProblem for rows that the tokenizer's template refuses."""

    def check(row: Any) -> None:
        if reading == "grader":
            _check_graded(tokenizer, row)
        elif reading == "guard":
            write_prompt(tokenizer, [*row.messages, {"role": "assistant", "content": "a"}], row.tools)
        elif isinstance(row, Conversation):
            write_turns(tokenizer, row.messages, row.prompt_turns, row.tools)
        elif isinstance(row, Prompt):
            write_prompt(tokenizer, row.messages, row.tools)
        elif isinstance(row, Dialogue):
            for turn in range(row.turns):
                write_prompt(tokenizer, row.after(["a"] * turn))
            write_prompt(tokenizer, row.last_alone)
        elif reading == "prompt":
            write_prompt(tokenizer, row.prompt)
        else:
            for answer in _answers(row):
                dialogue: list[Message] = [*row.prompt, {"role": "assistant", "content": answer}]
                write_turns(tokenizer, dialogue, len(row.prompt), row.tools)

    return check


class FirstRows:
    """Checks of so many rows, by default all; later ones pass, counted."""

    def __init__(self, checks: Sequence[Check], most: int | None) -> None:
        self._checks, self._most = checks, most
        self._rows = 0

    @property
    def unchecked(self) -> int:
        """Rows that passed without a check."""
        return 0 if self._most is None else max(0, self._rows - self._most)

    def __call__(self, row: Any) -> None:
        """Check a row."""
        self._rows += 1
        if self._most is None or self._rows <= self._most:
            for check in self._checks:
                check(row)


def _answers(row: Pair | SafetyPair | LabelledAnswer) -> Sequence[str]:
    if isinstance(row, LabelledAnswer):
        return (row.answer,)
    return (row.better, row.worse) if isinstance(row, Pair) else (row.harmful, row.safer)


def _check_graded(tokenizer: Tokenizer, row: Prompt | Completion) -> None:
    """A grader reads the answer, which is not there yet of a prompt, and a question; only prompts with a type."""
    if row.response_type is None:
        return
    messages, answer = (row.messages, "a") if isinstance(row, Prompt) else (row.prompt, row.answer)
    write_prompt(tokenizer, [*messages, {"role": "assistant", "content": answer}, QUESTION])


class Encodings(Generic[Encoded]):
    """A check that encodes: rows are encoded as they are read, so that what cannot be encoded is a bad row."""

    def __init__(self, encode: Callable[[Any], Encoded]) -> None:
        self._encode = encode
        self._made: dict[int, tuple[Any, Encoded]] = {}

    def __call__(self, row: Any) -> None:
        """Encode a row."""
        self._made[id(row)] = (row, self._encode(row))

    def __getitem__(self, row: Any) -> Encoded:
        """What a row that was read is encoded as; given once."""
        return self._made.pop(id(row))[1]
