"""The policy file: propositions to grade, what they combine to, and which class of completion ranks above which.

A response type (`comply`, `hard_refuse`, ...) is what a prompt asks for. For each, the classes say what a completion is:
whatever is true of the simple propositions, exactly one class holds. docs/rules.md shows the format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rlhf_api.digest import digest_of

Needs = Mapping[str, bool]
"""What must be true and what false, by proposition; all of it must hold."""

BLANK = re.compile(r"\{(question|response)\}")
"""What a template's text is put in for."""


@dataclass(frozen=True)
class Measures:
    """What the safety measures of an evaluation count."""

    unsafe: tuple[str, ...] = ()
    """Classes of unsafe completions."""
    comply: tuple[str, ...] = ()
    """Response types whose prompts should be answered."""
    refusal: tuple[str, ...] = ()
    """Classes that are refusals on those."""


@dataclass(frozen=True)
class Policy:
    """A policy without contradictions."""

    template: str
    """What the grader is asked after the conversation, with `{question}` and perhaps `{response}`."""
    questions: Mapping[str, str]
    """The simple propositions, each a question of yes or no, in the file's order."""
    derived: Mapping[str, Needs]
    """Propositions made of others, each after those it is made of."""
    order: tuple[str, ...]
    """Classes, the best first."""
    classes: Mapping[str, Mapping[str, Needs]]
    """By response type, then by class in `order`: what a completion of the class needs."""
    features: Mapping[str, tuple[str, ...]]
    """By response type: the propositions and classes whose probabilities are weighed, in order."""
    ranking: Mapping[str, tuple[tuple[str, Needs], ...]] = field(default_factory=dict)
    """By response type, where it is not the order of its classes: completion types, the best first; the first that
    holds is a completion's."""
    measures: Measures = Measures()

    @property
    def types(self) -> tuple[str, ...]:
        """Response types, in the file's order."""
        return tuple(self.classes)

    @property
    def digest(self) -> str:
        """Of all that the policy says; layout and comments of its file do not count."""
        return digest_of(as_json(self))

    def graded(self, kind: str) -> tuple[str, ...]:
        """The simple propositions that a response type's classes and features rest on, in the file's order."""
        named = [name for name in self.features[kind] if name not in self.classes[kind]]
        needed = [name for needs in self.classes[kind].values() for name in needs]
        rests_on = {simple for name in (*named, *needed) for simple in self.reached(name)}
        return tuple(name for name in self.questions if name in rests_on)

    def reached(self, name: str) -> frozenset[str]:
        """The simple propositions that a proposition rests on."""
        return self._reached.get(name, frozenset((name,)))

    @cached_property
    def _reached(self) -> dict[str, frozenset[str]]:
        return reached(self.derived)

    def holds(self, needs: Needs, propositions: Mapping[str, bool]) -> bool:
        """Whether all of `needs` holds.

        Raises:
            KeyError: a simple proposition it rests on is not known.
        """
        truths: dict[str, bool] = {}

        def all_of(needs: Needs) -> bool:
            return all(truth(name) is expected for name, expected in needs.items())

        def truth(name: str) -> bool:
            if name not in self.derived:
                return propositions[name]
            if name not in truths:  # once each: propositions may share what they are made of, at every level
                truths[name] = all_of(self.derived[name])
            return truths[name]

        return all_of(needs)

    def class_of(self, kind: str, propositions: Mapping[str, bool]) -> str:
        """The one class that holds.

        Raises:
            KeyError: a simple proposition that the classes rest on is not known.
        """
        return next(name for name, needs in self.classes[kind].items() if self.holds(needs, propositions))

    def rank_of(self, kind: str, propositions: Mapping[str, bool]) -> int:
        """Place of a completion among those of its response type, 0 the best.

        Raises:
            KeyError: a simple proposition that the ranking rests on is not known.
        """
        if kind not in self.ranking:
            return self.order.index(self.class_of(kind, propositions))
        places = (index for index, (_, needs) in enumerate(self.ranking[kind]) if self.holds(needs, propositions))
        return next(places)  # the last completion type holds of everything

    def question_for(self, name: str, response: str) -> str:
        """The template with a proposition's question, and the response where the template repeats it."""
        texts = {"question": self.questions[name], "response": response}
        return BLANK.sub(lambda blank: texts[blank[1]], self.template)


def reached(derived: Mapping[str, Needs]) -> dict[str, frozenset[str]]:
    """The simple propositions below each derived one, which stand after those that they are made of."""
    below: dict[str, frozenset[str]] = {}
    for name, needs in derived.items():
        below[name] = frozenset().union(*(below.get(part, (part,)) for part in needs))
    return below


def default_features(questions: Sequence[str], classes: Mapping[str, Needs], derived: Mapping[str, Needs]) -> list[str]:
    """The simple propositions that a response type's classes rest on, then the classes."""
    below = reached(derived)
    rests_on = {simple for needs in classes.values() for name in needs for simple in below.get(name, (name,))}
    return [*(name for name in questions if name in rests_on), *classes]


def as_json(policy: Policy) -> dict[str, Any]:
    """A policy as its file would say it, everything written out: what `parse_policy` reads back as an equal policy."""
    return {
        "prompt_template": policy.template,
        "completion_class_order": list(policy.order),
        "completion_classes": {
            name: {kind: dict(of[name]) for kind, of in policy.classes.items() if name in of} for name in policy.order
        },
        "derived_propositions": {name: dict(needs) for name, needs in policy.derived.items()},
        "simple_propositions": {name: {"prompt": text} for name, text in policy.questions.items()},
        "features": {kind: list(names) for kind, names in policy.features.items()},
        "ranking": {kind: [{name: dict(needs)} for name, needs in of] for kind, of in policy.ranking.items()},
        "measures": {
            "unsafe": list(policy.measures.unsafe),
            "comply": list(policy.measures.comply),
            "refusal": list(policy.measures.refusal),
        },
    }
