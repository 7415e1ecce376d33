"""From columns to typed rows: Safe RLHF, TRL's formats (standard and conversational), HH-RLHF dialogues.

A string prompt is one user's message; conversations are taken as they are. docs/data-formats.md shows each format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_trainer.data.columns import (
    Columns,
    Malformed,
    Rejected,
    as_prompt,
    category_of,
    flag_of,
    messages_of,
    propositions_of,
    rank_of,
    response_type_of,
    text_of,
    user_says,
    value_of,
    weight_of,
    which_of,
)
from rlhf_trainer.data.readers import describe
from rlhf_trainer.data.rows import Completion, Conversation, Message, Messages, Pair, Prompt, SafetyPair, Where

Use = Literal["prompts", "conversations", "pairs", "safety pairs", "completions"]
Example = Prompt | Conversation | Pair | SafetyPair | Completion

SAFETY_COLUMNS = ("is_response_0_safe", "is_response_1_safe")
SAFE_RLHF = ("prompt", "response_0", "response_1")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


@dataclass(frozen=True)
class Format:
    """How rows of one format become examples; None: they cannot."""

    required: tuple[str, ...]
    """Columns that every row has."""
    prompt: Callable[[Columns, Where], Prompt]
    conversation: Callable[[Columns, Where], Conversation] | None = None
    pair: Callable[[Columns, Where], Pair] | None = None
    safety_pair: Callable[[Columns, Where], SafetyPair] | None = None
    completion: Callable[[Columns, Where], Completion] | None = None

    def maker(self, use: Use) -> Callable[[Columns, Where], Example] | None:
        """What turns a row into an example of that use."""
        makers: dict[Use, Callable[[Columns, Where], Example] | None] = {
            "prompts": self.prompt,
            "conversations": self.conversation,
            "pairs": self.pair,
            "safety pairs": self.safety_pair,
            "completions": self.completion,
        }
        return makers[use]


def detect(row: Columns) -> str | None:
    """The format that a row's columns tell; None: no format has such columns."""
    names = set(row)
    if names.issuperset(SAFE_RLHF):
        return "safe-rlhf"
    if "messages" in names:
        return "messages"
    if {"chosen", "rejected"} <= names:
        told = "prompt" not in names and any(_is_dialogue(row[name]) for name in ("chosen", "rejected"))
        return "hh-rlhf" if told else "preference"
    if {"prompt", "completion"} <= names:
        return "prompt-completion"
    return "prompt-only" if "prompt" in names else None


def renamed(row: Columns, columns: Mapping[str, str]) -> Columns:
    """The row under the format's column names; `columns` maps those to the file's."""
    if not columns:
        return row
    taken = set(columns.values())
    kept = {name: value for name, value in row.items() if name not in taken and name not in columns}
    return kept | {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}


# Prompt-only, prompt-completion, messages


def _read_prompt(row: Columns) -> Messages:
    value = value_of(row, "prompt", "a string or a list of messages")
    if isinstance(value, list):
        return as_prompt(messages_of(value, "prompt"), "prompt")
    return as_prompt(user_says(text_of(row, "prompt")), "prompt")


def _prompt_only(row: Columns, where: Where) -> Prompt:
    return Prompt(_read_prompt(row), category_of(row), where, response_type_of(row))


def _completed(row: Columns, where: Where) -> Conversation:
    value = value_of(row, "completion", "a string or a list of messages")
    if isinstance(value, list):
        answer = messages_of(value, "completion")
    else:
        answer = ({"role": "assistant", "content": text_of(row, "completion")},)
    if "response_type" in row and rank_of(row):  # completions for rules: only the best are to be imitated
        raise Rejected("completion of a lower rank")
    prompt = _read_prompt(row)
    return _conversation((*prompt, *answer), "completion", where, given=len(prompt))


