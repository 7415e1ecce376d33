"""From columns to typed rows: Safe RLHF, TRL's formats (standard and conversational), HH-RLHF dialogues, ShareGPT,
Alpaca, and what published data sets make of them.

A string prompt is one user's message; conversations are taken as they are. docs/data-formats.md shows each format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from rlhf_trainer.data.columns import (
    Columns,
    Malformed,
    Rejected,
    as_prompt,
    category_of,
    flag_of,
    propositions_of,
    rank_of,
    response_type_of,
    text_of,
    text_or_list,
    typed,
    user_says,
    value_of,
    weight_of,
    which_of,
)
from rlhf_trainer.data.messages import messages_of, plain_answer, tools_of
from rlhf_trainer.data.readers import describe
from rlhf_trainer.data.rows import (
    Completion,
    Conversation,
    Message,
    Messages,
    Pair,
    Prompt,
    SafetyPair,
    Where,
    says_something,
)

Use = Literal["prompts", "conversations", "pairs", "safety pairs", "completions"]
Example = Prompt | Conversation | Pair | SafetyPair | Completion

SAFETY_COLUMNS = ("is_response_0_safe", "is_response_1_safe")
SAFE_RLHF = ("prompt", "response_0", "response_1")
DIALOGUES = ("messages", "conversations", "conversation")
"""Columns that hold whole conversations."""
COMPLETIONS = ("completion", "response")
"""Columns that hold an answer to `prompt`."""
OUTPUTS, INPUTS = ("output", "response"), ("input", "context")
"""Alpaca's columns, and Dolly's names of them."""


@dataclass(frozen=True)
class Format:
    """How rows of one format become examples; None: they cannot."""

    required: tuple[tuple[str, ...], ...]
    """Columns that rows have: of each tuple, one."""
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
        make = makers[use]
        return make and (lambda row, where: _with_tools(make(row, where), row))


def _with_tools(example: Example, row: Columns) -> Example:
    """An example with the tools of its row."""
    tools = tools_of(row)
    if not tools:
        return example
    if isinstance(example, Completion):
        raise Malformed("tools", describe(row["tools"]), "none in completions for rules")
    return replace(example, tools=tools)


def detect(row: Columns) -> str | None:
    """The format that a row's columns tell; None: no format has such columns. Columns without a value tell nothing."""
    names = {name for name, value in row.items() if value is not None}
    if names.issuperset(SAFE_RLHF):
        return "safe-rlhf"
    if {"chosen", "rejected"} <= names:
        spoken = "prompt" not in names and any(_is_dialogue(row[name]) for name in ("chosen", "rejected"))
        return "hh-rlhf" if spoken else "preference"
    if names.intersection(DIALOGUES):
        return "messages"
    if "instruction" in names and names.intersection(OUTPUTS):
        return "alpaca"
    if "prompt" in names and names.intersection(COMPLETIONS):
        return "prompt-completion"
    return "prompt-only" if "prompt" in names else None


def renamed(row: Columns, columns: Mapping[str, str]) -> Columns:
    """The row under the format's column names; `columns` maps those to the file's."""
    if not columns:
        return row
    mapped = set(columns.values())
    others = {name: value for name, value in row.items() if name not in mapped and name not in columns}
    return others | {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}


# Prompt-only, prompt-completion, messages


def _first(row: Columns, columns: tuple[str, ...]) -> str:
    """Of some columns the first that the row has a value of."""
    return next((column for column in columns if row.get(column) is not None), columns[0])


def _read_prompt(row: Columns) -> Messages:
    """The turns before the answer: messages, a text of one user, or an HH-RLHF transcript."""
    value = text_or_list(value_of(row, "prompt", "a string or a list of messages"))
    if isinstance(value, list):
        return as_prompt(messages_of(value, "prompt"), "prompt")
    text = text_of(row, "prompt")
    if not _is_transcript(text):
        return as_prompt(user_says(text), "prompt")
    turns = parse_dialogue(text, "prompt")
    return as_prompt(turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns, "prompt")


