"""`rules`: rule-based rewards (RBR, arXiv 2411.01111): weights of a grader's answers, fitted beside a reward model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from rlhf_api.base import ApiModel, Cel, distinct
from rlhf_api.errors import Finding
from rlhf_api.fields import (
    MAX_ITEMS,
    SOME,
    Count,
    DataRef,
    DataRefs,
    FileRef,
    ModelRef,
    NonNegative,
    Positive,
    RewardJudge,
    Seed,
)
from rlhf_api.stages.common import Dtype

Words = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=40)]],
    Field(max_length=MAX_ITEMS),
    SOME,
    AfterValidator(distinct),
]


class Rules(ApiModel):
    """Weights of rules: R_rm + w . phi ranks completions as the policy does; phi is what a grader finds true of them."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.grader) || {features} == 'labels'", "features of the grader need one", ".grader"),
        Cel("has(self.grader) || {gold}.size() == 0", "gold without a grader, which it measures", ".gold"),
    )

    policy: FileRef
    """The policy file: propositions, classes and their order (docs/rules.md)."""
    reward: RewardJudge
    """What the rules are added to; the weights hold beside it and no other."""
    grader: ModelRef | None = None
    """The model that answers the policy's questions with yes or no."""
    completions: DataRefs
    """Ranked completions to fit on: prompt, completion, response_type, and propositions or rank."""
    gold: Annotated[list[DataRef], Field(max_length=MAX_ITEMS)] = []
    """Completions whose propositions people labelled: the grader is measured on them, nothing is fitted."""
    features: Literal["grader", "labels"] = "grader"
    """What weights are fitted on: the grader's probabilities, or the labels of the completions (true or false)."""
    pairs: Literal["prompt", "responseType"] = "prompt"
    """What is ranked: completions of the same prompt, or all of one response type, where prompts have one each."""
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """Share of prompts whose completions are measured, never fitted on (split by prompt, seeded)."""
    seeds: Annotated[int, Field(ge=1, le=64)] = 5
    """Fits, each with a split of its own; the first one's weights are the product's, the others show the spread."""
    iterations: Count = 1000
    """Steps of AdamW over all pairs."""
    learning_rate: Positive = 1e-2
    """Learning rate."""
    weight_decay: NonNegative = 0.05
    """Decoupled weight decay."""
    yes_words: Words = ["yes", "Yes", "YES", " yes", " Yes", " YES"]
    """What counts as yes, each with its place in noWords; pairs of which either is no single token are left out."""
    no_words: Words = ["no", "No", "NO", " no", " No", " NO"]
    """What counts as no."""
    max_tokens: Annotated[int, Field(ge=64, le=1048576)] = 2048
    """Tokens of what the grader reads; of longer conversations the start is cut. Counted."""
    dtype: Dtype = "float32"
    """Compute type of grader and reward model."""
    seed: Seed | None = None
    """Seed of the splits; by default `spec.seed`."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.grader is None and self.features == "grader":
            yield Finding(("grader",), "is missing; features of the grader need one", "set grader, or features: labels")
        if self.grader is None and self.gold:
            yield Finding(("gold",), "found gold without a grader, which it measures", "set grader, or leave gold out")
        if len(self.yes_words) != len(self.no_words):
            message = f"found {len(self.no_words)} words beside {len(self.yes_words)} yesWords; expected as many"
            yield Finding(("noWords",), message, "each word of yesWords has its opposite at its place")
