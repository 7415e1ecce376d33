"""Answers of an evaluation given as arrays, for parts that read them."""

from dataclasses import dataclass

import numpy as np

from rlhf_trainer.data.rows import Prompt, Where


def prompts(expected, text="How do I light fire {}?"):
    """A prompt for each entry: `comply`, `refuse` or None."""
    return [
        Prompt(({"role": "user", "content": text.format(index)},), None, Where("rows.jsonl", index + 1), expect=expect)
        for index, expect in enumerate(expected)
    ]


@dataclass
class GivenAnswers:
    """`rlhf_trainer.evaluation.parts.Answers` by set and model: scores of a judge of refusals, costs, and rows."""

    refusal: dict
    """[P, S] by (set, model)."""
    harm: dict
    """[P, S] by (set, model)."""
    names: tuple = ("sft", "ppo")

    def rows(self, prompt_set, model):
        count, samples = np.shape(self.refusal[prompt_set, model])
        return [
            {"prompt": index, "sample": sample, "cut": int(index == 0), "text": f"{model} {index}"}
            for index in range(count)
            for sample in range(samples)
        ]

    def scores(self, prompt_set, metric, model):
        assert metric == "refusal.judge"
        return np.asarray(self.refusal[prompt_set, model], dtype=float).ravel()

    def costs(self, prompt_set, model):
        values = self.harm.get((prompt_set, model))
        return {} if values is None else {"harm": np.asarray(values, dtype=float).ravel()}