def _ruled_completion(row: Columns, where: Where) -> Completion:
    """A completion with what rules know of it; an empty one counts, as a policy gives it sooner or later."""
    value = value_of(row, "completion", "a string or a list of messages")
    answer = _one_answer(messages_of(value, "completion"), "completion") if isinstance(value, list) else None
    kind, known, rank = response_type_of(row), propositions_of(row), rank_of(row)
    if kind is None:
        raise Malformed("response_type", "no response type", "a string such as comply or hard_refuse")
    if known is None and rank is None:
        raise Malformed("propositions", "neither propositions nor rank", "one of them: what ranks the completion")
    return Completion(
        _read_prompt(row), text_of(row, "completion") if answer is None else answer, kind, where, known, rank
    )


def _conversation(messages: Messages, column: str, where: Where, given: int = 0) -> Conversation:
    """The dialogue up to its last answer; turns after it have none to learn from."""
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    if len(messages) <= given:
        raise Malformed(column, "no assistant's message", "one to learn from")
    if not messages[-1]["content"].strip():
        raise Rejected("empty answer")
    if len(messages) == 1:
        raise Rejected("empty prompt")
    return Conversation(messages, where, given)


def _from_messages(row: Columns, where: Where) -> Conversation:
    return _conversation(messages_of(value_of(row, "messages", "a list of messages"), "messages"), "messages", where)


def _prompt_of_messages(row: Columns, where: Where) -> Prompt:
    messages = messages_of(value_of(row, "messages", "a list of messages"), "messages")
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise Rejected("empty prompt")
    return Prompt(as_prompt(messages, "messages"), category_of(row), where, response_type_of(row))


# Preference


def _preference(row: Columns, where: Where) -> Pair:
    chosen, rejected = (value_of(row, name, "a string or a list of messages") for name in ("chosen", "rejected"))
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise Malformed("rejected", describe(rejected), "the same kind as chosen")
    if isinstance(chosen, list):
        prompt, better, worse = _conversational(row, chosen, rejected)
    else:
        prompt, better, worse = _standard(row)
    return _pair(prompt, better, worse, where, weight_of(row))


def _standard(row: Columns) -> tuple[Messages, str, str]:
    chosen, rejected = text_of(row, "chosen"), text_of(row, "rejected")
    if "prompt" in row:
        return _read_prompt(row), chosen, rejected
    # As TRL's extract_prompt: the longest common prefix; a space before the difference belongs to the answers.
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    end = min(len(chosen), len(rejected)) if same is None else same
    if end and chosen[end - 1] == " ":
        end -= 1
    if not chosen[:end].strip():
        raise Rejected("no common prompt")
    return user_says(chosen[:end]), chosen[end:], rejected[end:]


def _conversational(row: Columns, chosen: list[Any], rejected: list[Any]) -> tuple[Messages, str, str]:
    better, worse = messages_of(chosen, "chosen"), messages_of(rejected, "rejected")
    if "prompt" in row:
        prompt = _read_prompt(row)
        return prompt, _one_answer(better, "chosen"), _one_answer(worse, "rejected")
    prompt, first, second = _common(better, worse)
    return prompt, first, second


def _one_answer(messages: Messages, column: str) -> str:
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise Malformed(column, f"{len(messages)} messages, the last {messages[-1]['role']}'s", "one of the assistant")
    return messages[0]["content"]


def _common(better: Messages, worse: Messages) -> tuple[Messages, str, str]:
    """(common turns, the one's last answer, the other's)."""
    if better[-1]["role"] != "assistant" or worse[-1]["role"] != "assistant":
        raise Rejected("dialogue does not end with an answer")
    if better[:-1] != worse[:-1]:
        raise Rejected("dialogues differ before the last answer")
    if len(better) == 1:
        raise Rejected("no common prompt")
    return as_prompt(better[:-1], "chosen"), better[-1]["content"], worse[-1]["content"]


def _pair(prompt: Messages, better: str, worse: str, where: Where, weight: float = 1.0) -> Pair:
    if better == worse:
        raise Rejected("identical answers")
    return Pair(prompt, better, worse, where, weight)


# HH-RLHF


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip("\n").startswith(("Human:", "Assistant:"))


