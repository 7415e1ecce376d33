"""From columns to typed rows: Safe RLHF, TRL's formats (standard and conversational), HH-RLHF dialogues, ShareGPT,
Alpaca, and what published data sets make of them.

A string prompt is one user's message; conversations are taken as they are. docs/data-formats.md shows each format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from rlhf_api.stages.common import Rows
from rlhf_trainer.data.columns import (
    Columns,
    Malformed,
    expectation_of,
)
from rlhf_trainer.data.demonstrations import (
    COMPLETIONS,
    DIALOGUES,
    OUTPUTS,
    alpaca_conversation,
    alpaca_prompt,
    completed_conversation,
    from_messages,
    prompt_alone,
    prompt_of_messages,
    ruled_completion,
)
from rlhf_trainer.data.dialogues import is_dialogue
from rlhf_trainer.data.labelled import labelled_answer
from rlhf_trainer.data.messages import tools_of
from rlhf_trainer.data.multi_turn import dialogue_of_messages, dialogue_of_turns, holds_texts
from rlhf_trainer.data.preferences import (
    SAFE_RLHF,
    hh_conversation,
    hh_pair,
    hh_prompt,
    preference_conversation,
    preference_pair,
    preference_prompt,
    safe_pair,
    safe_safety_pair,
)
from rlhf_trainer.data.readers import describe
from rlhf_trainer.data.rows import (
    Completion,
    Conversation,
    Dialogue,
    LabelledAnswer,
    Pair,
    Prompt,
    SafetyPair,
    Where,
)

Example = Prompt | Conversation | Pair | SafetyPair | Completion | LabelledAnswer | Dialogue


@dataclass(frozen=True)
class Format:
    """How rows of one format become examples; None: they cannot."""

    required: tuple[tuple[str, ...], ...]
    """Columns that rows have: of each tuple, one."""
    prompt: Callable[[Columns, Where], Prompt] | None
    conversation: Callable[[Columns, Where], Conversation] | None = None
    pair: Callable[[Columns, Where], Pair] | None = None
    safety_pair: Callable[[Columns, Where], SafetyPair] | None = None
    completion: Callable[[Columns, Where], Completion] | None = None
    labelled: Callable[[Columns, Where], LabelledAnswer] | None = None
    dialogue: Callable[[Columns, Where], Dialogue] | None = None

    def maker(self, use: Rows) -> Callable[[Columns, Where], Example] | None:
        """What turns a row into an example of that use."""
        makers: dict[Rows, Callable[[Columns, Where], Example] | None] = {
            "prompts": self.prompt,
            "conversations": self.conversation,
            "pairs": self.pair,
            "safety pairs": self.safety_pair,
            "completions": self.completion,
            "labelled answers": self.labelled,
            "dialogues": self.dialogue,
        }
        make = makers[use]
        return make and (lambda row, where: _completed(make(row, where), row))


def _completed(example: Example, row: Columns) -> Example:
    """An example with what rows of every format may have: tools, and of a prompt what is expected of its answer."""
    if isinstance(example, Prompt):
        example = replace(example, expect=expectation_of(row))
    tools = tools_of(row)
    if not tools:
        return example
    if isinstance(example, Completion | Dialogue):
        uses = "completions for rules" if isinstance(example, Completion) else "dialogues of users' turns"
        raise Malformed("tools", describe(row["tools"]), f"none in {uses}")
    return replace(example, tools=tools)


def detect(row: Columns) -> str | None:
    """The format that a row's columns tell; None: no format has such columns. Columns without a value tell nothing."""
    names = {name for name, value in row.items() if value is not None}
    if names.issuperset(SAFE_RLHF):
        return "safe-rlhf"
    if {"chosen", "rejected"} <= names:
        spoken = "prompt" not in names and any(is_dialogue(row[name]) for name in ("chosen", "rejected"))
        return "hh-rlhf" if spoken else "preference"
    if names.intersection(DIALOGUES):
        return "messages"
    if "instruction" in names and names.intersection(OUTPUTS):
        return "alpaca"
    if "prompt" in names and names.intersection(COMPLETIONS):
        return "prompt-completion"
    if "prompt" in names:
        return "prompt-only"
    return "turns" if "turns" in names and holds_texts(row["turns"]) else None


def renamed(row: Columns, columns: Mapping[str, str]) -> Columns:
    """The row under the format's column names; `columns` maps those to the file's."""
    if not columns:
        return row
    mapped = set(columns.values())
    others = {name: value for name, value in row.items() if name not in mapped and name not in columns}
    return others | {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}


FORMATS: dict[str, Format] = {
    "safe-rlhf": Format(
        tuple((name,) for name in SAFE_RLHF), prompt_alone, pair=safe_pair, safety_pair=safe_safety_pair
    ),
    "prompt-only": Format((("prompt",),), prompt_alone),
    "prompt-completion": Format(
        (("prompt",), COMPLETIONS),
        prompt_alone,
        conversation=completed_conversation,
        completion=ruled_completion,
        labelled=labelled_answer,
    ),
    "preference": Format(
        (("chosen",), ("rejected",)), preference_prompt, conversation=preference_conversation, pair=preference_pair
    ),
    "hh-rlhf": Format((("chosen",), ("rejected",)), hh_prompt, conversation=hh_conversation, pair=hh_pair),
    "messages": Format((DIALOGUES,), prompt_of_messages, conversation=from_messages, dialogue=dialogue_of_messages),
    "alpaca": Format((("instruction",), OUTPUTS), alpaca_prompt, conversation=alpaca_conversation),
    "turns": Format((("turns",),), None, dialogue=dialogue_of_turns),
}
"""By the name that `input.format` has."""
