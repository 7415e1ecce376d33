"""Does exactly one class hold, whatever is true? A search over combinations of simple propositions. Pure.

Combinations are not counted out (2^17 for a response type of the public policy): a proposition is only decided where
what is decided before leaves a class open, so that a chain of conjunctions takes as many steps as it is long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Needs = Mapping[str, bool]
Combination = dict[str, bool]

MOST_STEPS = 500_000
"""Looks at what a class or proposition needs; below a second."""


class Tangled(Exception):
    """More steps than MOST_STEPS: whether classes fit cannot be told."""


def contradiction(
    classes: Mapping[str, Needs], derived: Mapping[str, Needs]
) -> tuple[Combination, tuple[str, ...]] | None:
    """A combination in which not exactly one class holds; None where there is none.

    Args:
        classes: what each class needs.
        derived: what each derived proposition is made of, without cycles.

    Returns:
        (truth of the simple propositions that matter, classes that hold: none or two).

    Raises:
        Tangled: too many steps.
    """
    return _Search(classes, derived).run({})


@dataclass
class _Search:
    classes: Mapping[str, Needs]
    derived: Mapping[str, Needs]
    steps: int = 0

    def run(self, decided: Combination) -> tuple[Combination, tuple[str, ...]] | None:
        look = _Look(self.derived, decided)
        truths = {name: look.all(needs) for name, needs in self.classes.items()}
        self.steps += look.steps
        if self.steps > MOST_STEPS:
            raise Tangled(f"its classes are too tangled to be checked within {MOST_STEPS} steps")
        holding = tuple(name for name, truth in truths.items() if truth)
        if len(holding) > 1:
            return dict(decided), holding[:2]
        open_ = [name for name, truth in truths.items() if truth is None]
        if not open_:
            return None if holding else (dict(decided), ())
        proposition = look.undecided(self.classes[open_[0]])
        for value in (True, False):
            counterexample = self.run({**decided, proposition: value})
            if counterexample is not None:
                return counterexample
        return None


@dataclass
class _Look:
    """What is true where some simple propositions are decided."""

    derived: Mapping[str, Needs]
    decided: Combination
    steps: int = 0
    truths: dict[str, bool | None] = field(default_factory=dict)
    """Of derived propositions, each worked out once."""

    def truth(self, name: str) -> bool | None:
        """Of a proposition; None where it depends on what is not decided."""
        if name not in self.derived:
            return self.decided.get(name)
        if name not in self.truths:
            self.truths[name] = self.all(self.derived[name])
        return self.truths[name]

    def all(self, needs: Needs) -> bool | None:
        """Whether all of them hold; None where that depends on what is not decided."""
        verdict: bool | None = True
        for name, expected in needs.items():
            self.steps += 1
            truth = self.truth(name)
            if truth is None:
                verdict = None
            elif truth is not expected:
                return False
        return verdict

    def undecided(self, needs: Needs) -> str:
        """The first simple proposition that is not decided below needs that are open."""
        for name in needs:
            if self.truth(name) is None:
                return self.undecided(self.derived[name]) if name in self.derived else name
        raise ValueError("these needs are decided")
