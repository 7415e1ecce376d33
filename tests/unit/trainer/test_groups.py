"""Groups of candidates: means over runs, whose intervals hold for other seeds and other prompts."""

import math

import numpy as np
import pytest
from scipy import stats

from rlhf_api.stages.evaluate import Evaluate, Gate
from rlhf_trainer.evaluation import gates, groups, table
from rlhf_trainer.evaluation.judged import Judged
from rlhf_trainer.evaluation.parts import Measures
from rlhf_trainer.statistics.groups import averages, difference, over_members
from rlhf_trainer.statistics.intervals import Estimate, Intervals

QUICK = Intervals(resamples=300)
WEIGHTS = {"helpful": 1.0}
PROMPTS = 24


def judged(name, shift, seed, measures=(), suites=None):
    random = np.random.default_rng(seed)
    shape = (PROMPTS, 2)
    return Judged(
        name=name,
        texts=[[f"answer {row} {number}" for number in range(2)] for row in range(PROMPTS)],
        lengths=random.integers(2, 9, shape).astype(float),
        ended=np.ones(shape),
        rewards={"helpful": random.normal(shift, 1, shape)},
        costs={"harm": random.normal(-shift, 1, shape)},
        kl=random.normal(1, 1, shape),
        kl_k3=random.random(shape),
        measures=measures,
        suites=suites or {},
    )


BASE = judged("base", 0.0, 1)
RUNS = [judged(f"ppo-s{seed}", 1.0, 10 + seed) for seed in range(3)]
PLAIN = [judged(f"sft-s{seed}", 0.1, 20 + seed) for seed in range(2)]


def measured(*runs, base=BASE):
    models = [base, *runs]
    return models, [table.measure(model, base, QUICK, WEIGHTS) for model in models]


def grouped(members, runs, base=BASE):
    return groups.measure(members, *measured(*runs, base=base), QUICK, WEIGHTS)


def test_the_margin_is_the_root_of_the_squares_of_the_members_and_the_prompts():
    average = Estimate(2.1, 1.6, 2.9, 40)  # not quite the mean of the members: rows were missing
    number = over_members([1.0, 2.0, 3.0], average, 0.9)
    se = math.sqrt(np.var([1, 2, 3], ddof=1) / 3)
    margin = stats.t(2).ppf(0.95) * se
    assert number.se == pytest.approx(se)
    assert number.estimate.value == 2.0
    assert number.estimate.low == pytest.approx(2.0 - math.sqrt(margin**2 + 0.5**2))
    assert number.estimate.high == pytest.approx(2.0 + math.sqrt(margin**2 + 0.8**2))
    assert (number.estimate.n, number.estimate.method) == (40, "members")


def test_what_no_member_varies_in_has_the_interval_over_prompts():
    average = QUICK.rate(np.repeat([0.0, 1.0], 12))
    estimate = over_members([0.5, 0.5], average, 0.95).estimate
    assert (estimate.low, estimate.high) == (pytest.approx(average.low), pytest.approx(average.high))


def test_an_interval_stays_within_what_a_number_can_be():
    estimate = over_members([0.0, 0.1], QUICK.rate(np.full(20, 0.05)), 0.95, (0.0, 1.0)).estimate
    assert estimate.low == 0.0


def test_a_member_that_was_not_measured_leaves_the_group_without_a_number():
    number = over_members([1.0, None, 2.0], QUICK.mean(np.arange(20.0)), 0.95)
    assert (number.estimate.value, number.se, number.values) == (None, None, (1.0, None, 2.0))


def test_a_number_without_an_interval_over_prompts_has_none_over_members():
    number = over_members([1.0, 2.0], Estimate(None, None, None, 40, "none"), 0.95)
    assert (number.estimate.value, number.estimate.low) == (1.5, None)
    assert number.se == pytest.approx(0.5)


def test_two_groups_differ_by_the_margins_of_both_and_of_the_paired_prompts():
    over_prompts = Estimate(0.0, -1.0, 1.0, 30)
    ours, theirs = (over_members(values, over_prompts, 0.95) for values in ([3.0, 4.0], [1.0, 1.5, 2.0]))
    gap = difference(ours, theirs, Estimate(2.0, 1.7, 2.4, 30), 0.95)
    first = stats.t(1).ppf(0.975) * 0.5
    second = stats.t(2).ppf(0.975) * 0.5 / math.sqrt(3)
    assert gap.estimate.value == 2.0
    assert gap.estimate.low == pytest.approx(2.0 - math.sqrt(first**2 + second**2 + 0.3**2))
    assert gap.estimate.high == pytest.approx(2.0 + math.sqrt(first**2 + second**2 + 0.4**2))


def test_averages_are_of_members_and_answers_on_each_prompt():
    rows = averages([np.array([[1.0, 3.0], [np.nan, 5.0]]), np.array([4.0, np.nan])])
    assert rows.tolist() == [3.0, 5.0]


