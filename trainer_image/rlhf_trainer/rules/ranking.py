"""Completions of a response type, ranked, with the features they are weighed by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_trainer.data.load import canonical, opening
from rlhf_trainer.data.rows import Completion
from rlhf_trainer.exits import InputError
from rlhf_trainer.rules.fit import Pairs, ranked_pairs
from rlhf_trainer.rules.policy import Policy
from rlhf_trainer.rules.probabilities import Classified, Floats, Grades, classify


@dataclass(frozen=True)
class Ranked:
    """Completions of one response type."""

    kind: str
    rows: list[int]
    """Their numbers among all completions."""
    ranks: list[int]
    """The lowest the best."""
    groups: list[bytes]
    """What they are ranked within: their prompt, or all of them."""
    openings: list[str]
    """What they are split by."""
    found: Classified
    reward: Floats
    """[N] R_rm."""

    @property
    def paired(self) -> set[str]:
        """Openings of completions that rank apart from another of their group."""
        ranks: dict[bytes, set[int]] = {}
        for group, rank in zip(self.groups, self.ranks, strict=True):
            ranks.setdefault(group, set()).add(rank)
        return {start for start, group in zip(self.openings, self.groups, strict=True) if len(ranks[group]) > 1}

    def pairs(self, openings: set[str], seed: int = 0) -> Pairs:
        """Better and worse completions, as places in this list, both with one of these openings.

        Args:
            openings: of the dialogues.
            seed: of what is drawn where there are more than MOST_PAIRS.
        """
        inside = [place for place, start in enumerate(self.openings) if start in openings]
        found = ranked_pairs([self.groups[one] for one in inside], [self.ranks[one] for one in inside], seed=seed)
        places = np.array(inside, dtype=np.int64)
        return Pairs(places[found.better], places[found.worse], found.there)


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
            known = ", ".join(policy.types)
            raise InputError(f"{row.row}: response_type: found {row.response_type}; the policy has {known}")
        known_of = row.propositions or {}
        unknown = sorted(set(known_of) - set(policy.questions))
        if unknown:
            raise InputError(f"{row.row}: propositions: the policy has no {', '.join(unknown)}")
        missing = [name for name in policy.graded(row.response_type) if name not in known_of]
        if missing and (labelled or row.rank is None):
            why = "labels are the features" if labelled else "without rank, labels rank a completion"
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


def rank_apart(policy: Policy, rows: Sequence[Completion], *, by_prompt: bool) -> bool:
    """Whether any two completions make a pair."""
    ranks: dict[tuple[str, bytes], set[int]] = {}
    for row in rows:
        ranks.setdefault((row.response_type, group_of(row, by_prompt=by_prompt)), set()).add(rank_of(policy, row))
    return any(len(found) > 1 for found in ranks.values())


def name_of(policy: Policy, row: Completion) -> str:
    """What a completion is: its rank where the data gives one, else its completion type or class."""
    if row.rank is not None:
        return f"rank {row.rank}"
    kind, known = row.response_type, row.propositions or {}
    if kind in policy.ranking:
        return policy.ranking[kind][policy.rank_of(kind, known)][0]
    return policy.class_of(kind, known)


def labels(policy: Policy, rows: Sequence[Completion], kind: str) -> Grades:
    """What people said as probabilities, 0 or 1."""
    found = {}
    for name in policy.graded(kind):
        found[name] = np.array([float((row.propositions or {})[name]) for row in rows], dtype=np.float64)
    return found


def ranked(
    policy: Policy, rows: Sequence[Completion], kind: str, grades: Grades, reward: Floats, *, by_prompt: bool
) -> Ranked:
    """The completions of a response type.

    Args:
        policy: the rules.
        rows: all completions.
        kind: a response type.
        grades: of its completions, in their order.
        reward: [N] R_rm of its completions.
        by_prompt: ranked within their prompt; else all of them.
    """
    numbers = [number for number, row in enumerate(rows) if row.response_type == kind]
    own = [rows[number] for number in numbers]
    return Ranked(
        kind,
        numbers,
        [rank_of(policy, row) for row in own],
        [group_of(row, by_prompt=by_prompt) for row in own],
        [opening(row) for row in own],
        classify(policy, kind, grades),
        reward,
    )
