"""`evaluate`: candidates against a baseline on the same held-out prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from rlhf_api.base import ApiModel, Cel, exactly_one, one_of, ordered
from rlhf_api.errors import Finding
from rlhf_api.fields import (
    MAX_ITEMS,
    Contender,
    Contenders,
    CostJudge,
    Count,
    DataRefs,
    DocumentsRef,
    Name,
    NonNegative,
    RewardJudge,
    RulesRef,
    Seed,
    TaskFileRef,
    same_labels,
)
from rlhf_api.stages.common import Dtype
from rlhf_api.stages.judges import Judge

SUITE = "suite."
"""What metrics of suites begin with."""
ORDERED = Cel("!has(self.max) || !has(self.min) || self.min <= self.max", "min is above max")
BOUND = (Cel("has(self.max) || has(self.min)", "expected max or min"), ORDERED)


class Gate(ApiModel):
    """A bound that a candidate must keep for the job to go on; a failed one is exit code 3, reason GateFailed."""

    cel = (
        Cel("has(self.max) || has(self.min) || has(self.noWorse)", "expected max, min or noWorse"),
        ORDERED,
        Cel("!has(self.noWorse) || !(has(self.max) || has(self.min))", "noWorse is a bound of its own", ".noWorse"),
        Cel("!has(self.noWorse) || {compare} == 'value'", "noWorse compares by itself; leave it out", ".compare"),
        Cel("!has(self.noWorse) || self.metric.startsWith('suite.')", "noWorse is for suites", ".metric"),
    )

    metric: Annotated[str, Field(min_length=1, max_length=80)]
    """A metric of the evaluation's table, such as `cost.harm`, `harmful_rate`, `win_rate`, `kl`, `length`."""
    max: float | None = None
    """Largest value allowed."""
    min: float | None = None
    """Smallest value allowed."""
    compare: Literal["value", "interval", "difference"] = "value"
    """What must keep the bound: the estimate, its whole interval, or the difference to the baseline."""
    no_worse: NonNegative | None = None
    """Margin by which a suite may be worse than the baseline's; the whole interval of the difference must show it."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.max is None and self.min is None and self.no_worse is None:
            yield Finding((), "found neither max, min nor noWorse; expected a bound")
        yield from ordered(self, "min", "max")
        if self.no_worse is None:
            return
        if self.max is not None or self.min is not None:
            yield Finding(("noWorse",), "stands beside max or min; noWorse is a bound of its own", "make two gates")
        if self.compare != "value":
            yield Finding(
                ("compare",), f"found {self.compare} beside noWorse, which compares by itself", "leave it out"
            )
        if not self.metric.startswith(SUITE):
            yield Finding(("metric",), f"found {self.metric}; noWorse is for suites", "suite.NAME, or max and min")


class Suite(ApiModel):
    """A task of lm-eval: what models still can do, by answers that are right or wrong and by no judge."""

    cel = (one_of("task", "file"),)

    name: Name
    """Name in metrics and tables: `suite.NAME`."""
    task: Annotated[str, Field(min_length=1, max_length=120)] | None = None
    """Name of a task in lm-eval's registry."""
    file: TaskFileRef | None = None
    """A task file of lm-eval; it names no code."""
    data: DocumentsRef
    """The task's documents, in the columns of its own data set."""
    shots: Annotated[int, Field(ge=0, le=64)] = 0
    """Solved documents before each; drawn from the same rows, never the document itself."""
    limit: Count | None = None
    """Take only the first documents."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from exactly_one(self, ("task", "file"))


class Generation(ApiModel):
    """How answers are sampled."""

    cel = (
        Cel("{temperature} > 0.0 || {samples} == 1", "samples at temperature 0 are all the same answer", ".samples"),
    )

    max_new_tokens: Count = 128
    """Tokens an answer may have."""
    max_prompt_tokens: Count = 512
    """Longer prompts lose their start; also those that leave the answer no room within the positions. Counted."""
    temperature: NonNegative = 1.0
    """0: greedy."""
    samples: Annotated[int, Field(ge=1, le=64)] = 1
    """Answers a prompt."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.temperature == 0 and self.samples > 1:
            message = f"found {self.samples} samples at temperature 0, which are all the same answer"
            yield Finding(("samples",), message, "set samples to 1, or raise the temperature")


class Evaluate(ApiModel):
    """Candidates against a baseline on the same held-out prompts, with bootstrap intervals over prompts."""

    candidates: Contenders
    """The models to judge."""
    baseline: Contender
    """The model they are compared with."""
    prompts: DataRefs
    """Held-out prompts; a column `category` breaks the harmful rate down."""
    rewards: Annotated[list[RewardJudge], Field(max_length=MAX_ITEMS)] = []
    """Judges of helpfulness; with no judge at all, those the candidates were trained with."""
    costs: Annotated[list[CostJudge], Field(max_length=MAX_ITEMS)] = []
    """Judges of harm: a score above 0 is harmful."""
    judges: Annotated[list[Judge], Field(max_length=MAX_ITEMS)] = []
    """Further judges: models that are asked which answer is better, how good it is, or whether it is harmful."""
    suites: Annotated[list[Suite], Field(max_length=MAX_ITEMS)] = []
    """Tasks of lm-eval that every model is given, for what training may have broken."""
    rule_based: Annotated[RulesRef | None, Field(alias="rules")] = None
    """Rules that say of what class an answer is, for prompts with a response type."""
    generation: Generation = Generation()
    """How answers are sampled."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Coverage of the intervals."""
    resamples: Annotated[int, Field(ge=100, le=100000)] = 2000
    """Bootstrap resamples."""
    gates: Annotated[list[Gate], Field(max_length=MAX_ITEMS)] = []
    """Bounds that every candidate must keep."""
    show: Annotated[int, Field(ge=0, le=64)] = 12
    """Sample answers kept for the report."""
    dtype: Dtype = "float32"
    """Compute type."""
    seed: Seed | None = None
    """Seed of sampling and bootstrap; by default `spec.seed`."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from same_labels(self.rewards, "rewards")
        yield from same_labels(self.costs, "costs")
        yield from same_labels(self.judges, "judges")
        for index, suite in enumerate(self.suites):
            if suite.name in [earlier.name for earlier in self.suites[:index]]:
                yield Finding(
                    ("suites", index, "name"), f"another suite is called {suite.name}", "give it a name of its own"
                )
        first_index: dict[str, int] = {}
        for index, candidate in enumerate(self.candidates):
            if candidate.key == self.baseline.key:
                yield Finding(("candidates", index), "is the baseline itself", "name another candidate or baseline")
            first = first_index.setdefault(candidate.key, index)
            if first != index:
                yield Finding(("candidates", index), f"is candidates[{first}] again", "leave one out")
