"""Labels beside what guesses give: measures against sums over all pairs, intervals over prompts, and what is not claimed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_trainer.statistics.label_trust import Thresholds, label_trust, macro_auroc
from rlhf_trainer.statistics.ranking import auroc, average_precision, best_f1, decisions, tiers

ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=14
)  # few scores: many ties


def columns(rows: Sequence[tuple[int, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels, weights."""
    scores, labels, weights = zip(*rows, strict=True)
    return np.array(scores) / 5, np.array(labels, dtype=bool), np.array([weights], dtype=np.float64)


def repeated(rows: Sequence[tuple[int, bool, int]]) -> list[tuple[int, bool]]:
    """Each row as often as it weighs."""
    return [(score, label) for score, label, weight in rows for _ in range(weight)]


@given(ROWS)
def test_auroc_is_the_share_of_pairs_in_order_ties_half(rows: list[tuple[int, bool, int]]) -> None:
    positives = [score for score, label in repeated(rows) if label]
    negatives = [score for score, label in repeated(rows) if not label]
    value = auroc(tiers(*columns(rows)))[0]
    if not positives or not negatives:
        assert math.isnan(value)
        return
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives]
    assert value == pytest.approx(sum(pairs) / len(pairs))


@given(ROWS)
def test_average_precision_steps_through_the_scores(rows: list[tuple[int, bool, int]]) -> None:
    counted = repeated(rows)
    positives = sum(label for _, label in counted)
    value = average_precision(tiers(*columns(rows)))[0]
    if not 0 < positives < len(counted):
        assert math.isnan(value)
        return
    expected, recall = 0.0, 0.0
    for threshold in sorted({score for score, _ in counted}, reverse=True):
        taken_labels = [label for score, label in counted if score >= threshold]
        gained = sum(taken_labels) / positives - recall
        expected, recall = expected + gained * sum(taken_labels) / len(taken_labels), recall + gained
    assert value == pytest.approx(expected)


def f1_of(counted: Sequence[tuple[int, bool]], threshold: float) -> float:
    right = sum(label and score / 5 >= threshold for score, label in counted)
    wrong = sum(label != (score / 5 >= threshold) for score, label in counted)
    return 2 * right / (2 * right + wrong)


@given(ROWS.filter(lambda rows: any(label for _, label, _ in rows)))
def test_the_best_threshold_has_the_best_f1(rows: list[tuple[int, bool, int]]) -> None:
    rows = [(score, label, 1) for score, label, _ in rows]
    counted = repeated(rows)
    threshold = best_f1(tiers(*columns(rows)))
    best = max(f1_of(counted, score / 5) for score, _ in counted)
    assert f1_of(counted, threshold) == pytest.approx(best)


@given(ROWS)
def test_decisions_count_weights(rows: list[tuple[int, bool, int]]) -> None:
    scores, labels, weights = columns(rows)
    counted = repeated(rows)
    got = decisions(scores >= 0.5, labels, weights)
    right = sum(label == (score / 5 >= 0.5) for score, label in counted)
    assert float(got.true_positives[0] + got.true_negatives[0]) == right
    if any(label for _, label in counted):
        assert got.f1[0] == pytest.approx(f1_of(counted, 0.5))
    else:
        assert math.isnan(got.f1[0])