def parse_dialogue(text: str, column: str) -> Messages:
    """Turns of `\\n\\nHuman: ...\\n\\nAssistant: ...`, each without the blanks around it.

    Raises:
        Malformed: it does not start with a turn.
    """
    pieces = re.split(r"(?:^|\n\n|\A\n*)(Human|Assistant):", text)
    if pieces[0].strip() or len(pieces) < 3:
        raise Malformed(column, describe(text), "a dialogue that starts with '\\n\\nHuman:'")
    roles: dict[str, str] = {"Human": "user", "Assistant": "assistant"}
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    return tuple({"role": roles[role], "content": content.strip()} for role, content in turns)


def _dialogue(row: Columns, column: str) -> Messages:
    messages = parse_dialogue(text_of(row, column), column)
    if [message["role"] for message in messages[-2:]] == ["assistant", "assistant"]:
        raise Rejected("two answers in a row")
    return messages


def _hh_pair(row: Columns, where: Where) -> Pair:
    chosen, rejected = (_dialogue(row, name) for name in ("chosen", "rejected"))
    prompt, better, worse = _common(chosen, rejected)
    if not better or not worse:
        raise Rejected("empty answer")
    return _pair(prompt, better, worse, where)


def _hh_conversation(row: Columns, where: Where) -> Conversation:
    return _conversation(_dialogue(row, "chosen"), "chosen", where)


def _hh_prompt(row: Columns, where: Where) -> Prompt:
    messages = _dialogue(row, "chosen")
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise Rejected("empty prompt")
    return Prompt(as_prompt(messages, "chosen"), category_of(row), where, response_type_of(row))


def _preference_prompt(row: Columns, where: Where) -> Prompt:
    if "prompt" in row:
        return _prompt_only(row, where)
    return Prompt(_preference(row, where).prompt, category_of(row), where, response_type_of(row))


def _preference_conversation(row: Columns, where: Where) -> Conversation:
    pair = _preference(row, where)
    answer: Message = {"role": "assistant", "content": pair.better}
    return _conversation((*pair.prompt, answer), "chosen", where, given=len(pair.prompt))


# Safe RLHF


def _safe_answers(row: Columns) -> tuple[Messages, tuple[str, str]]:
    return _read_prompt(row), (text_of(row, "response_0"), text_of(row, "response_1"))


def _safe_pair(row: Columns, where: Where) -> Pair:
    prompt, answers = _safe_answers(row)
    better = which_of(row, "better_response_id")
    return _pair(prompt, answers[better], answers[1 - better], where)


def _safe_safety_pair(row: Columns, where: Where) -> SafetyPair:
    prompt, answers = _safe_answers(row)
    safer = which_of(row, "safer_response_id")
    safe = tuple(flag_of(row, column) for column in SAFETY_COLUMNS)
    if safe[1 - safer] and not safe[safer]:
        raise Rejected("inconsistent safety labels")
    if answers[0] == answers[1]:
        raise Rejected("identical answers")
    signs = tuple(-1 if flag else 1 for flag in safe)
    return SafetyPair(prompt, answers[1 - safer], answers[safer], signs[1 - safer], signs[safer], where)


FORMATS: dict[str, Format] = {
    "safe-rlhf": Format(SAFE_RLHF, _prompt_only, pair=_safe_pair, safety_pair=_safe_safety_pair),
    "prompt-only": Format(("prompt",), _prompt_only),
    "prompt-completion": Format(
        ("prompt", "completion"), _prompt_only, conversation=_completed, completion=_ruled_completion
    ),
    "preference": Format(
        ("chosen", "rejected"), _preference_prompt, conversation=_preference_conversation, pair=_preference
    ),
    "hh-rlhf": Format(("chosen", "rejected"), _hh_prompt, conversation=_hh_conversation, pair=_hh_pair),
    "messages": Format(("messages",), _prompt_of_messages, conversation=_from_messages),
}
"""By the name that `input.format` has."""