def _is_transcript(value: Any) -> bool:
    """Whether a text is a dialogue of HH-RLHF, and not one that merely begins like it."""
    return _is_dialogue(value) and (value[0] in "\r\n" or _TURN.search(value) is not None)


def _prompt_only(row: Columns, where: Where) -> Prompt:
    return Prompt(_read_prompt(row), category_of(row), where, response_type_of(row))


def _completed(row: Columns, where: Where) -> Conversation:
    column = _first(row, COMPLETIONS)
    value = text_or_list(value_of(row, column, "a string or a list of messages"))
    if isinstance(value, list):
        answer = messages_of(value, column)
    else:
        answer = ({"role": "assistant", "content": _answer_text(row, column)},)
    if "response_type" in row and rank_of(row):  # completions for rules: only the best are to be imitated
        raise Rejected("completion of a lower rank")
    if typed(row.get("is_safe")) is False:  # BeaverTails
        raise Rejected("unsafe answer")
    prompt = _read_prompt(row)
    return _conversation((*prompt, *answer), column, where, prompt_turns=len(prompt))


def _answer_text(row: Columns, column: str) -> str:
    """An answer; after a transcript without the blank that follows `Assistant:`."""
    text = text_of(row, column)
    return text.strip() if _is_transcript(row.get("prompt")) else text


def _ruled_completion(row: Columns, where: Where) -> Completion:
    """A completion with what rules know of it; an empty one counts, as a policy gives it sooner or later."""
    value = text_or_list(value_of(row, "completion", "a string or a list of messages"))
    answer = _one_answer(messages_of(value, "completion"), "completion") if isinstance(value, list) else None
    kind, propositions, rank = response_type_of(row), propositions_of(row), rank_of(row)
    if kind is None:
        raise Malformed("response_type", "no response type", "a string such as comply or hard_refuse")
    if propositions is None and rank is None:
        raise Malformed("propositions", "neither propositions nor rank", "one of them: what ranks the completion")
    return Completion(
        _read_prompt(row), text_of(row, "completion") if answer is None else answer, kind, where, propositions, rank
    )


def _conversation(messages: Messages, column: str, where: Where, prompt_turns: int = 0) -> Conversation:
    """The dialogue up to its last learned answer; turns after it have none to learn from."""
    answers = [
        index for index, message in enumerate(messages) if index >= prompt_turns and message["role"] == "assistant"
    ]
    if not answers:
        raise Malformed(column, "no assistant's message", "one to learn from")
    learned = [index for index in answers if messages[index].get("learned", True)]
    if not learned:
        raise Rejected("no learned answer")
    messages = messages[: learned[-1] + 1]
    if not says_something(messages[-1]):
        raise Rejected("empty answer")
    if len(messages) == 1:
        raise Rejected("empty prompt")
    return Conversation(messages, where, prompt_turns)


def _dialogue_of(row: Columns) -> tuple[Messages, str]:
    """(turns, the column they stand in)."""
    column = _first(row, DIALOGUES)
    messages = messages_of(value_of(row, column, "a list of messages"), column)
    return _after_system(row, messages), column


def _after_system(row: Columns, messages: Messages) -> Messages:
    """Messages after the text of the column `system`, where a row has one and they have none."""
    if messages[0]["role"] == "system" or not row.get("system"):
        return messages
    return ({"role": "system", "content": text_of(row, "system")}, *messages)


def _from_messages(row: Columns, where: Where) -> Conversation:
    messages, column = _dialogue_of(row)
    return _conversation(messages, column, where)


def _prompt_of_messages(row: Columns, where: Where) -> Prompt:
    messages, column = _dialogue_of(row)
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise Rejected("empty prompt")
    return Prompt(as_prompt(messages, column), category_of(row), where, response_type_of(row))


# Alpaca


def _alpaca_turns(row: Columns) -> Messages:
    """The instruction, its input below it; before them `history`, pairs of what was said and answered."""
    turns: list[Message] = []
    history = typed(row.get("history")) or []
    if not isinstance(history, list):
        raise Malformed("history", describe(history), "a list of [instruction, answer]")
    for index, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise Malformed(f"history[{index}]", describe(pair), "[instruction, answer]")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    extra = _first(row, INPUTS)
    further = text_of(row, extra) if row.get(extra) is not None else ""
    text = text_of(row, "instruction")
    turns.append({"role": "user", "content": f"{text}\n\n{further}" if further.strip() else text})
    return as_prompt(_after_system(row, tuple(turns)), "instruction")