def test_auroc_and_precision_of_four_rows_by_hand() -> None:
    """Positives .8 and .4, negatives .6 and .2: three of four pairs in order; precision 1 at recall 1/2, 2/3 at 1."""
    groups = tiers(np.array([0.8, 0.6, 0.4, 0.2]), np.array([True, False, True, False]), np.ones((1, 4)))
    assert auroc(groups)[0] == 0.75
    assert average_precision(groups)[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert best_f1(groups) == pytest.approx(0.3)  # F1 2/3, 1/2, 4/5, 2/3: from .4 on, halfway to .2


def heldout(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Probabilities that know of the label, labels, lengths that do not, two answers a prompt."""
    random = np.random.default_rng(seed)
    labels = (random.random((count, 1)) < 0.4).astype(np.float64)
    probabilities = np.clip(0.3 + 0.3 * labels + 0.15 * random.standard_normal((count, 1)), 0.01, 0.99)
    return probabilities, labels, random.integers(1, 40, count).astype(np.float64), [row // 2 for row in range(count)]


def test_a_label_is_judged_beside_its_guesses() -> None:
    probabilities, labels, lengths, prompts = heldout(200)
    trust, thresholds = label_trust(probabilities, labels, lengths, prompts, ["fire"], Thresholds(0.5))
    fire, share = trust.metrics["label.fire"], float(labels.mean())
    assert (fire["rows"], fire["positives"], fire["threshold"]) == (200, labels.sum(), 0.5)
    assert thresholds == [0.5]
    for measure in ("auroc", "average_precision", "f1", "balanced_accuracy"):
        assert fire[measure]["low"] < fire[measure]["value"] < fire[measure]["high"]
        assert fire[measure]["n"] == 100  # prompts
    assert fire["auroc_length"]["low"] < fire["auroc_length"]["value"] < 0.7
    assert fire["average_precision_guess"] == pytest.approx(share)
    assert fire["accuracy_majority"] == pytest.approx(1 - share)
    assert fire["f1_always_true"] == pytest.approx(2 * share / (1 + share))
    assert trust.metrics["macro"]["auroc"]["value"] == fire["auroc"]["value"]
    assert trust.notes == []


def test_the_calibration_error_is_the_mean_gap_of_its_bins() -> None:
    probabilities = np.array([[0.05], [0.05], [0.95], [0.95]])
    labels = np.array([[0.0], [1.0], [1.0], [1.0]])
    trust, _ = label_trust(probabilities, labels, np.ones(4), [0, 1, 2, 3], ["x"], Thresholds(0.5))
    assert trust.metrics["label.x"]["ece"]["value"] == pytest.approx((2 * 0.45 + 2 * 0.05) / 4)


def test_what_is_not_known_of_a_label_is_left_out() -> None:
    probabilities, labels, lengths, prompts = heldout(80)
    labels[40:] = np.nan
    trust, _ = label_trust(probabilities, labels, lengths, prompts, ["fire"], Thresholds(0.5))
    shorter, _ = label_trust(probabilities[:40], labels[:40], lengths[:40], prompts[:40], ["fire"], Thresholds(0.5))
    for measure in ("auroc", "average_precision", "f1", "balanced_accuracy", "ece"):
        assert trust.metrics["label.fire"][measure]["value"] == shorter.metrics["label.fire"][measure]["value"]
    assert trust.metrics["label.fire"]["rows"] == 40


@pytest.mark.parametrize(("value", "says"), [(0.0, "lack it"), (1.0, "have it"), (math.nan, "no held-out answer")])
def test_a_label_of_one_side_is_not_measured_and_that_is_said(value: float, says: str) -> None:
    probabilities, labels, lengths, prompts = heldout(60)
    both = np.concatenate([labels, np.full((60, 1), value)], axis=1)
    trust, thresholds = label_trust(
        np.repeat(probabilities, 2, axis=1), both, lengths, prompts, ["fire", "flat"], Thresholds(0.4, best_f1=True)
    )
    flat = trust.metrics["label.flat"]
    assert all(flat[measure]["value"] is None for measure in ("auroc", "average_precision", "f1", "balanced_accuracy"))
    assert thresholds[1] == 0.4
    assert any(note.startswith("label flat") and says in note for note in trust.notes)
    assert trust.metrics["macro"]["labels_measured"] == 1
    assert trust.metrics["macro"]["auroc"]["value"] == trust.metrics["label.fire"]["auroc"]["value"]


def test_numbers_that_are_no_better_than_a_guess_are_said_to_show_nothing() -> None:
    _, labels, lengths, prompts = heldout(60)
    chance = np.random.default_rng(5).random((60, 1))
    trust, _ = label_trust(chance, labels, lengths, prompts, ["fire"], Thresholds(0.5))
    assert any("what guessing gives: it shows nothing" in note for note in trust.notes)


def test_what_the_length_tells_is_no_merit() -> None:
    _, labels, _, prompts = heldout(80)
    lengths = 20 - 10 * labels[:, 0] + np.arange(80) % 5
    probabilities = 1 - lengths[:, None] / 40
    trust, _ = label_trust(probabilities, labels, lengths, prompts, ["fire"], Thresholds(0.5))
    assert trust.metrics["label.fire"]["auroc_length"]["value"] == 0.0  # shorter answers have it
    assert any("what the answer's length alone gives" in note for note in trust.notes)


def test_of_few_prompts_nothing_is_claimed() -> None:
    probabilities, labels, lengths, prompts = heldout(20)
    trust, _ = label_trust(probabilities, labels, lengths, prompts, ["fire"], Thresholds(0.5))
    assert trust.notes == ["label fire: 10 held-out prompts, fewer than 12; its numbers show nothing"]


def test_a_perfect_order_still_has_an_interval() -> None:
    _, labels, lengths, prompts = heldout(60)
    trust, _ = label_trust(0.1 + 0.8 * labels, labels, lengths, prompts, ["fire"], Thresholds(0.5))
    perfect = trust.metrics["label.fire"]["auroc"]
    assert (perfect["value"], perfect["high"], perfect["method"]) == (1.0, 1.0, "wilson")
    assert 0.5 < perfect["low"] < 1.0


def test_decisions_are_measured_by_thresholds_that_other_prompts_gave() -> None:
    """Probabilities that know nothing: the best threshold of the same rows would look better than it is."""
    random = np.random.default_rng(1)
    labels = (random.random((40, 1)) < 0.5).astype(np.float64)
    probabilities, lengths = random.random((40, 1)), np.ones(40)
    rule = Thresholds(0.5, best_f1=True)
    trust, (threshold,) = label_trust(probabilities, labels, lengths, list(range(40)), ["noise"], rule)
    decided = decisions(probabilities[:, 0] >= threshold, labels[:, 0] == 1, np.ones((1, 40)))
    assert trust.metrics["label.noise"]["f1"]["value"] < decided.f1[0]
    expected = np.zeros(40, dtype=bool)
    for row in range(40):
        others = np.arange(40) % 5 != row % 5
        groups = tiers(probabilities[others, 0], labels[others, 0] == 1, np.ones((1, 32)))
        expected[row] = probabilities[row, 0] >= best_f1(groups)
    assert trust.metrics["label.noise"]["f1"]["value"] == decisions(expected, labels[:, 0] == 1, np.ones((1, 40))).f1[0]


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_answers_to_one_prompt_are_not_independent(seed: int) -> None:
    """Every answer twice under its prompt: the interval is that of the prompts, as if each came once."""
    probabilities, labels, lengths, _ = heldout(50, seed)
    alone, _ = label_trust(probabilities, labels, lengths, list(range(50)), ["x"], Thresholds(0.5))
    twice, _ = label_trust(
        *(np.repeat(values, 2, axis=0) for values in (probabilities, labels, lengths)),
        [row // 2 for row in range(100)],
        ["x"],
        Thresholds(0.5),
    )
    for end in ("value", "low", "high"):
        first, second = (trust.metrics["label.x"]["auroc"][end] for trust in (alone, twice))
        assert first == pytest.approx(second)


def test_nothing_held_out_is_said() -> None:
    empty = np.zeros((0, 2))
    trust, thresholds = label_trust(empty, empty, np.zeros(0), [], ["a", "b"], Thresholds(0.3))
    assert (trust.metrics, thresholds) == ({}, [0.3, 0.3])
    assert trust.notes == ["no answer is held out: how right the labels are is unknown"]


def test_the_mean_auroc_is_of_the_labels_with_both_sides() -> None:
    labels = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, np.nan]])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.5], [0.9, 0.3]])
    assert macro_auroc(probabilities, labels) == pytest.approx(0.75)
    assert math.isnan(macro_auroc(probabilities[:, 1:], labels[:, 1:]))
