"""How a model's choice between A and B is read: a beginning of its reply after which each label is one token."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_trainer.data.template import Tokenizer, ids_of
from rlhf_trainer.exits import InputError

LEADS = (("I choose answer", " A", " B"), ("I choose answer (", "A", "B"))
"""Begins the reply, and the labels that may follow; the first whose labels are single tokens is taken."""


@dataclass(frozen=True)
class Labels:
    """How a choice is read."""

    lead: str
    first: int
    """Id of A."""
    second: int
    """Id of B."""


def labels_of(tokenizer: Tokenizer, who: str = "judge") -> Labels:
    """The labels' tokens.

    Args:
        tokenizer: of the model that chooses.
        who: the model, for the message.

    Raises:
        InputError: no form of A and B is one token each, so that their probabilities cannot be read at one place.
    """
    tried = []
    for lead, first, second in LEADS:
        start = ids_of(tokenizer, lead, plain=True)
        ids = [ids_of(tokenizer, lead + label, plain=True) for label in (first, second)]
        tails = [label_ids[len(start) :] for label_ids in ids]
        if all(label_ids[: len(start)] == start and len(tail) == 1 for label_ids, tail in zip(ids, tails, strict=True)):
            return Labels(lead, tails[0][0], tails[1][0])
        tried.append(f"{first!r} after {lead!r}: {len(ids[0]) - len(start)} tokens")
    hint = "Judge with another model" if who == "judge" else "Leave out sycophancy and personas"
    raise InputError(
        f"{who}: its tokenizer has no single tokens for the labels A and B ({'; '.join(tried)}); expected one each. {hint}"
    )
