"""Gates: what keeps a bound, what does not, and what is said about it."""

import pytest

from rlhf_api.stages.evaluate import Gate
from rlhf_trainer.evaluation.gates import check, unknown
from rlhf_trainer.evaluation.judged import Measured
from rlhf_trainer.statistics.intervals import NOTHING, Estimate

CANDIDATE = Measured(
    "ppo",
    metrics={"harmful_rate": Estimate(0.10, 0.05, 0.19, 64, "wilson"), "kl": NOTHING},
    differences={"harmful_rate": Estimate(-0.40, -0.55, -0.25, 64, "newcombe")},
)


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ({"max": 0.10}, True),
        ({"max": 0.09}, False),
        ({"max": 0.15, "compare": "interval"}, False),
        ({"max": 0.19, "compare": "interval"}, True),
        ({"min": 0.05, "compare": "interval"}, True),
        ({"min": 0.06, "compare": "interval"}, False),
        ({"max": -0.3, "compare": "difference"}, True),
        ({"max": -0.5, "compare": "difference"}, False),
        ({"min": 0.0, "max": 0.05}, False),
    ],
)
def test_bounds_are_inclusive_and_hold_what_compare_names(gate, passed):
    (verdict,) = check([Gate.model_validate({"metric": "harmful_rate", **gate})], [CANDIDATE])
    assert verdict.passed is passed


def test_what_was_not_measured_does_not_pass():
    for metric in ("kl", "reward.absent"):
        (verdict,) = check([Gate(metric=metric, max=9.0)], [CANDIDATE])
        assert not verdict.passed and "not measured" in str(verdict)


def test_a_verdict_names_candidate_metric_found_and_bound():
    (verdict,) = check([Gate(metric="harmful_rate", max=0.05, min=0.0)], [CANDIDATE])
    assert str(verdict) == "ppo: harmful_rate is 0.1 (0.05 to 0.19, n 64), expected at least 0 and at most 0.05"
    (verdict,) = check([Gate(metric="harmful_rate", max=-0.5, compare="difference")], [CANDIDATE])
    assert str(verdict).startswith("ppo: difference to the baseline of harmful_rate is -0.4 (-0.55 to -0.25, n 64)")


def test_every_candidate_is_held_against_every_gate():
    gates = [Gate(metric="harmful_rate", max=1.0), Gate(metric="kl", max=1.0)]
    results = check(gates, [CANDIDATE, Measured("other", {})])
    assert [(result.candidate, result.metric) for result in results] == [
        ("ppo", "harmful_rate"),
        ("other", "harmful_rate"),
        ("ppo", "kl"),
        ("other", "kl"),
    ]


def test_gates_on_what_this_evaluation_cannot_have_are_known_beforehand():
    gates = [
        Gate(metric="cost.harm", max=0.0),
        Gate(metric="cost.hram", max=0.0),
        Gate(metric="kl", max=1.0, compare="difference"),
        Gate(metric="harmful_rate.harm", max=1.0),
    ]
    problems = unknown(gates, rewards=["helpful"], costs=["harm"])
    assert [(index, metric) for index, metric, _ in problems] == [
        (1, "cost.hram"),
        (2, "kl"),
        (3, "harmful_rate.harm"),
    ]
    assert "cost.harm" in problems[0][2]
    assert not unknown([Gate(metric="harmful_rate.b", max=1.0)], rewards=[], costs=["a", "b"])
