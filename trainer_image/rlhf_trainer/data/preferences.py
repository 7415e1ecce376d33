"""Rows that compare two answers: preferences, HH-RLHF dialogues, Safe RLHF."""

from __future__ import annotations

from typing import Any

from rlhf_trainer.data.columns import (
    Columns,
    Malformed,
    Rejected,
    as_prompt,
    category_of,
    flag_of,
    response_type_of,
    text_of,
    text_or_list,
    typed,
    user_says,
    value_of,
    weight_of,
    which_of,
)
from rlhf_trainer.data.dialogues import (
    after_system,
    answer_text,
    is_transcript,
    learned_conversation,
    one_answer,
    parse_dialogue,
    read_prompt,
)
from rlhf_trainer.data.messages import messages_of, plain_answer
from rlhf_trainer.data.readers import describe
from rlhf_trainer.data.rows import (
    Conversation,
    Message,
    Messages,
    Pair,
    Prompt,
    SafetyPair,
    Where,
)

SAFETY_COLUMNS = ("is_response_0_safe", "is_response_1_safe")


SAFE_RLHF = ("prompt", "response_0", "response_1")


def preference_pair(row: Columns, where: Where) -> Pair:
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
        if is_transcript(row.get("prompt")) and is_transcript(chosen) and is_transcript(rejected):
            return _conversational(row, _dialogue(row, "chosen"), _dialogue(row, "rejected"))
        return _prompt_of_preference(row), answer_text(row, "chosen"), answer_text(row, "rejected")
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
        return after_system(row, read_prompt(row))
    messages = messages_of(row["conversations"], "conversations")
    return as_prompt(after_system(row, messages), "conversations")


def _conversational(row: Columns, better: Messages, worse: Messages) -> tuple[Messages, str, str]:
    if not _has_prompt(row):
        return _common(better, worse)
    prompt = _prompt_of_preference(row)
    if len(better) == len(worse) == 1:
        return prompt, one_answer(better, "chosen"), one_answer(worse, "rejected")
    # The prompt again, as in UltraFeedback: one of the user's turns before the answers, or all of them.
    turns, first, second = _common(better, worse)
    if not _user_texts(prompt) <= _user_texts(turns):
        raise Malformed(
            "prompt", "another text than the turns before the answers", "what chosen and rejected begin with"
        )
    return turns, first, second


def _user_texts(messages: Messages) -> set[str]:
    return {message["content"].strip() for message in messages if message["role"] == "user"}


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


def _dialogue(row: Columns, column: str) -> Messages:
    messages = parse_dialogue(text_of(row, column), column)
    if [message["role"] for message in messages[-2:]] == ["assistant", "assistant"]:
        raise Rejected("two answers in a row")
    return messages


def hh_pair(row: Columns, where: Where) -> Pair:
    chosen, rejected = (_dialogue(row, name) for name in ("chosen", "rejected"))
    prompt, better, worse = _common(chosen, rejected)
    if not better or not worse:
        raise Rejected("empty answer")
    return _pair(prompt, better, worse, where)


def hh_conversation(row: Columns, where: Where) -> Conversation:
    return learned_conversation(_dialogue(row, "chosen"), "chosen", where)


def hh_prompt(row: Columns, where: Where) -> Prompt:
    messages = _dialogue(row, "chosen")
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise Rejected("empty prompt")
    return Prompt(as_prompt(messages, "chosen"), category_of(row), where, response_type_of(row))


def preference_prompt(row: Columns, where: Where) -> Prompt:
    prompt = _prompt_of_preference(row) if _has_prompt(row) else preference_pair(row, where).prompt
    return Prompt(prompt, category_of(row), where, response_type_of(row))


def preference_conversation(row: Columns, where: Where) -> Conversation:
    pair = preference_pair(row, where)
    answer: Message = {"role": "assistant", "content": pair.better}
    return learned_conversation((*pair.prompt, answer), "chosen", where, prompt_turns=len(pair.prompt))


def _safe_answers(row: Columns) -> tuple[Messages, tuple[str, str]]:
    return read_prompt(row), (answer_text(row, "response_0"), answer_text(row, "response_1"))


def safe_pair(row: Columns, where: Where) -> Pair:
    prompt, answers = _safe_answers(row)
    better = which_of(row, "better_response_id")
    return _pair(prompt, answers[better], answers[1 - better], where)


def safe_safety_pair(row: Columns, where: Where) -> SafetyPair:
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
