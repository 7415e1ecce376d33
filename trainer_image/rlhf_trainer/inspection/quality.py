"""What the rows of a use are like as text: lengths, repetition, diversity. Pure."""

from __future__ import annotations

import math
import statistics
import unicodedata
from array import array
from typing import Any

from rlhf_trainer.evaluation import text as measures
from rlhf_trainer.inspection.minhash import normalise
from rlhf_trainer.inspection.texts import Row, TextSample, answers, prompts

SAMPLE = 1000
"""Different answers whose words are looked at, those of the lowest hash: distinct-2 of inputs of any size compares."""
REPETITIVE = 0.3
"""Share of its 4-grams that an answer already said, from which it is called repetitive."""


class Quality:
    """Measures of rows, taken in one by one. About 32 bytes a row, and SAMPLE answers."""

    def __init__(self) -> None:
        self.rows = 0
        self._prompts = TextSample(0)
        self._answers = TextSample(SAMPLE)
        self._prompt_lengths = array("L")
        self._answer_lengths = array("L")

    def add(self, row: Row) -> None:
        """Take a row in: its prompt (of a dialogue the first), and all of its answers."""
        self.rows += 1
        for prompt in prompts(row)[:1]:
            self._prompts.add(normalise(prompt))
            self._prompt_lengths.append(len(prompt))
        for answer in answers(row):
            self._answers.add(unicodedata.normalize("NFC", answer).strip())
            self._answer_lengths.append(len(answer))

    def as_dict(self) -> dict[str, Any]:
        """Shares in [0, 1], lengths in characters; None: rows have no answers, or no words.

        `repeatedPrompts`: share of rows whose prompt another row has too, case and spacing aside; `repeatedAnswers`: share
        of answers that another one repeats word for word; `distinct2` and `repetitive` are of `sampled` answers.
        """
        sample = self._answers.texts
        diversity = measures.distinct(sample, 2)
        repetitive = [measures.repetition(answer) >= REPETITIVE for answer in sample]
        return {
            "rows": self.rows,
            "answers": len(self._answers),
            "repeatedPrompts": self._prompts.repeated,
            "repeatedAnswers": self._answers.repeated,
            "promptLength": _length(self._prompt_lengths),
            "answerLength": _length(self._answer_lengths),
            "distinct2": None if math.isnan(diversity) else diversity,
            "repetitive": sum(repetitive) / len(repetitive) if repetitive else None,
            "repetitiveFrom": REPETITIVE,
            "sampled": len(sample),
        }


def _length(lengths: array[int]) -> dict[str, float] | None:
    return {"mean": statistics.fmean(lengths), "median": statistics.median(lengths)} if lengths else None