def _alpaca_prompt(row: Columns, where: Where) -> Prompt:
    return Prompt(_alpaca_turns(row), category_of(row), where, response_type_of(row))


def _alpaca_conversation(row: Columns, where: Where) -> Conversation:
    prompt, column = _alpaca_turns(row), _first(row, OUTPUTS)
    answer: Message = {"role": "assistant", "content": text_of(row, column)}
    return _conversation((*prompt, answer), column, where, prompt_turns=len(prompt))


# Preference


def _preference(row: Columns, where: Where) -> Pair:
    chosen, rejected = (_answers_of(row, name) for name in ("chosen", "rejected"))
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise Malformed("rejected", describe(rejected), "the same kind as chosen")
    if isinstance(chosen, list):
        prompt, better, worse = _conversational(row, messages_of(chosen, "chosen"), messages_of(rejected, "rejected"))
    else:
        prompt, better, worse = _standard(row)
    return _pair(prompt, better, worse, where, weight_of(row))


def _answers_of(row: Columns, column: str) -> Any:
    """A text, or a list of messages; a message alone (ShareGPT's preferences) is a list of one."""
    value = value_of(row, column, "a string or a list of messages")
    return [value] if isinstance(value, dict) else text_or_list(value)


def _standard(row: Columns) -> tuple[Messages, str, str]:
    chosen, rejected = text_of(row, "chosen"), text_of(row, "rejected")
    if _has_prompt(row):
        if _is_transcript(row.get("prompt")) and _is_transcript(chosen) and _is_transcript(rejected):
            return _conversational(row, _dialogue(row, "chosen"), _dialogue(row, "rejected"))
        return _prompt_of_preference(row), _answer_text(row, "chosen"), _answer_text(row, "rejected")
    # As TRL's extract_prompt: the longest common prefix; a space before the difference belongs to the answers.
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    end = min(len(chosen), len(rejected)) if same is None else same
    if end and chosen[end - 1] == " ":
        end -= 1
    if not chosen[:end].strip():
        raise Rejected("no common prompt")
    return user_says(chosen[:end]), chosen[end:], rejected[end:]


def _has_prompt(row: Columns) -> bool:
    """Whether a preference says its prompt: in `prompt`, or as the turns before the answers in a column of dialogues."""
    return row.get("prompt") is not None or row.get("conversations") is not None


def _prompt_of_preference(row: Columns) -> Messages:
    if row.get("prompt") is not None:
        return _after_system(row, _read_prompt(row))
    messages = messages_of(row["conversations"], "conversations")
    return as_prompt(_after_system(row, messages), "conversations")


def _conversational(row: Columns, better: Messages, worse: Messages) -> tuple[Messages, str, str]:
    if not _has_prompt(row):
        return _common(better, worse)
    prompt = _prompt_of_preference(row)
    if len(better) == len(worse) == 1:
        return prompt, _one_answer(better, "chosen"), _one_answer(worse, "rejected")
    # The prompt again, as in UltraFeedback: one of the user's turns before the answers, or all of them.
    turns, first, second = _common(better, worse)
    if not _user_texts(prompt) <= _user_texts(turns):
        raise Malformed(
            "prompt", "another text than the turns before the answers", "what chosen and rejected begin with"
        )
    return turns, first, second


def _user_texts(messages: Messages) -> set[str]:
    return {message["content"].strip() for message in messages if message["role"] == "user"}


def _one_answer(messages: Messages, column: str) -> str:
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise Malformed(column, f"{len(messages)} messages, the last {messages[-1]['role']}'s", "one of the assistant")
    return plain_answer(messages[0], column)


