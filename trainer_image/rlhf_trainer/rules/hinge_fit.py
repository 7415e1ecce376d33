"""Weights that make the total reward rank completions as the rules do (arXiv 2411.01111, 4.2). Pure.

Per response type a linear w over the features phi: the mean over ranked pairs of
max(0, 1 - (R_tot(better) - R_tot(worse))), R_tot = R_rm + w . phi, from w = 0 by AdamW. There is no randomness in it:
a seed only decides which prompts are held out, and which pairs are drawn where there are too many.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.exits import GuardTripped

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

MOST_PAIRS = 100_000
"""Of one group: its pairs grow with the square of its completions, what they teach does not."""


@dataclass(frozen=True)
class Descent:
    """How weights are found."""

    iterations: int = 1000
    learning_rate: float = 1e-2
    weight_decay: float = 0.05


@dataclass(frozen=True)
class Fitted:
    """What came of it."""

    weights: Floats
    """[F]."""
    losses: Floats
    """[iterations] mean hinge before each step."""


class Pairs(NamedTuple):
    """Completions that rank apart."""

    better: Indices
    """[P]."""
    worse: Indices
    """[P]."""
    total: int
    """Pairs that there are; P unless some were drawn."""


def fit(better: Floats, worse: Floats, reward_gap: Floats, how: Descent) -> Fitted:
    """Fit the weights of one response type.

    Args:
        better: [N, F] features of the better completion of each pair.
        worse: [N, F] of the other.
        reward_gap: [N] R_rm(better) - R_rm(worse).
        how: steps, rate and decay.

    Raises:
        ValueError: there is no pair.
        GuardTripped: rewards made of the weights (features are from 0 to 1) would not be finite.
    """
    import torch  # not by the measures of pairs below, which `prepare` and the report need

    if not len(better):
        raise ValueError("no pair to fit on")
    gaps = torch.from_numpy(np.ascontiguousarray(better - worse, dtype=np.float64))
    reward_gaps = torch.from_numpy(np.asarray(reward_gap, dtype=np.float64))
    weights = torch.zeros(gaps.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([weights], lr=how.learning_rate, weight_decay=how.weight_decay)
    losses = []
    for _ in range(how.iterations):
        optimizer.zero_grad()
        loss = torch.relu(1 - (reward_gaps + gaps @ weights)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    largest = weights.detach().abs().sum().item()
    if not largest <= torch.finfo(torch.float32).max:
        raise GuardTripped(
            f"the weights are not finite, or too large for a reward ({largest:g} in sum), after {how.iterations} steps "
            f"with learningRate {how.learning_rate:g} and weightDecay {how.weight_decay:g}; a learningRate around 0.01 is usual",
            reason="NaN",
        )
    return Fitted(weights.detach().numpy(), torch.stack(losses).numpy())


def ranked_pairs(groups: Sequence[Hashable], ranks: Sequence[int], *, seed: int = 0, most: int = MOST_PAIRS) -> Pairs:
    """Every better and worse completion of one group; a lower rank is better.

    Pairs come in the order of completions: the same rows give the same pairs.

    Args:
        groups: [N] what a completion is ranked within.
        ranks: [N].
        seed: of what is drawn from a group that has more pairs than `most`.
        most: pairs of a group.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    draw, places = np.random.default_rng(seed), np.asarray(ranks, dtype=np.int64)
    by_group = [_pairs_of(np.array(inside), places[inside], draw, most) for inside in members.values()]
    better = np.concatenate([_NONE, *(pairs.better for pairs in by_group)])
    worse = np.concatenate([_NONE, *(pairs.worse for pairs in by_group)])
    order = np.lexsort((worse, better))
    return Pairs(better[order], worse[order], sum(pairs.total for pairs in by_group))


_NONE: Indices = np.zeros(0, dtype=np.int64)


def _pairs_of(members: Indices, ranks: Indices, draw: np.random.Generator, most: int) -> Pairs:
    """Pairs of one group, numbered by the better one: those to draw need not all be written down."""
    order = np.argsort(ranks, kind="stable")
    first_worse = np.searchsorted(ranks[order], ranks[order], side="right")
    counts = len(members) - first_worse
    ends = np.cumsum(counts)
    total = int(ends[-1])
    numbers = np.arange(total) if total <= most else draw.choice(total, most, replace=False, shuffle=False)
    better = np.searchsorted(ends, numbers, side="right")
    worse = first_worse[better] + numbers - (ends - counts)[better]
    return Pairs(members[order[better]], members[order[worse]], total)


def errors(better: Floats, worse: Floats) -> Floats:
    """[N] 1 where the better completion scores lower, 0.5 where both score alike."""
    wrong: Floats = 0.5 - 0.5 * np.sign(better - worse)
    return wrong
