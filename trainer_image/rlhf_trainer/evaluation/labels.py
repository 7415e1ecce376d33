"""What judges may reply, and whether their tokenizers can say it. Without torch: `prepare` asks, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_trainer.data.chat import FALLBACK_TEMPLATE
from rlhf_trainer.data.template import Tokenizer, ids_of
from rlhf_trainer.exits import InputError

DIGITS = tuple(str(digit) for digit in range(1, 9))
Leads = Sequence[tuple[str, Sequence[str]]]
"""How a reply may begin, with the labels that may follow."""
PAIRS: Leads = (("I choose answer", (" A", " B")), ("I choose answer (", ("A", "B")))
"""Of a choice between two answers; the first whose labels are single tokens is taken."""
SCALE: Leads = (("I rate it", tuple(f" {digit}" for digit in DIGITS)), ("I rate it (", DIGITS))
"""Of a rating."""


@dataclass(frozen=True)
class Labels:
    """How a judge's choice is read."""

    lead: str
    """Begins the reply."""
    ids: tuple[int, ...]
    """Of each label, in their order."""


def single_tokens(
    tokenizer: Tokenizer, leads: Leads, who: str = "judge", hint: str = "Judge with another model"
) -> Labels:
    """The labels' tokens after the first beginning at which each is a single one.

    Args:
        tokenizer: Of the model that chooses.
        leads: How the reply may begin, with the labels that may follow.
        who: The model, for the message.
        hint: What to do about it.

    Raises:
        InputError: there is none, so that the labels' probabilities cannot be read at one place.
    """
    tried = []
    for lead, labels in leads:
        start = ids_of(tokenizer, lead, plain=True)
        ids = [ids_of(tokenizer, lead + label, plain=True) for label in labels]
        tails = [label_ids[len(start) :] for label_ids in ids]
        if all(label_ids[: len(start)] == start and len(tail) == 1 for label_ids, tail in zip(ids, tails, strict=True)):
            return Labels(lead, tuple(tail[0] for tail in tails))
        tried.append(f"{labels[0]!r} after {lead!r}: {len(ids[0]) - len(start)} tokens")
    names = [label.strip() for label in leads[0][1]]
    several = f"{names[0]} and {names[1]}" if len(names) == 2 else f"{names[0]} to {names[-1]}"
    raise InputError(
        f"{who}: its tokenizer has no single tokens for the labels {several} ({'; '.join(tried)}); expected one each. {hint}"
    )


def own_template(tokenizer: Tokenizer) -> None:
    """Refuse a prepared tokenizer that came without a chat template.

    Raises:
        InputError: there is none.
    """
    if tokenizer.chat_template == FALLBACK_TEMPLATE:
        raise InputError("guard: found no chat template; expected the guard's own, which asks its question")


def check_labels(tokenizer: Tokenizer, asks: str) -> None:
    """Refuse a judge whose replies could not be read; `asks` as in the spec.

    Raises:
        InputError: its labels are several tokens, or a guard has no chat template.
    """
    if asks == "guard":
        own_template(tokenizer)
    else:
        single_tokens(tokenizer, PAIRS if asks == "pairs" else SCALE)
