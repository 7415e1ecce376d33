"""Rules in use: answers are graded, each text once, and weighed."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from rlhf_api.fields import RulesRef
from rlhf_trainer import distributed
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.rows import Messages
from rlhf_trainer.data.splits import canonical
from rlhf_trainer.exits import InputError
from rlhf_trainer.rules.completions import check_types
from rlhf_trainer.rules.grader import Grader, Question
from rlhf_trainer.rules.policy import Policy
from rlhf_trainer.rules.probabilities import Classified, Floats, classify
from rlhf_trainer.rules.product import Weights

REMEMBERED = 1 << 16
"""Texts whose grades are kept; the oldest go first."""


@dataclass(frozen=True)
class RuleScores:
    """What rules say of answers, in their order."""

    rewards: Floats
    """[N] w . phi; 0 where an answer's prompt has no response type."""
    classes: list[str | None]
    """The most probable class; None without a response type."""
    kinds: list[str | None]
    """Response types."""
    policy: Policy

    def metrics(self) -> dict[str, float]:
        """`rbr.KIND`: mean reward; `class_share.KIND.CLASS`. Response types without an answer here have no entry."""
        metrics: dict[str, float] = {}
        for kind, classes in self.policy.classes.items():
            rows = [row for row, row_kind in enumerate(self.kinds) if row_kind == kind]
            if rows:
                metrics[f"rbr.{kind}"] = float(self.rewards[rows].mean())
                named = [self.classes[row] for row in rows]
                metrics |= {f"class_share.{kind}.{name}": named.count(name) / len(rows) for name in classes}
        return metrics


class RuleReward:
    """A grader and fitted weights. Every rank has one; texts that were graded before are not graded again."""

    def __init__(self, weights: Weights, grader: Grader, *, rank: int = 0, world: int = 1) -> None:
        self.weights = weights
        self.grader = grader
        self._rank = rank
        self._world = world
        self._known: OrderedDict[str, list[float]] = OrderedDict()
        self.graded = 0
        """Texts graded so far, over all ranks."""
        self.tokens = 0
        """Tokens computed for them in this process's life, over all ranks."""

    @property
    def policy(self) -> Policy:
        """The rules."""
        return self.weights.policy

    def check(self, kinds: Sequence[str | None], where: str, *, weighed: bool = True) -> None:
        """Refuse response types that the policy does not have, or that have no weights where answers are weighed.

        Raises:
            InputError: names the type and what there is; or there is none at all.
        """
        check_types(self.policy, kinds, where)
        types = {kind for kind in kinds if kind is not None}
        for kind in sorted(types - set(self.weights.weights)) if weighed else ():
            available = ", ".join(self.weights.weights)
            raise InputError(
                f"{where}: the rules have no weights for prompts of response type {kind}; they have {available}. Leave "
                "those prompts out, or fit the rules on ranked completions of that type"
            )

    def score(self, messages: Sequence[Messages], kinds: Sequence[str | None], texts: Sequence[str]) -> RuleScores:
        """Grade and weigh answers. A collective: each rank grades its share, all get the whole.

        Args:
            messages: prompts.
            kinds: their response types.
            texts: answers.
        """
        keys = [key_of(*answer) for answer in zip(messages, kinds, texts, strict=True)]
        self._learn(messages, kinds, texts, keys)
        rewards = np.zeros(len(keys), dtype=np.float64)
        classes: list[str | None] = [None] * len(keys)
        for kind in self.policy.types:
            rows = [row for row, row_kind in enumerate(kinds) if row_kind == kind]
            if rows:
                classified = self._classified(kind, [keys[row] for row in rows])
                names = list(self.policy.classes[kind])
                rewards[rows] = self.weights.rewards(kind, classified)
                for row, index in zip(rows, classified.classes, strict=True):
                    classes[row] = names[index]
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return RuleScores(rewards, classes, list(kinds), self.policy)

    def _classified(self, kind: str, keys: Sequence[str]) -> Classified:
        grades = np.array([self._known[key] for key in keys], dtype=np.float64)
        return classify(self.policy, kind, dict(zip(self.policy.graded(kind), grades.T, strict=True)))

    def _learn(
        self, messages: Sequence[Messages], kinds: Sequence[str | None], texts: Sequence[str], keys: Sequence[str]
    ) -> None:
        """Grade what is not known yet: the longest first, dealt over the ranks."""
        new = {key: row for row, key in reversed(list(enumerate(keys))) if kinds[row] and key not in self._known}
        rows = sorted(new.values(), key=lambda row: (-len(texts[row]), row))
        mine = rows[self._rank :: self._world]
        questions = [Question(messages[row], texts[row], self.policy.graded(str(kinds[row]))) for row in mine]
        grades = self.grader.grade(questions)
        new_grades = {keys[row]: list(grade.probabilities.values()) for row, grade in zip(mine, grades, strict=True)}
        gathered: dict[str, list[float]] = {}
        for part, tokens in distributed.gather((new_grades, sum(grade.tokens for grade in grades))):
            gathered |= part
            self.tokens += tokens
        for row in sorted(new.values()):
            self._known[keys[row]] = gathered[keys[row]]
        self.graded += len(new)

    def state(self) -> dict[str, Any]:
        """What is known: grades of the same text may differ in their last digits with what is graded beside it, so
        that a resumed run must not grade it again."""
        return {"known": dict(self._known), "graded": self.graded}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._known = OrderedDict(state["known"])
        self.graded = int(state["graded"])


def class_names(policy: Policy, kinds: Sequence[str | None], grades: Sequence[Mapping[str, float]]) -> list[str | None]:
    """The most probable class of each answer; None without a response type."""
    classes: list[str | None] = [None] * len(kinds)
    for kind in policy.types:
        rows = [row for row, row_kind in enumerate(kinds) if row_kind == kind]
        if rows:
            table = {name: np.array([grades[row][name] for row in rows]) for name in policy.graded(kind)}
            names = list(policy.classes[kind])
            for row, index in zip(rows, classify(policy, kind, table).classes, strict=True):
                classes[row] = names[index]
    return classes


def key_of(messages: Messages, kind: str | None, text: str) -> str:
    """Digest of all that the grades of an answer depend on, beside the rules."""
    return hashlib.sha256(orjson.dumps([canonical(messages).decode(), kind, text])).hexdigest()


def load_rules(context: StageContext, ref: RulesRef, where: str, dtype: str) -> RuleReward:
    """Rules with their grader.

    Raises:
        InputError: they cannot be read, or the grader is another than theirs.
    """
    weights = Weights.read(Path(context.input(ref).path))
    if ref.grader is None:
        raise InputError(
            f"{where}: the rules were fitted on labels, without a grader; set {where}.grader to one that answers for them"
        )
    grader = context.input(ref.grader)
    weights.check_grader(grader.digest, where)
    cache = context.storage / "inputs"
    model = Grader(
        grader.path,
        weights.policy,
        weights.asking,
        dtype=dtype,
        device=context.device,
        cache=cache,
        template=grader.template,
    )
    return RuleReward(weights, model, rank=context.rank, world=context.world)
