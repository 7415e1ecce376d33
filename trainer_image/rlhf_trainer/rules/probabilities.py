"""From the grader's probabilities to those of classes, and to the features that are weighed. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.rules.policy import Needs, Policy

Floats = NDArray[np.float64]
Grades = Mapping[str, Floats]
"""[N] probability of each simple proposition, by name."""


@dataclass(frozen=True)
class Classified:
    """Completions of one response type."""

    probabilities: Floats
    """[N, C] of its classes, in the policy's order; rows sum to 1."""
    features: Floats
    """[N, F] in the order of the policy's features."""
    uniform: int
    """Completions all of whose classes had probability 0: every class is taken for as likely."""

    @property
    def classes(self) -> NDArray[np.int64]:
        """[N] the most probable class; the better one of two alike."""
        likeliest: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return likeliest


def classify(policy: Policy, kind: str, grades: Grades) -> Classified:
    """Classes and features of completions of a response type.

    A proposition made of others has the product of their probabilities, 1 - phi for one that must be false
    (arXiv 2411.01111, 4.1); a class likewise, normalised over the classes.

    Args:
        policy: the rules.
        kind: a response type.
        grades: what `policy.graded(kind)` names.

    Raises:
        KeyError: a proposition is not graded.
    """
    phi: dict[str, Floats] = {name: np.asarray(grades[name], dtype=np.float64) for name in policy.graded(kind)}
    for name, needs in policy.derived.items():
        if all(part in phi for part in needs):
            phi[name] = _product(needs, phi)
    raw = np.stack([_product(needs, phi) for needs in policy.classes[kind].values()], axis=1)
    total = raw.sum(axis=1, keepdims=True)
    nothing = total[:, 0] <= 0
    even = np.full_like(raw, 1 / raw.shape[1])
    probabilities = np.where(nothing[:, None], even, raw / np.where(nothing[:, None], 1.0, total))
    columns = dict(zip(policy.classes[kind], probabilities.T, strict=True))
    features = np.stack([columns[name] if name in columns else phi[name] for name in policy.features[kind]], axis=1)
    return Classified(probabilities, features, int(nothing.sum()))


def _product(needs: Needs, phi: Mapping[str, Floats]) -> Floats:
    product = np.ones_like(next(iter(phi.values())))
    for name, expected in needs.items():
        product = product * (phi[name] if expected else 1 - phi[name])
    return product
