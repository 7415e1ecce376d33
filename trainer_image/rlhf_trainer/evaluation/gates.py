"""Gates: bounds that every candidate of an evaluation must keep; groups in place of their members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlhf_api.stages.evaluate import Evaluate, Gate
from rlhf_api.stages.judges import JUDGE
from rlhf_trainer.evaluation.judged import Measured
from rlhf_trainer.exits import InputError
from rlhf_trainer.statistics.intervals import Estimate


@dataclass(frozen=True)
class Verdict:
    """What one gate says of one candidate."""

    candidate: str
    metric: str
    compare: str
    min: float | None
    max: float | None
    no_worse: float | None
    found: Estimate | None
    passed: bool

    def as_json(self) -> dict[str, Any]:
        """All fields, and the verdict in words as `text`."""
        return {**asdict(self), "text": str(self)}

    def __str__(self) -> str:
        bounds = [f"at least {self.min:g}"] if self.min is not None else []
        bounds += [f"at most {self.max:g}"] if self.max is not None else []
        if self.no_worse is not None:
            return (
                f"{self.candidate}: difference to the baseline of {self.metric} is {_words(self.found)}, "
                f"expected the whole interval no worse than by {self.no_worse:g}"
            )
        what = {"value": "", "interval": "whole interval of ", "difference": "difference to the baseline of "}
        return (
            f"{self.candidate}: {what[self.compare]}{self.metric} is {_words(self.found)}, "
            f"expected {' and '.join(bounds)}"
        )


def check(
    gates: Sequence[Gate], candidates: Sequence[Measured], higher: Mapping[str, bool] | None = None
) -> list[Verdict]:
    """Hold every candidate against every gate. What was not measured does not pass.

    Args:
        gates: of the spec.
        candidates: their metrics and differences.
        higher: of metrics of suites, whether higher is better.
    """
    return [_judge(gate, candidate, higher or {}) for gate in gates for candidate in candidates]


def unknown(
    gates: Sequence[Gate],
    rewards: Sequence[str],
    costs: Sequence[str],
    rules: Sequence[str] = (),
    suites: Iterable[str] = (),
) -> list[tuple[int, str, list[str]]]:
    """Gates on a metric that this evaluation cannot have: index, metric, and what there is. Known before any
    sampling, so that a misspelt gate costs nothing."""
    suites = list(suites)
    comparable = ["length", "repetition", "eos_rate", "empty_rate", "duplicate_rate"]
    comparable += [f"reward.{name}" for name in rewards] + [f"cost.{name}" for name in costs]
    won = [
        name for name in suites if name.startswith(JUDGE) and name.endswith(".win_rate")
    ]  # over the baseline already
    comparable += ["harmful_rate"] * bool(costs) + [*rules, *(name for name in suites if name not in won)]
    comparable += [f"harmful_rate.{name}" for name in costs] if len(costs) > 1 else []
    alone = ["distinct_1", "distinct_2", "self_bleu", "kl", "kl_token", "kl_k3", *won]
    alone += ["win_rate", "win_rate_lc"] * bool(rewards)
    alone += [f"win_rate.{name}" for name in rewards] if len(rewards) > 1 else []
    unavailable = []
    for index, gate in enumerate(gates):
        available = comparable if gate.compare == "difference" else comparable + alone
        if gate.metric not in available:
            unavailable.append((index, gate.metric, sorted(available)))
    return unavailable


def check_names(spec: Evaluate, rules: Sequence[str] = (), suites: Iterable[str] = ()) -> None:
    """Refuse gates on metrics that an evaluation cannot have; `rules` are those that a policy's classes give, `suites`
    those of its tasks.

    Raises:
        InputError: names the gate and what there is.
    """
    wrong = unknown(
        spec.gates, [judge.label for judge in spec.rewards], [judge.label for judge in spec.costs], rules, suites
    )
    if wrong:
        index, metric, available = wrong[0]
        compare = " to compare with the baseline" if spec.gates[index].compare == "difference" else ""
        raise InputError(
            f"gates[{index}].metric: found {metric!r}; this evaluation has{compare} {', '.join(available)}",
            reason="UnknownMetric",
        )


def _judge(gate: Gate, candidate: Measured, higher: Mapping[str, bool]) -> Verdict:
    differs = gate.compare == "difference" or gate.no_worse is not None
    estimate = (candidate.differences if differs else candidate.metrics).get(gate.metric)
    return Verdict(
        candidate.name,
        gate.metric,
        gate.compare,
        gate.min,
        gate.max,
        gate.no_worse,
        estimate,
        estimate is not None and _keeps(gate, estimate, higher.get(gate.metric, True)),
    )


def _keeps(gate: Gate, estimate: Estimate, higher: bool) -> bool:
    if gate.no_worse is not None:
        worst = estimate.low if higher else estimate.high
        return worst is not None and (worst >= -gate.no_worse if higher else worst <= gate.no_worse)
    low, high = (estimate.low, estimate.high) if gate.compare == "interval" else (estimate.value, estimate.value)
    if low is None or high is None:
        return False
    return (gate.min is None or low >= gate.min) and (gate.max is None or high <= gate.max)


def _words(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "not measured"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4g} (n {estimate.n}, no interval)"
    return f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g}, n {estimate.n})"
