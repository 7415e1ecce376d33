"""Typed rows: what the stages see of data, whatever file and format it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict


class Message(TypedDict):
    """One turn of a dialogue, as a chat template takes it (but for `learned`)."""

    role: str
    """`system`, `user` or `assistant` (or a role that the tokenizer's template knows)."""
    content: str
    """Its text."""
    learned: NotRequired[bool]
    """False: an assistant's turn that is read, and never learned."""
    reasoning_content: NotRequired[str]
    """What was thought before the text; `reasoning` and `thinking` are its other names."""
    reasoning: NotRequired[str]
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[Any]]
    """Tools that the assistant calls."""
    function_call: NotRequired[Any]
    """The same, as it was before tools."""
    tool_call_id: NotRequired[str]
    """The call that a tool's turn answers."""
    name: NotRequired[str]
    """Who speaks, or which tool."""


THOUGHTS = ("reasoning_content", "reasoning", "thinking")
CALLS = ("tool_calls", "function_call")
Messages = tuple[Message, ...]
Expected = Literal["comply", "refuse"]
"""What a good answer to a prompt does."""
Tool = dict[str, Any]
"""A tool that the assistant may call, described as chat templates take it."""


def says_something(message: Message) -> bool:
    """Whether a message has a text or calls a tool: silence is not learned."""
    return bool(message["content"].strip() or any(message.get(key) for key in CALLS))


class Where(NamedTuple):
    """Where a row was read."""

    file: str
    """The file's name, relative to the input."""
    row: int
    """Number of the row in its file, from 1 (of the line, for JSONL)."""

    def __str__(self) -> str:
        return f"{self.file}:{self.row}"


@dataclass(frozen=True)
class Conversation:
    """A dialogue to imitate: the assistant's turns are what is learned."""

    messages: Messages
    row: Where
    prompt_turns: int = 0
    """Messages at its start that are not learned, whoever speaks: the prompt, where a row tells it from the answer."""
    tools: tuple[Tool, ...] = ()
    """What the assistant may call."""


@dataclass(frozen=True)
class Prompt:
    """What is to be answered."""

    messages: Messages
    """All turns before the answer."""
    category: str | None
    """The row's label, where it has one: the harmful rate is broken down by it."""
    row: Where
    response_type: str | None = None
    """What rule-based rewards expect of an answer (`comply`, `hard_refuse`, ...), where the row says."""
    tools: tuple[Tool, ...] = ()
    """What the assistant may call."""
    expect: Expected | None = None
    """Whether the prompt should be answered or refused, where the row says."""


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, one preferred."""

    prompt: Messages
    better: str
    worse: str
    row: Where
    weight: float = 1.0
    """Probability that `better` is the better one (1: certain); a soft label of simulated preferences."""
    tools: tuple[Tool, ...] = ()
    """What the assistant may call."""


@dataclass(frozen=True)
class SafetyPair:
    """Two answers to a prompt, one more harmful, each with a label of its own."""

    prompt: Messages
    harmful: str
    """The more harmful answer."""
    safer: str
    """The other."""
    harmful_sign: int
    """+1: the more harmful answer is harmful; -1: it is safe."""
    safer_sign: int
    """+1: the safer answer is harmful too; -1: it is safe."""
    row: Where
    tools: tuple[Tool, ...] = ()
    """What the assistant may call."""


@dataclass(frozen=True)
class Completion:
    """An answer to a prompt, and what is known of it by rules."""

    prompt: Messages
    answer: str
    response_type: str
    """What the rules expect of an answer to this prompt."""
    row: Where
    propositions: Mapping[str, bool] | None = None
    """What people found to be true of the answer, by proposition; None: nobody looked."""
    rank: int | None = None
    """Place among the answers to the prompt, the lowest the best; None: it follows from the propositions."""


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer to a prompt, and which labels it has."""

    prompt: Messages
    answer: str
    labels: Mapping[str, bool]
    """True or false by label."""
    row: Where
    complete: bool = False
    """Whether labels that it does not name are false; else nothing is known of them."""
    tools: tuple[Tool, ...] = ()
    """What the assistant may call."""


@dataclass(frozen=True)
class Dialogue:
    """What a user says turn by turn; a model's own answers come between the turns."""

    messages: Messages
    """The users' turns, at least two; before them a system's, where the row has one."""
    category: str | None
    """The row's label, where it has one."""
    row: Where

    @property
    def turns(self) -> int:
        """Users' turns."""
        return len(self.messages) - len(self._system)

    @property
    def last_alone(self) -> Messages:
        """The last turn without those before it."""
        return (*self._system, self.messages[-1])

    def after(self, answers: Sequence[str]) -> Messages:
        """What is to be answered after the answers to earlier turns: all up to the user's next turn."""
        messages: list[Message] = [*self._system]
        turns = self.messages[len(self._system) :]
        for turn, answer in zip(turns, answers, strict=False):
            messages += [turn, {"role": "assistant", "content": answer}]
        return (*messages, turns[len(answers)])

    @property
    def _system(self) -> Messages:
        return self.messages[:1] if self.messages[0]["role"] == "system" else ()


@dataclass
class Counts:
    """What became of the rows that were read."""

    read: int = 0
    """Rows read."""
    used: int = 0
    """Rows that became examples, before any split or limit."""
    bad: int = 0
    """Malformed rows: they count against the input's `maxBadRows`."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Well-formed rows that teach nothing, by reason; they do not count against `maxBadRows`."""
    examples: list[str] = field(default_factory=list)
    """The first few bad and rejected rows, in words."""

    def add(self, counts: Counts) -> None:
        """Take another input's counts in."""
        self.read += counts.read
        self.used += counts.used
        self.bad += counts.bad
        self.rejected.update(counts.rejected)
        self.examples.extend(counts.examples)

    def as_dict(self, prefix: str = "rows") -> dict[str, int]:
        """Flat integers for a manifest: `rows.read`, `rows.used`, `rows.bad`, `rows.rejected.<reason>`."""
        flat = {f"{prefix}.read": self.read, f"{prefix}.used": self.used, f"{prefix}.bad": self.bad}
        for reason in sorted(self.rejected):
            flat[f"{prefix}.rejected.{reason.replace(' ', '_')}"] = self.rejected[reason]
        return flat