def _common(better: Messages, worse: Messages) -> tuple[Messages, str, str]:
    """(common turns, the one's last answer, the other's)."""
    if better[-1]["role"] != "assistant" or worse[-1]["role"] != "assistant":
        raise Rejected("dialogue does not end with an answer")
    if better[:-1] != worse[:-1]:
        raise Rejected("dialogues differ before the last answer")
    if len(better) == 1:
        raise Rejected("no common prompt")
    return as_prompt(better[:-1], "chosen"), plain_answer(better[-1], "chosen"), plain_answer(worse[-1], "rejected")


def _pair(prompt: Messages, better: str, worse: str, where: Where, weight: float = 1.0) -> Pair:
    if better == worse:
        raise Rejected("identical answers")
    return Pair(prompt, better, worse, where, weight)


# HH-RLHF


_TURN = re.compile(r"\n[ \t\r]*\n[ \t]*(?:Human|Assistant):")
"""The start of a turn within a dialogue."""
_TURNS = re.compile(r"(?:\A\s*|\n[ \t]*\n[ \t]*)(Human|Assistant):")


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith(("Human:", "Assistant:"))


def parse_dialogue(text: str, column: str) -> Messages:
    """Turns of `\\n\\nHuman: ...\\n\\nAssistant: ...`, each without the blanks around it; lines end in LF or CRLF.

    Raises:
        Malformed: it does not start with a turn.
    """
    pieces = _TURNS.split(text.replace("\r\n", "\n"))
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
    prompt = _prompt_of_preference(row) if _has_prompt(row) else _preference(row, where).prompt
    return Prompt(prompt, category_of(row), where, response_type_of(row))


def _preference_conversation(row: Columns, where: Where) -> Conversation:
    pair = _preference(row, where)
    answer: Message = {"role": "assistant", "content": pair.better}
    return _conversation((*pair.prompt, answer), "chosen", where, prompt_turns=len(pair.prompt))


# Safe RLHF


def _safe_answers(row: Columns) -> tuple[Messages, tuple[str, str]]:
    return _read_prompt(row), (_answer_text(row, "response_0"), _answer_text(row, "response_1"))


def _safe_pair(row: Columns, where: Where) -> Pair:
    prompt, answers = _safe_answers(row)
    better = which_of(row, "better_response_id")
    return _pair(prompt, answers[better], answers[1 - better], where)


def _safe_safety_pair(row: Columns, where: Where) -> SafetyPair:
    prompt, answers = _safe_answers(row)
    safer = which_of(row, "safer_response_id")
    safe = tuple(_is_safe(row, number) for number in (0, 1))
    if safe[1 - safer] and not safe[safer]:
        raise Rejected("inconsistent safety labels")
    if answers[0] == answers[1]:
        raise Rejected("identical answers")
    signs = tuple(-1 if flag else 1 for flag in safe)
    return SafetyPair(prompt, answers[1 - safer], answers[safer], signs[1 - safer], signs[safer], where)


def _is_safe(row: Columns, number: int) -> bool:
    """An answer's label; PKU-SafeRLHF's severity, 0 for a safe answer, says the same."""
    safe, severity = flag_of(row, SAFETY_COLUMNS[number]), typed(row.get(f"response_{number}_severity_level"))
    if severity is not None and (severity == 0) != safe:
        raise Rejected("inconsistent safety labels")
    return safe


FORMATS: dict[str, Format] = {
    "safe-rlhf": Format(
        tuple((name,) for name in SAFE_RLHF), _prompt_only, pair=_safe_pair, safety_pair=_safe_safety_pair
    ),
    "prompt-only": Format((("prompt",),), _prompt_only),
    "prompt-completion": Format(
        (("prompt",), COMPLETIONS), _prompt_only, conversation=_completed, completion=_ruled_completion
    ),
    "preference": Format(
        (("chosen",), ("rejected",)), _preference_prompt, conversation=_preference_conversation, pair=_preference
    ),
    "hh-rlhf": Format((("chosen",), ("rejected",)), _hh_prompt, conversation=_hh_conversation, pair=_hh_pair),
    "messages": Format((DIALOGUES,), _prompt_of_messages, conversation=_from_messages),
    "alpaca": Format((("instruction",), OUTPUTS), _alpaca_prompt, conversation=_alpaca_conversation),
}
"""By the name that `input.format` has."""