def test_every_number_of_the_table_is_there_and_is_the_mean_of_the_runs():
    _, numbers = measured(*RUNS)
    (group,) = grouped({"ppo": [run.name for run in RUNS]}, RUNS)
    assert set(group.metrics) == set(numbers[1].metrics)
    assert set(group.differences) == set(numbers[1].differences)
    for metric, number in group.metrics.items():
        values = [run.metrics[metric].value for run in numbers[1:]]
        assert number.values == tuple(values)
        assert number.estimate.value == pytest.approx(np.mean(values))
        assert (number.estimate.low is None) == (numbers[1].metrics[metric].low is None), metric
    for metric, number in group.differences.items():
        assert number.estimate.value == pytest.approx(np.mean([run.differences[metric].value for run in numbers[1:]]))


def test_prompts_are_drawn_as_pairs_with_the_baseline():
    """What a prompt does to every model is no doubt about their difference."""
    hard = np.random.default_rng(0).normal(0, 50, (PROMPTS, 1))

    def harder(model):
        return Judged(**{**vars(model), "rewards": {"helpful": model.rewards["helpful"] + hard}})

    members = {"ppo": [run.name for run in RUNS]}
    plain, same = grouped(members, RUNS), grouped(members, [harder(run) for run in RUNS], harder(BASE))
    before, after = (group.differences["reward.helpful"].estimate for (group,) in (plain, same))
    assert (after.low, after.high) == (pytest.approx(before.low), pytest.approx(before.high))


def test_parts_and_suites_are_over_members_too():
    def measures(seed):
        random = np.random.default_rng(seed)
        shares = (random.random(9) < 0.5).astype(float), (random.random(9) < 0.5).astype(float)
        return [
            Measures({"made.rate": random.random(9)}, {"made.mean": random.normal(size=(9, 2))}, {"made.f1": shares})
        ]

    def run(name, seed):
        suites = {"words": {"acc": (np.random.default_rng(seed).random(15) < 0.5).astype(float)}}
        return judged(name, 0.5, seed, measures(seed), suites)

    runs = [run(f"r{seed}", seed) for seed in (2, 3)]
    (group,) = grouped({"r": ["r2", "r3"]}, runs, run("base", 1))
    for metric, n in (("made.rate", 9), ("made.mean", 9), ("made.f1", 9), ("suite.words", 15)):
        for number in (group.metrics[metric], group.differences[metric]):
            assert number.estimate.n <= n
            assert number.estimate.low is not None and number.estimate.low <= number.estimate.value
    assert group.metrics["suite.words"].estimate.n == 15


def test_a_metric_that_is_a_share_of_some_runs_alone_is_a_mean():
    def run(name, seed, values):
        return judged(name, 0.5, seed, suites={"words": {"perplexity": np.array(values)}})

    runs = [run("r0", 2, [0.5, 0.9, 0.1]), run("r1", 3, [4.0, 0.5, 2.0])]
    (group,) = grouped({"r": ["r0", "r1"]}, runs, run("base", 1, [0.2, 0.4, 0.9]))
    assert group.differences["suite.words"].estimate.value == pytest.approx((1.5 + 6.5) / 6 - 0.5)
    assert group.differences["suite.words"].estimate.high > 1


def test_groups_are_compared_with_one_another_prompt_by_prompt():
    members = {"sft": [run.name for run in PLAIN], "ppo": [run.name for run in RUNS]}
    both = grouped(members, [*PLAIN, *RUNS])
    (pair,) = groups.as_json(both, QUICK)["group_differences"]
    assert (pair["group"], pair["than"]) == ("ppo", "sft")
    sft, ppo = (group.metrics["reward.helpful"].estimate.value for group in both)
    assert pair["differences"]["reward.helpful"]["value"] == pytest.approx(ppo - sft)
    assert pair["differences"]["reward.helpful"]["decision"] in ("higher", "lower", "shows nothing")
    assert "kl" not in pair["differences"]


def test_gates_hold_groups_and_candidates_in_none():
    members = {"ppo": [run.name for run in RUNS]}
    _, numbers = measured(*RUNS, PLAIN[0])
    held = groups.held(members, numbers[1:], grouped(members, [*RUNS, PLAIN[0]]))
    assert [model.name for model in held] == ["sft-s0", "ppo"]
    verdicts = gates.check([Gate(metric="reward.helpful", min=0.5, compare="difference")], held)
    assert [verdict.candidate for verdict in verdicts] == ["sft-s0", "ppo"]
    assert (
        verdicts[1].found
        == groups.measure(members, *measured(*RUNS, PLAIN[0]), QUICK, WEIGHTS)[0].differences["reward.helpful"].estimate
    )


def test_members_go_by_the_names_of_their_models():
    spec = Evaluate.model_validate(
        {
            "candidates": [{"stage": "a"}, {"input": "base"}, {"stage": "b"}],
            "baseline": {"stage": "base"},
            "prompts": [{"input": "rows"}],
            "groups": [{"name": "g", "members": [{"input": "base"}, {"stage": "b"}]}],
        }
    )
    assert groups.members_of(spec, ["a", "input-base", "b"]) == {"g": ("input-base", "b")}


def test_without_groups_nothing_is_added():
    assert groups.as_json([], QUICK) == {}
