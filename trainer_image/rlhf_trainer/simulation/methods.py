"""What each method asks for: which phrases a row draws, and what the judge is told. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_api.fields import ModelRef
from rlhf_api.stages.simulate import Rlaif, RlcdRescore, Simulate
from rlhf_trainer.exits import InputError
from rlhf_trainer.simulation.phrases import SET, STYLES, TASKS, Ask, styles_of
from rlhf_trainer.simulation.sampling import PHRASES, drawn


@dataclass(frozen=True)
class Request:
    """The answers of one row."""

    phrases: tuple[tuple[str | None, str | None], ...]
    """(phrase of the answer, phrase of the assistant's earlier turns) an answer."""
    drawn: int | None
    """Number of the entry of the list that was drawn."""
    instruction: str | None = None
    """What the judge is told to choose by."""

    @property
    def secret_phrases(self) -> list[str]:
        """Every phrase that no answer may repeat."""
        return list(dict.fromkeys(phrase for both in self.phrases for phrase in both if phrase is not None))


class Method:
    """One method with its list to draw from."""

    def __init__(self, spec: Simulate, seed: int) -> None:
        self.spec = spec
        self.seed = seed
        self.name = spec.method
        self.asks = asks_of(spec)
        """What is drawn from; empty for completions and red-teaming."""
        self._styles: dict[str, dict[str, tuple[str, ...]]] = {}
        for style in spec.completions.styles if spec.completions is not None else []:
            grades = self._styles.setdefault(style.response_type, {})
            grades[style.grade] = (*grades.get(style.grade, ()), style.phrase)

    @property
    def judged(self) -> Rlaif | RlcdRescore | None:
        """The method's spec where a judge chooses."""
        return self.spec.rlaif or self.spec.rlcd_rescore

    @property
    def judge(self) -> ModelRef | None:
        """The model that chooses; None where none does."""
        return None if self.judged is None else self.judged.judge or self.spec.model

    @property
    def answers(self) -> int:
        """Answers a row."""
        return {"contextDistillation": 1, "redTeam": 1, "completions": len(SET)}.get(self.name, 2)

    def request(self, row: int, response_type: str | None = None) -> Request:
        """What a row asks for.

        Args:
            row: its number: prompt x samples + sample.
            response_type: of its prompt, for completions.
        """
        if self.name == "completions":
            return self._graded(row, str(response_type))
        index = drawn(self.seed, PHRASES, row, 1, len(self.asks))[0]
        ask = self.asks[index]
        if self.name == "rlaif":
            return Request(((None, None), (None, None)), index, ask.instruction)
        better, worse = (ask.positive, ask.negative), (ask.negative, ask.positive)
        if self.name == "contextDistillation":
            return Request((better,), index)
        return Request((better, worse), index, ask.instruction if self.name == "rlcdRescore" else None)

    def _graded(self, row: int, response_type: str) -> Request:
        styles = self.styles(response_type)
        phrases: list[tuple[str | None, str | None]] = []
        for stream, grade in enumerate(dict.fromkeys(SET)):
            for index in drawn(self.seed, PHRASES + 1 + stream, row, SET.count(grade), len(styles[grade])):
                phrases.append((styles[grade][index], None))
        return Request(tuple(phrases), None)

    def styles(self, response_type: str) -> dict[str, tuple[str, ...]]:
        """Phrases by grade.

        Raises:
            InputError: a grade has too few; the sub-optimal completions have different flaws.
        """
        by_grade = styles_of(response_type, self._styles)
        for grade in dict.fromkeys(SET):
            if len(by_grade[grade]) < SET.count(grade):
                raise InputError(
                    f"completions: response type {response_type!r} has {len(by_grade[grade])} phrases for {grade}; expected "
                    f"at least {SET.count(grade)}. Known types: {', '.join(STYLES)}; add phrases under completions.styles"
                )
        return by_grade


def asks_of(spec: Simulate) -> tuple[Ask, ...]:
    """The list that a row draws from: the task's, then the user's own."""
    method = spec.rlcd or spec.context_distillation or spec.rlcd_rescore or spec.rlaif
    if method is None:
        return ()
    user_asks: Sequence[Ask]
    if isinstance(method, Rlaif):
        user_asks = [Ask("", "", instruction) for instruction in method.instructions]
    else:
        user_asks = [
            Ask(phrase.positive, phrase.negative, getattr(phrase, "instruction", "")) for phrase in method.phrases
        ]
    return (*TASKS[method.task], *user_asks)
