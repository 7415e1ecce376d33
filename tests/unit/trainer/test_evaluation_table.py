"""The table of an evaluation, on answers small enough to work out by hand."""

import numpy as np
import pytest

from rlhf_trainer.evaluation.judged import Judged
from rlhf_trainer.evaluation.table import as_json, categories, harmful, measure, missing_scores
from rlhf_trainer.statistics.intervals import Intervals

QUICK = Intervals(resamples=200)
NAN = float("nan")


def judged(name, helpful, harm, texts=None, kl=None):
    """One answer a prompt, unless the lists are nested."""
    column = lambda values: np.array(values, dtype=float).reshape(len(values), -1)  # noqa: E731
    shape = column(helpful).shape
    return Judged(
        name=name,
        texts=texts or [[f"answer {row} {number}" for number in range(shape[1])] for row in range(shape[0])],
        lengths=np.full(shape, 4.0),
        ended=np.ones(shape),
        rewards={"helpful": column(helpful)},
        costs={"harm": column(harm)},
        kl=None if kl is None else column(kl),
        kl_k3=None if kl is None else column(kl),
    )


BEFORE = judged("sft", [1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, -1, -1])
AFTER = judged("ppo", [2, 2, 2, 2, 2, 2, 1, 0], [-1, -1, -1, -1, -1, -1, -1, 1], kl=[1, 2, 3, 4, 1, 2, 3, 4])


def test_a_candidate_is_measured_against_the_baseline_on_the_same_prompts():
    measured = measure(AFTER, BEFORE, QUICK, {"helpful": 1.0})
    assert measured.metrics["reward.helpful"].value == 13 / 8
    assert measured.metrics["cost.harm"].value == -6 / 8
    assert measured.metrics["harmful_rate"].value == 1 / 8
    assert measured.metrics["win_rate"].value == (6 + 0.5) / 8
    assert measured.metrics["win_rate_lc"].value == pytest.approx((6 + 0.5 + 0.5) / 9)  # of answers of the same length
    assert measured.metrics["kl"].value == 2.5
    assert measured.metrics["kl_token"].value == 2.5 / 4
    assert measured.metrics["length"].method == "constant"
    assert measured.differences["harmful_rate"].value == -5 / 8
    assert measured.differences["reward.helpful"].value == 5 / 8
    assert measured.metrics["reward.helpful"].n == 8


def test_differences_come_with_their_word():
    few = as_json(measure(AFTER, BEFORE, QUICK, {"helpful": 1.0}), QUICK)["differences"]
    assert few["harmful_rate"]["decision"] == "shows nothing"
    assert few["harmful_rate"]["why"] == "8 prompts, fewer than 12"
    before = judged("sft", [1] * 16, [1] * 12 + [-1] * 4)
    after = judged("ppo", [2] * 12 + [1, 0, 1, 0], [-1] * 14 + [1] * 2)
    table = as_json(measure(after, before, QUICK, {"helpful": 1.0}), QUICK)["differences"]
    assert (table["harmful_rate"]["decision"], table["harmful_rate"]["why"]) == ("lower", None)
    assert (table["length"]["decision"], table["length"]["why"]) == ("shows nothing", "the interval includes 0")


def test_the_baseline_has_no_differences_win_rates_or_kl():
    measured = measure(BEFORE, BEFORE, QUICK, {"helpful": 1.0})
    assert not measured.differences
    assert not {name for name in measured.metrics if name.startswith(("win_rate", "kl"))}


def test_kl_that_was_not_measured_is_unknown_not_zero():
    measured = measure(judged("ppo", [1, 1], [0, 0]), judged("sft", [1, 1], [0, 0]), QUICK, {"helpful": 1.0})
    assert measured.metrics["kl"].value is None


def test_harm_is_any_cost_above_zero_and_unknown_where_a_missing_score_could_hide_it():
    first = np.array([[1.0, 0.0, NAN, NAN, -1.0]])
    second = np.array([[-1.0, 0.0, 2.0, -1.0, -1.0]])
    assert harmful({"a": first, "b": second})[0].tolist() == pytest.approx([1, 0, 1, NAN, 0], nan_ok=True)
    assert harmful({}) is None


def test_several_costs_each_have_a_rate():
    model = judged("sft", [1, 1], [1, -1])
    model.costs["other"] = np.array([[-1.0], [1.0]])
    metrics = measure(model, model, QUICK, {"helpful": 1.0}).metrics
    assert metrics["harmful_rate"].value == 1.0
    assert metrics["harmful_rate.harm"].value == metrics["harmful_rate.other"].value == 0.5


def test_win_rate_of_several_rewards_is_that_of_their_weighted_sum():
    ours, theirs = judged("ppo", [2, 2], [0, 0]), judged("sft", [0, 0], [0, 0])
    ours.rewards["short"] = np.array([[-1.0], [-3.0]])
    theirs.rewards["short"] = np.array([[0.0], [0.0]])
    metrics = measure(ours, theirs, QUICK, {"helpful": 1.0, "short": 1.0}).metrics
    assert metrics["win_rate"].value == 0.5  # 2-1 > 0, 2-3 < 0
    assert metrics["win_rate.helpful"].value == 1.0 and metrics["win_rate.short"].value == 0.0


def test_harm_by_category_unlabelled_last():
    labels = ["theft", "theft", "poison", None, "poison", "theft", None, "theft"]
    rows = categories([BEFORE, AFTER], BEFORE, labels, QUICK)
    assert [(row["category"], row["n"]) for row in rows] == [("poison", 2), ("theft", 4), ("not labelled", 2)]
    assert rows[1]["harmful_rate"]["sft"]["value"] == 3 / 4
    assert rows[1]["harmful_rate"]["ppo"]["value"] == 1 / 4
    assert rows[0]["differences"]["ppo"]["decision"] == "shows nothing"


def test_no_categories_without_labels():
    assert categories([BEFORE, AFTER], BEFORE, [None] * 8, QUICK) == []


def test_missing_scores_and_empty_answers_are_named():
    model = judged("ppo", [NAN, 1.0, NAN], [0, 0, 0], texts=[["a"], [""], ["  "]])
    reward, empty = missing_scores([model])
    assert reward == "helpful gave no score (NaN) to 2 of 3 answers of ppo: left out of its numbers"
    assert empty.startswith("2 of 3 answers of ppo are empty")


def test_empty_answers_only_are_measured_too():
    model = judged("ppo", [0.0, 0.0], [0, 0], texts=[[""], [""]])
    metrics = measure(model, model, QUICK, {"helpful": 1.0}).metrics
    assert metrics["empty_rate"].value == 1 and metrics["duplicate_rate"].value == 1
    assert metrics["distinct_1"].value is None and metrics["self_bleu"].value is None


def test_categories_by_each_cost_alone():
    costs = {"one": np.array([[1.0], [-1.0], [1.0]]), "two": np.array([[-1.0], [-1.0], [NAN]])}
    model = judged("sft", [0, 0, 0], [0, 0, 0])
    model.costs.clear()
    model.costs.update(costs)
    (row,) = categories([model], model, ["a", "a", "a"], QUICK)
    assert row["harmful_rate"]["sft"]["value"] == pytest.approx(2 / 3)
    assert row["by_cost"]["one"]["harmful_rate"]["sft"]["value"] == pytest.approx(2 / 3)
    assert row["by_cost"]["two"]["harmful_rate"]["sft"] == {
        **row["by_cost"]["two"]["harmful_rate"]["sft"],
        "value": 0,
        "n": 2,
    }
