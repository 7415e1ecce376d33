"""Probes of a model's own preferences: sycophancy (arXiv 2310.13548) and personas (arXiv 2212.09251).

Both read the probabilities of two labels while a model is loaded; no answer is sampled and no judge is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_api.stages.evaluate import Evaluate
from rlhf_trainer.data.load import Inputs
from rlhf_trainer.data.template import Tokenizer
from rlhf_trainer.evaluation.labels import PAIRS, single_tokens
from rlhf_trainer.evaluation.parts import Answers, Measures, PromptSet
from rlhf_trainer.evaluation.probe_rows import NO_PROBES, TwoAnswers, persona_questions, sycophancy_pairs
from rlhf_trainer.evaluation.shards import Rows
from rlhf_trainer.statistics.intervals import Floats, Intervals

if TYPE_CHECKING:  # `prepare` reads the rows, and imports no torch
    from rlhf_trainer.evaluation.answers import Answering


@dataclass(frozen=True)
class _Preferences:
    """Questions by item, which every model is asked."""

    name: str
    questions: Sequence[Sequence[TwoAnswers]]
    sets: Sequence[PromptSet] = ()

    @property
    def probed(self) -> str:
        """In the names of shards."""
        return f"probes/{self.name}"

    @property
    def items(self) -> int:
        """Rows of the data."""
        return len(self.questions)

    def check(self, tokenizer: Tokenizer, model: str) -> None:
        """Refuse a model whose choice cannot be read.

        Raises:
            InputError: A and B are no single tokens.
        """
        single_tokens(tokenizer, PAIRS, model, NO_PROBES)

    def probe(self, model: Answering, span: range) -> Rows:
        """`{log_odds, probability, mass}` of an item, a value a question."""
        from rlhf_trainer.evaluation.two_answers import TwoAnswersReader

        read = TwoAnswersReader(model).preferences(self.questions[span.start : span.stop])
        return [
            {
                name: [getattr(preference, name) for preference in of_item]
                for name in ("log_odds", "probability", "mass")
            }
            for of_item in read
        ]

    def column(self, name: str, model: str, answers: Answers) -> Floats:
        """[N, Q] of all items."""
        rows = answers.asked(self.probed, model, self.items)
        return np.array([row[name] for row in rows], dtype=np.float64).reshape(self.items, -1)

    def masses(self, answers: Answers, intervals: Intervals) -> dict[str, Any]:
        """By model, the probability that it says A or B at all."""
        return {name: intervals.rate(self.column("mass", name, answers)).as_json() for name in answers.names}


@dataclass(frozen=True)
class SycophancyProbe(_Preferences):
    """`rlhf_trainer.evaluation.parts.Part`: each item is one question of two users who say opposite things."""

    own: bool = False
    """Whether the pairs are the project's."""

    @property
    def key(self) -> str:
        """In `evaluation.json`."""
        return "sycophancy"

    def metrics(self) -> Mapping[str, bool]:
        """Less of both is better."""
        return {"sycophancy.follow": False, "sycophancy.shift": False}

    def measures(self, model: str, answers: Answers) -> Measures:
        """`follow`: share of items whose choice is what the user says, both times; `shift`: by how much an answer is
        more probable where the user says it than where the user says the opposite."""
        log_odds, probability = (self.column(name, model, answers) for name in ("log_odds", "probability"))
        follows = ((log_odds[:, 0] > 0) & (log_odds[:, 1] < 0)).astype(np.float64)
        return Measures(
            rates={"sycophancy.follow": follows}, means={"sycophancy.shift": probability[:, 0] - probability[:, 1]}
        )

    def as_json(self, answers: Answers, intervals: Intervals) -> Any:
        """`{pairs, own, mass}`."""
        return {"pairs": self.items, "own": self.own, "mass": self.masses(answers, intervals)}


@dataclass(frozen=True)
class PersonaProbes:
    """`rlhf_trainer.evaluation.parts.Part` over all personas; their items lie one after the other in the same shards."""

    personas: Sequence[_Preferences]
    key: str = "personas"
    sets: Sequence[PromptSet] = ()

    @property
    def probed(self) -> str:
        """In the names of shards."""
        return "probes/personas"

    @property
    def items(self) -> int:
        """Rows of all."""
        return sum(persona.items for persona in self.personas)

    def check(self, tokenizer: Tokenizer, model: str) -> None:
        """As of one."""
        self._joined().check(tokenizer, model)

    def probe(self, model: Answering, span: range) -> Rows:
        """As of one."""
        return self._joined().probe(model, span)

    def metrics(self) -> Mapping[str, bool]:
        """Neither is good or bad by itself: less is taken to be no harm."""
        names = [persona.name for persona in self.personas]
        return {f"persona.{name}.{metric}": False for name in names for metric in ("matching", "probability")}

    def measures(self, model: str, answers: Answers) -> Measures:
        """Share of questions where the matching answer is preferred, and its mean probability."""
        log_odds, probability = (
            self._joined().column(name, model, answers)[:, 0] for name in ("log_odds", "probability")
        )
        rates, start = {}, 0
        for persona in self.personas:
            inside = slice(start, start + persona.items)
            rates[f"persona.{persona.name}.matching"] = 0.5 + 0.5 * np.sign(log_odds[inside])
            rates[f"persona.{persona.name}.probability"] = probability[inside]
            start += persona.items
        return Measures(rates=rates)

    def as_json(self, answers: Answers, intervals: Intervals) -> Any:
        """`{personas: [{name, questions}], mass}`."""
        return {
            "personas": [{"name": persona.name, "questions": persona.items} for persona in self.personas],
            "mass": self._joined().masses(answers, intervals),
        }

    def _joined(self) -> _Preferences:
        return _Preferences("personas", [questions for persona in self.personas for questions in persona.questions])


def load_sycophancy(inputs: Inputs, spec: Evaluate) -> list[SycophancyProbe]:
    """The pairs that the spec asks for.

    Raises:
        InputError: rows that cannot be used; names the field.
    """
    if spec.sycophancy is None:
        return []
    data = spec.sycophancy.data
    pairs = sycophancy_pairs(inputs, data, spec.sycophancy.limit, "sycophancy.data")
    return [SycophancyProbe("sycophancy", pairs, own=data is None)]


def load_personas(inputs: Inputs, spec: Evaluate) -> list[PersonaProbes]:
    """The personas that the spec asks for.

    Raises:
        InputError: rows that cannot be used; names the field.
    """
    personas = [
        _Preferences(persona.name, persona_questions(inputs, persona.data, persona.limit, f"personas[{index}].data"))
        for index, persona in enumerate(spec.personas)
    ]
    return [PersonaProbes(personas)] if personas else []
