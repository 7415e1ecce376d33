"""Which prompts can be simulated from."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_trainer.data.rows import CALLS, THOUGHTS, Counts, Prompt
from rlhf_trainer.exits import InputError


def check_plain(prompts: Sequence[Prompt]) -> None:
    """Refuse prompts with more than texts, which the phrases around them would lose.

    Raises:
        InputError: names the row and the field.
    """
    for prompt in prompts:
        fields = [key for message in prompt.messages for key in (*THOUGHTS, *CALLS) if message.get(key)]
        if prompt.tools or fields:
            raise InputError(
                f"prompts ({prompt.row}): found {'tools' if prompt.tools else fields[0]}; expected prompts of texts "
                "alone, as simulated answers call no tools"
            )


def with_types(prompts: Sequence[Prompt], counts: Counts) -> list[Prompt]:
    """The prompts with a response type; others are counted.

    Raises:
        InputError: none has one.
    """
    typed = [prompt for prompt in prompts if prompt.response_type is not None]
    if not typed:
        raise InputError(
            "completions: no prompt has a response type; expected a column `response_type` such as hard_refuse, "
            "safe_refuse or comply"
        )
    if len(typed) < len(prompts):
        counts.rejected["no response type"] += len(prompts) - len(typed)
        counts.used -= len(prompts) - len(typed)
    return typed
