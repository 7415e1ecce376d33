"""What is made of judges' replies, by hand."""

import math

import numpy as np
import pytest

from rlhf_api.stages.evaluate import Gate
from rlhf_api.stages.judges import HarmLabels
from rlhf_trainer.evaluation import gates, opinions
from rlhf_trainer.evaluation.guard import LABELS, harmful
from rlhf_trainer.evaluation.opinions import PairOpinions
from rlhf_trainer.evaluation.scale import rating
from rlhf_trainer.statistics.bradley_terry import ELO
from rlhf_trainer.statistics.intervals import Intervals

NAN = math.nan
INTERVALS = Intervals(0.95, 200, 0)


def of(first, second, identical=None):
    """One answer a prompt."""
    table = lambda values: np.array(values, dtype=np.float64)[:, None]  # noqa: E731
    same = identical or [0.0] * len(first)
    return PairOpinions(table(first), table(second), table(same), table([0.5] * len(first)))


def test_a_preference_is_the_sign_of_the_mean_of_both_orders():
    read = of([2.0, 3.0, 3.0, -1.0, NAN, NAN], [-2.0, 1.0, 5.0, -1.0, NAN, 1.0], [0, 0, 0, 0, 1, 0])
    assert read.preferred()[:, 0] == pytest.approx([1, 1, 0, 0.5, 0.5, NAN], nan_ok=True)
    assert read.agreement()[:, 0] == pytest.approx([1, 0, 0, 0, NAN, NAN], nan_ok=True)
    assert read.placed_first()[:, 0] == pytest.approx([0.5, 1, 1, 0, NAN, NAN], nan_ok=True)


def test_a_judge_that_answers_by_place_shows_nothing_and_one_that_reads_does():
    by_place = opinions.summary({(0, 1): of([2.0] * 40, [2.0] * 40)}, ["base", "new"], INTERVALS)
    assert by_place["order_agreement"]["value"] == 0 and "the place decides" in by_place["shows_nothing"]
    assert by_place["position_bias"]["value"] == 1 and by_place["position_bias"]["decision"] == "higher"
    assert by_place["elo"]["new"]["value"] == pytest.approx(0) and by_place["connected"]
    coin = opinions.summary({(0, 1): of([1.0, -1.0] * 20, [1.0, 1.0, -1.0, -1.0] * 10)}, ["base", "new"], INTERVALS)
    assert coin["order_agreement"]["value"] == 0.5 and coin["shows_nothing"] == "the interval includes 0.5"
    reads = opinions.summary(
        {(0, 1): of([-2.0] * 30 + [2.0] * 10, [2.0] * 30 + [-2.0] * 10)}, ["base", "new"], INTERVALS
    )
    assert reads["shows_nothing"] is None and reads["position_bias"]["value"] == 0.5
    assert (
        reads["elo"]["new"]["value"] == pytest.approx(math.log(3) * ELO) and reads["elo"]["new"]["decision"] == "higher"
    )


def test_a_model_that_always_won_is_not_connected():
    section = opinions.summary({(0, 1): of([-2.0] * 30, [2.0] * 30)}, ["base", "new"], INTERVALS)
    elo = section["elo"]["new"]
    assert not section["connected"] and elo["value"] is None and elo["unbounded"] == ["low", "high"]
    assert (elo["low"], elo["high"]) == (None, None)


def test_win_rates_and_wins_count_ties_half_and_leave_out_what_cannot_be_read():
    pairs = {(0, 1): of([2.0, NAN, NAN], [-2.0, NAN, NAN], [0, 1, 0])}
    assert opinions.win_rate(pairs, 1)[:, 0] == pytest.approx([0, 0.5, NAN], nan_ok=True)
    table = opinions.wins(pairs, 2)
    assert table[:, 0, 1].tolist() == [1, 0.5, 0] and table[:, 1, 0].tolist() == [0, 0.5, 0]


def test_a_rating_is_the_expected_digit():
    even = rating([math.log(0.05)] * 8)
    assert even.score == pytest.approx(4.5) and even.mass == pytest.approx(0.4)
    assert rating([-1e4] * 7 + [-1.0]).score == pytest.approx(8) and rating([-2000.0] * 8).score == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("safe", LABELS, False),
        ("\n\nunsafe\nS1,S2", LABELS, True),
        ("Unsafe.", LABELS, True),
        ("safety first", LABELS, None),
        ("I think it is safe", LABELS, None),
        ("", LABELS, None),
        ("No harm at all", HarmLabels(safe=["no harm"], unsafe=["no"]), False),
        ("No, harm", HarmLabels(safe=["no harm"], unsafe=["no"]), True),
        ("<yes>", HarmLabels(safe=["<no>"], unsafe=["<yes>"]), True),
    ],
)
def test_labels_are_first_words(text, labels, expected):
    assert harmful(text, labels) is expected


def test_a_win_rate_over_the_baseline_has_no_difference_to_it():
    metrics = {"judge.kind.win_rate": True, "judge.grade.score": True}
    fields = {"max": 1.0, "compare": "difference"}
    wins_apart, score_apart = (Gate.model_validate({"metric": name, **fields}) for name in metrics)
    wins_alone = Gate.model_validate({"metric": "judge.kind.win_rate", "min": 0.5})
    refused = gates.unknown([wins_apart, score_apart, wins_alone], [], [], suites=metrics)
    assert [(index, name) for index, name, _ in refused] == [(0, "judge.kind.win_rate")]
