"""Groups of candidates: every number of the table over the members of a group, and groups beside one another. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from rlhf_api.stages.evaluate import Evaluate
from rlhf_trainer.evaluation.judged import Judged, Measured
from rlhf_trainer.evaluation.parts import Measures
from rlhf_trainer.evaluation.table import WITHIN, answered, with_word
from rlhf_trainer.evaluation.wins import AT_EQUAL_LENGTH, longer_by, win_shares
from rlhf_trainer.statistics.groups import OverMembers, averages, difference, over_members
from rlhf_trainer.statistics.intervals import UNBOUNDED, Estimate, Intervals
from rlhf_trainer.statistics.length_control import length_controlled


@dataclass(frozen=True)
class Group:
    """A group's numbers."""

    name: str
    members: tuple[str, ...]
    metrics: dict[str, OverMembers]
    differences: dict[str, OverMembers]
    """To the baseline."""
    average: Measures = field(repr=False)
    """Its members' average, prompt by prompt."""

    @property
    def measured(self) -> Measured:
        """As gates hold it to their bounds."""
        return Measured(self.name, _estimates(self.metrics), _estimates(self.differences))

    def as_json(self, intervals: Intervals) -> dict[str, Any]:
        """`{name, members, metrics, differences}`; every number with its standard error and its members' values."""
        return {
            "name": self.name,
            "members": list(self.members),
            "metrics": {name: number.as_json() for name, number in self.metrics.items()},
            "differences": _with_words(self.differences, intervals),
        }


def members_of(spec: Evaluate, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Names of each group's members, by the group's name; `names` are those of the candidates, in their order."""
    by_key = {candidate.key: name for candidate, name in zip(spec.candidates, names, strict=True)}
    return {group.name: tuple(by_key[member.key] for member in group.members) for group in spec.groups}


def measure(
    members: Mapping[str, Sequence[str]],
    judged: Sequence[Judged],
    measured: Sequence[Measured],
    intervals: Intervals,
    weights: dict[str, float],
) -> list[Group]:
    """Every group.

    Args:
        members: Names of candidates by group.
        judged: All models, baseline first.
        measured: Their numbers, in the same order.
        intervals: How intervals are made.
        weights: Of the rewards, as win rates have them.
    """
    by_name = {model.name: (model, numbers) for model, numbers in zip(judged, measured, strict=True)}
    grouped = {name: [by_name[member] for member in named] for name, named in members.items()}
    return [_group(name, runs, judged[0], intervals, weights) for name, runs in grouped.items()]


def held(members: Mapping[str, Sequence[str]], measured: Sequence[Measured], groups: Sequence[Group]) -> list[Measured]:
    """What gates hold: candidates that are in no group, and groups. `measured` are the candidates' numbers."""
    grouped = {member for named in members.values() for member in named}
    return [model for model in measured if model.name not in grouped] + [group.measured for group in groups]


def as_json(groups: Sequence[Group], intervals: Intervals) -> dict[str, Any]:
    """`groups`, and of each two of them `group_differences`, the later's numbers less the earlier's; empty without."""
    if not groups:
        return {}
    return {
        "groups": [group.as_json(intervals) for group in groups],
        "group_differences": [
            {
                "group": later.name,
                "than": earlier.name,
                "differences": _with_words(_between(later, earlier, intervals), intervals),
            }
            for earlier, later in combinations(groups, 2)
        ],
    }


def _group(
    name: str,
    runs: Sequence[tuple[Judged, Measured]],
    baseline: Judged,
    intervals: Intervals,
    weights: dict[str, float],
) -> Group:
    everything = [answered(model) for model, _ in runs]
    average = _average(everything)
    wins = [win_shares(model, baseline, weights) for model, _ in runs]
    lengths = [longer_by(model, baseline) for model, _ in runs]
    over_prompts = average.estimates(intervals)
    over_prompts |= {win: intervals.rate(averages([of_run[win] for of_run in wins])) for win in wins[0]}
    if wins[0]:
        won, longer = (averages(runs_of) for runs_of in ([of_run["win_rate"] for of_run in wins], lengths))
        over_prompts[AT_EQUAL_LENGTH] = length_controlled(won, longer, intervals)
    if "kl" in average.means:
        over_prompts["kl_token"] = intervals.ratio(average.means["kl"], average.means["length"])
    numbers = [measured for _, measured in runs]
    against = average.differences(_alike(answered(baseline), average), intervals)
    return Group(
        name,
        tuple(measured.name for measured in numbers),
        _over([measured.metrics for measured in numbers], over_prompts, intervals),
        _over([measured.differences for measured in numbers], against, intervals, bounded=False),
        average,
    )


def _over(
    runs: Sequence[Mapping[str, Estimate]],
    over_prompts: Mapping[str, Estimate],
    intervals: Intervals,
    *,
    bounded: bool = True,
) -> dict[str, OverMembers]:
    """Each number of the runs, with the interval of its average over prompts."""
    numbers = {}
    for metric, first in runs[0].items():
        average = over_prompts.get(metric, Estimate(None, None, None, first.n, "none"))
        within = _within(metric, first) if bounded else UNBOUNDED
        values = [numbers_of_run[metric].value if metric in numbers_of_run else None for numbers_of_run in runs]
        numbers[metric] = over_members(values, average, intervals.confidence, within)
    return numbers


def _within(metric: str, estimate: Estimate) -> tuple[float, float]:
    """What a number can be."""
    share = estimate.method == "wilson" or metric.startswith("win_rate")
    return (0.0, 1.0) if share else WITHIN.get(metric, UNBOUNDED)


def _between(later: Group, earlier: Group, intervals: Intervals) -> dict[str, OverMembers]:
    """The later group's numbers less the earlier's, of those that have a difference to the baseline in both."""
    average = later.average.differences(_alike(earlier.average, later.average), intervals)
    return {
        metric: difference(later.metrics[metric], earlier.metrics[metric], average[metric], intervals.confidence)
        for metric in later.differences
        if metric in earlier.differences and metric in average
    }


def _average(runs: Sequence[Measures]) -> Measures:
    """The runs' average, prompt by prompt. What is a share of some runs alone is a mean."""
    shares = [name for name in runs[0].rates if all(name in run.rates for run in runs)]
    every = [{**run.rates, **run.means} for run in runs]
    means = [name for name in every[0] if name not in shares and all(name in run for run in every)]
    return Measures(
        {name: averages([run.rates[name] for run in runs]) for name in shares},
        {name: averages([run[name] for run in every]) for name in means},
        {
            name: (
                averages([run.harmonics[name][0] for run in runs]),
                averages([run.harmonics[name][1] for run in runs]),
            )
            for name in runs[0].harmonics
            if all(name in run.harmonics for run in runs)
        },
        {name: averages([run.shares[name] for run in runs]) for name in runs[0].shares},
    )


def _alike(model: Measures, other: Measures) -> Measures:
    """A model's values, with those shares as means that are means of the other."""
    means = {name: values for name, values in model.rates.items() if name in other.means}
    return Measures(model.rates, {**model.means, **means}, model.harmonics)


def _estimates(numbers: Mapping[str, OverMembers]) -> dict[str, Estimate]:
    return {name: number.estimate for name, number in numbers.items()}


def _with_words(numbers: Mapping[str, OverMembers], intervals: Intervals) -> dict[str, Any]:
    return {name: {**number.as_json(), **with_word(number.estimate, intervals)} for name, number in numbers.items()}
