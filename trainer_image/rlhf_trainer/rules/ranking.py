"""Completions of a response type, ranked, with the features they are weighed by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_trainer.data.rows import Completion
from rlhf_trainer.data.splits import opening
from rlhf_trainer.rules.completions import group_of, rank_of
from rlhf_trainer.rules.hinge_fit import Pairs, ranked_pairs
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
    classified: Classified
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
        inside = [index for index, start in enumerate(self.openings) if start in openings]
        pairs = ranked_pairs(
            [self.groups[index] for index in inside], [self.ranks[index] for index in inside], seed=seed
        )
        places = np.array(inside, dtype=np.int64)
        return Pairs(places[pairs.better], places[pairs.worse], pairs.total)


def name_of(policy: Policy, row: Completion) -> str:
    """What a completion is: its rank where the data gives one, else its completion type or class."""
    if row.rank is not None:
        return f"rank {row.rank}"
    kind, propositions = row.response_type, row.propositions or {}
    if kind in policy.ranking:
        return policy.ranking[kind][policy.rank_of(kind, propositions)][0]
    return policy.class_of(kind, propositions)


def labels(policy: Policy, rows: Sequence[Completion], kind: str) -> Grades:
    """What people said as probabilities, 0 or 1."""
    columns = {}
    for name in policy.graded(kind):
        columns[name] = np.array([float((row.propositions or {})[name]) for row in rows], dtype=np.float64)
    return columns


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
    members = [rows[number] for number in numbers]
    return Ranked(
        kind,
        numbers,
        [rank_of(policy, row) for row in members],
        [group_of(row, by_prompt=by_prompt) for row in members],
        [opening(row) for row in members],
        classify(policy, kind, grades),
        reward,
    )
