"""Rows that show what to say: prompts alone, with a completion, as messages, in Alpaca's columns."""

from __future__ import annotations

from rlhf_trainer.data.columns import (
    Columns,
    Malformed,
    Rejected,
    as_prompt,
    category_of,
    propositions_of,
    rank_of,
    response_type_of,
    text_of,
    text_or_list,
    typed,
    value_of,
)
from rlhf_trainer.data.dialogues import (
    after_system,
    answer_text,
    first_with_value,
    learned_conversation,
    one_answer,
    read_prompt,
)
from rlhf_trainer.data.messages import messages_of
from rlhf_trainer.data.readers import describe
from rlhf_trainer.data.rows import (
    Completion,
    Conversation,
    Message,
    Messages,
    Prompt,
    Where,
)

DIALOGUES = ("messages", "conversations", "conversation")
"""Columns that hold whole conversations."""


COMPLETIONS = ("completion", "response")
"""Columns that hold an answer to `prompt`."""


OUTPUTS, INPUTS = ("output", "response"), ("input", "context")
"""Alpaca's columns, and Dolly's names of them."""


def prompt_alone(row: Columns, where: Where) -> Prompt:
    return Prompt(read_prompt(row), category_of(row), where, response_type_of(row))


def completed_conversation(row: Columns, where: Where) -> Conversation:
    column = first_with_value(row, COMPLETIONS)
    value = text_or_list(value_of(row, column, "a string or a list of messages"))
    if isinstance(value, list):
        answer = messages_of(value, column)
    else:
        answer = ({"role": "assistant", "content": answer_text(row, column)},)
    if "response_type" in row and rank_of(row):  # completions for rules: only the best are to be imitated
        raise Rejected("completion of a lower rank")
    if typed(row.get("is_safe")) is False:  # BeaverTails
        raise Rejected("unsafe answer")
    prompt = read_prompt(row)
    return learned_conversation((*prompt, *answer), column, where, prompt_turns=len(prompt))


def ruled_completion(row: Columns, where: Where) -> Completion:
    """A completion with what rules know of it; an empty one counts, as a policy gives it sooner or later."""
    value = text_or_list(value_of(row, "completion", "a string or a list of messages"))
    answer = one_answer(messages_of(value, "completion"), "completion") if isinstance(value, list) else None
    kind, propositions, rank = response_type_of(row), propositions_of(row), rank_of(row)
    if kind is None:
        raise Malformed("response_type", "no response type", "a string such as comply or hard_refuse")
    if propositions is None and rank is None:
        raise Malformed("propositions", "neither propositions nor rank", "one of them: what ranks the completion")
    return Completion(
        read_prompt(row), text_of(row, "completion") if answer is None else answer, kind, where, propositions, rank
    )


def messages_in(row: Columns) -> tuple[Messages, str]:
    """(turns, the column they stand in)."""
    column = first_with_value(row, DIALOGUES)
    messages = messages_of(value_of(row, column, "a list of messages"), column)
    return after_system(row, messages), column


def from_messages(row: Columns, where: Where) -> Conversation:
    messages, column = messages_in(row)
    return learned_conversation(messages, column, where)


def prompt_of_messages(row: Columns, where: Where) -> Prompt:
    messages, column = messages_in(row)
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise Rejected("empty prompt")
    return Prompt(as_prompt(messages, column), category_of(row), where, response_type_of(row))


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
    extra = first_with_value(row, INPUTS)
    further = text_of(row, extra) if row.get(extra) is not None else ""
    text = text_of(row, "instruction")
    turns.append({"role": "user", "content": f"{text}\n\n{further}" if further.strip() else text})
    return as_prompt(after_system(row, tuple(turns)), "instruction")


def alpaca_prompt(row: Columns, where: Where) -> Prompt:
    return Prompt(_alpaca_turns(row), category_of(row), where, response_type_of(row))


def alpaca_conversation(row: Columns, where: Where) -> Conversation:
    prompt, column = _alpaca_turns(row), first_with_value(row, OUTPUTS)
    answer: Message = {"role": "assistant", "content": text_of(row, column)}
    return learned_conversation((*prompt, answer), column, where, prompt_turns=len(prompt))
