"""What rows must say for a policy: response types that it has, labels or ranks, and ranks that can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_trainer.data.rows import Completion
from rlhf_trainer.data.splits import canonical
from rlhf_trainer.exits import InputError
from rlhf_trainer.rules.policy import Policy


def check_completions(policy: Policy, rows: Sequence[Completion], *, labelled: bool) -> None:
    """Refuse completions that a policy says nothing of.

    Args:
        policy: the rules.
        rows: completions.
        labelled: whether every proposition that is graded must be labelled.

    Raises:
        InputError: names the row and what it lacks.
    """
    for row in rows:
        if row.response_type not in policy.classes:
            types = ", ".join(policy.types)
            raise InputError(f"{row.row}: response_type: found {row.response_type}; the policy has {types}")
        known_of = row.propositions or {}
        unknown = sorted(set(known_of) - set(policy.questions))
        if unknown:
            raise InputError(f"{row.row}: propositions: the policy has no {', '.join(unknown)}")
        missing = [name for name in policy.graded(row.response_type) if name not in known_of]
        if missing and (labelled or row.rank is None):
            why = (
                "gold rows, and features: labels, need each of them"
                if labelled
                else "without rank, labels rank a completion"
            )
            raise InputError(f"{row.row}: propositions: {', '.join(missing)} missing; {why} (docs/rules.md)")


def check_scales(rows: Sequence[Completion], *, by_prompt: bool) -> None:
    """Refuse to compare ranks that the data gives with places that labels give: 1 of either is another thing.

    Raises:
        InputError: names one completion of either kind that would be compared.
    """
    first: dict[tuple[str, bytes, bool], Completion] = {}
    for row in rows:
        group = (row.response_type, group_of(row, by_prompt=by_prompt))
        first.setdefault((*group, row.rank is None), row)
        with_rank, without = first.get((*group, False)), first.get((*group, True))
        if with_rank is not None and without is not None:
            what = "prompt" if by_prompt else "response type"
            raise InputError(
                f"{without.row}: has no rank, and {with_rank.row} of the same {what} has one; expected rank of all "
                "completions that are compared, or of none: then their labels rank them"
            )


def rank_of(policy: Policy, row: Completion) -> int:
    """Place of a completion, the lowest the best: the data's, where it gives one, else what its labels say."""
    return row.rank if row.rank is not None else policy.rank_of(row.response_type, row.propositions or {})


def group_of(row: Completion, *, by_prompt: bool) -> bytes:
    """What a completion is ranked within: its prompt, or its response type."""
    return canonical(row.prompt) if by_prompt else b""


def check_rank_apart(policy: Policy, rows: Sequence[Completion], *, by_prompt: bool) -> None:
    """Refuse completions of which no two make a pair.

    Raises:
        InputError: says so.
    """
    ranks: dict[tuple[str, bytes], set[int]] = {}
    for row in rows:
        ranks.setdefault((row.response_type, group_of(row, by_prompt=by_prompt)), set()).add(rank_of(policy, row))
    if not any(len(of_group) > 1 for of_group in ranks.values()):
        within = "prompt" if by_prompt else "response type"
        raise InputError(f"completions: no two of one {within} rank apart; there is nothing to fit")


def check_types(policy: Policy, kinds: Sequence[str | None], where: str) -> None:
    """Refuse response types of prompts that a policy does not have.

    Raises:
        InputError: names the type and what there is; or there is none at all.
    """
    types = {kind for kind in kinds if kind is not None}
    if not types:
        raise InputError(f"{where}: no prompt has a response type; expected a column response_type on some")
    for kind in sorted(types - set(policy.types)):
        raise InputError(f"{where}: found prompts of response type {kind}; the policy has {', '.join(policy.types)}")
