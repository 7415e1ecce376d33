"""Parts of an evaluation beside the answers to its prompts: what further they ask models, and what they measure.

A part says which further prompts the models answer (`PromptSet`), and makes measures of the answers and of what the
judges said of them. Models and judges are loaded once: the runner asks and scores all sets while it holds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rlhf_api.stages.evaluate import Generation
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.evaluation.shards import Rows, Shards
from rlhf_trainer.statistics.intervals import Estimate, Floats, Intervals
from rlhf_trainer.statistics.own_confidence import calibration, calibration_difference

if TYPE_CHECKING:  # `prepare` checks gates, and imports no torch
    from rlhf_trainer.evaluation.answers import Answering

OWN = "prompts"
"""The set of the evaluation's own prompts."""


@dataclass(frozen=True)
class Measures:
    """What a part measured of one model. Arrays are [N] or [N, S], NaN: not counted. Row i of two models is the same
    prompt (dialogue, document): rows are drawn as pairs."""

    rates: Mapping[str, Floats] = field(default_factory=dict)
    """Shares, by metric: values in [0, 1], means over rows."""
    means: Mapping[str, Floats] = field(default_factory=dict)
    """Means over rows of any number."""
    harmonics: Mapping[str, tuple[Floats, Floats]] = field(default_factory=dict)
    """Harmonic means of two shares."""
    shares: Mapping[str, Floats] = field(default_factory=dict)
    """Win rates: shares that are compared with one half, and with no other model's."""
    calibrations: Mapping[str, tuple[Floats, Floats]] = field(default_factory=dict)
    """Expected calibration errors: a choice's probability, and whether it was right."""

    def estimates(self, intervals: Intervals) -> dict[str, Estimate]:
        """Each metric with its interval."""
        estimates = {name: intervals.rate(values) for name, values in self.rates.items()}
        estimates |= {name: intervals.mean(values) for name, values in self.means.items()}
        estimates |= {name: intervals.share(values) for name, values in self.shares.items()}
        estimates |= {name: intervals.harmonic(*both) for name, both in self.harmonics.items()}
        return estimates | {name: calibration(*both, intervals) for name, both in self.calibrations.items()}

    def differences(self, theirs: Measures, intervals: Intervals) -> dict[str, Estimate]:
        """Each metric's difference to that of another model, of those that both have."""
        differences = {
            name: intervals.rate_difference(values, theirs.rates[name])
            for name, values in self.rates.items()
            if name in theirs.rates
        }
        differences |= {
            name: intervals.difference(values, theirs.means[name])
            for name, values in self.means.items()
            if name in theirs.means
        }
        differences |= {
            name: intervals.harmonic_difference(both, theirs.harmonics[name])
            for name, both in self.harmonics.items()
            if name in theirs.harmonics
        }
        return differences | {
            name: calibration_difference(both, theirs.calibrations[name], intervals)
            for name, both in self.calibrations.items()
            if name in theirs.calibrations
        }


def merged(measures: Sequence[Measures]) -> Measures:
    """What several parts measured of the same model; their names differ."""
    return Measures(
        {name: values for part in measures for name, values in part.rates.items()},
        {name: values for part in measures for name, values in part.means.items()},
        {name: both for part in measures for name, both in part.harmonics.items()},
        {name: values for part in measures for name, values in part.shares.items()},
        {name: both for part in measures for name, both in part.calibrations.items()},
    )


class PromptSet(Protocol):
    """Prompts that every model answers, or dialogues that it goes through."""

    @property
    def name(self) -> str:
        """In the names of shards: a path component, unique in the evaluation."""

    @property
    def items(self) -> int:
        """What shards are cut of: prompts or dialogues. The answers to one item lie in one shard, in order."""

    def answers(self, model: Answering, span: range, how: Generation, seed: int, shards: Shards) -> Rows:
        """A model's answers to the items of a span, as `Answering.answers` makes them."""

    def prompts(self, rows: Rows) -> list[Prompt]:
        """What each of its answers answered."""


@dataclass(frozen=True)
class PlainSet:
    """Prompts that are known before any answer."""

    name: str
    listed: Sequence[Prompt]

    @property
    def items(self) -> int:
        """Number of prompts."""
        return len(self.listed)

    def answers(self, model: Answering, span: range, how: Generation, seed: int, shards: Shards) -> Rows:
        """Sampled with the random numbers of the prompts' numbers: the same for every model."""
        return model.answers(self.listed[span.start : span.stop], span.start, how, seed, shards.report)

    def prompts(self, rows: Rows) -> list[Prompt]:
        """The rows' prompts."""
        return [self.listed[row["prompt"]] for row in rows]


class Answers(Protocol):
    """What was computed, as parts read it: the rows of all shards."""

    @property
    def names(self) -> Sequence[str]:
        """Models, baseline first."""

    def rows(self, prompt_set: str, model: str) -> Rows:
        """A model's answers to a set."""

    def scores(self, prompt_set: str, metric: str, model: str) -> Floats:
        """[rows] what a judge (`cost.harm`) said of each of them; NaN: no score."""

    def step_rows(self, name: str) -> Rows:
        """What a part's own step kept of the evaluation's own prompts under a name."""

    def costs(self, prompt_set: str, model: str) -> dict[str, Floats]:
        """[rows] of every cost, by its name."""

    def asked(self, name: str, model: str, items: int) -> Rows:
        """What a model was asked beside prompts: rows under `name` (`suites/NAME`, `probes/NAME`) of so many items."""


class Part(Protocol):
    """One part of an evaluation."""

    @property
    def key(self) -> str:
        """In `evaluation.json`."""

    @property
    def sets(self) -> Sequence[PromptSet]:
        """Prompts beside the evaluation's own; judges score the answers."""

    def metrics(self) -> Mapping[str, bool]:
        """Names of what it may measure, and whether higher is better: gates are checked against them before any is
        sampled."""

    def measures(self, model: str, answers: Answers) -> Measures:
        """What it measured of one model."""

    def as_json(self, answers: Answers, intervals: Intervals) -> Any:
        """Its section of `evaluation.json`: what a reader of the numbers needs to know of how they were made."""


@runtime_checkable
class Probe(Protocol):
    """What a part does beside answers: it reads probabilities of each model while that is loaded."""

    @property
    def probed(self) -> str:
        """In the names of shards: `probes/NAME`."""

    @property
    def items(self) -> int:
        """What shards are cut of."""

    def check(self, tokenizer: Any, model: str) -> None:
        """Refuse a model that cannot be probed, by its tokenizer, before anything is sampled.

        Raises:
            InputError: names the model and why.
        """

    def probe(self, model: Answering, span: range) -> Rows:
        """A row an item of a span."""


@runtime_checkable
class Stepping(Protocol):
    """A part with steps of its own, after all models have answered."""

    def step_items(self, models: int, world: int) -> Sequence[int]:
        """Of each call of `Shards.run` that its steps make, how many items it is about."""

    def run(self, context: StageContext, shards: Shards, names: Sequence[str]) -> None:
        """Compute its steps; `names` are the models', baseline first. A collective."""
