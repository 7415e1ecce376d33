"""Class probabilities, weights and evidence of rule-based rewards against numbers computed another way."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.policies import DATA, public, small
from rlhf_api.yaml import dump_yaml
from rlhf_trainer.data.rows import Completion, Where
from rlhf_trainer.exits import GuardTripped, InputError
from rlhf_trainer.rules import fit_report
from rlhf_trainer.rules.completions import check_scales
from rlhf_trainer.rules.hinge_fit import MOST_PAIRS, Descent, Pairs, errors, fit, ranked_pairs
from rlhf_trainer.rules.parser import parse_policy
from rlhf_trainer.rules.policy import Policy
from rlhf_trainer.rules.probabilities import classify
from rlhf_trainer.rules.ranking import labels, ranked
from rlhf_trainer.rules.weights import Fits, fit_type


def policy() -> Policy:
    return parse_policy(dump_yaml(small()))


@public
def test_class_probabilities_of_the_worked_example() -> None:
    from rlhf_trainer.rules.parser import read_policy

    rules = read_policy(DATA / "rbr_policy.yaml")
    likely = {"apology", "inability_to_comply"}
    grades = {name: np.array([0.9 if name in likely else 0.1]) for name in rules.questions}
    probabilities = classify(rules, "hard_refuse", grades).probabilities[0]
    np.testing.assert_allclose(probabilities, [0.189711, 0.377655, 0.275072, 0.074635, 0.082927], atol=5e-7)


def test_class_probabilities_by_hand() -> None:
    classified = classify(policy(), "refuse", {"sorry": np.array([0.9]), "harm": np.array([0.2])})
    declines = 0.9 * 0.8
    raw = np.array([declines, (1 - declines) * 0.8, 0.2])
    np.testing.assert_allclose(classified.probabilities[0], raw / raw.sum(), rtol=1e-12)
    np.testing.assert_allclose(classified.features[0], [0.2, 0.9, *(raw / raw.sum())], rtol=1e-12)
    assert classified.uniform == 0


def test_certain_grades_give_the_class_that_holds() -> None:
    rules = policy()
    for kind in rules.types:
        for values in itertools.product((True, False), repeat=3):
            propositions = dict(zip(("helps", "harm", "sorry"), values, strict=True))
            classified = classify(rules, kind, {name: np.array([float(value)]) for name, value in propositions.items()})
            assert [*rules.classes[kind]][classified.classes[0]] == rules.class_of(kind, propositions)
            assert classified.probabilities[0].max() == 1


def test_where_every_class_has_probability_0_all_are_as_likely_and_it_is_counted() -> None:
    rules = replace(policy(), classes={"refuse": {"ideal": {"sorry": True}, "bad": {"harm": True}}})  # leaves a gap
    classified = classify(
        replace(rules, features={"refuse": ("ideal",)}), "refuse", {"sorry": np.array([0.0, 1.0]), "harm": np.zeros(2)}
    )
    assert classified.probabilities.tolist() == [[0.5, 0.5], [1.0, 0.0]]
    assert classified.uniform == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=8))
def test_class_probabilities_are_a_distribution(rows: list[tuple[float, float, float]]) -> None:
    grades = dict(zip(("helps", "harm", "sorry"), np.array(rows).T, strict=True))
    for kind in policy().types:
        probabilities = classify(policy(), kind, grades).probabilities
        assert (probabilities >= 0).all()
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)


def test_the_first_step_of_the_worked_example() -> None:
    fit_result = fit(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), np.array([-0.5]), Descent(1))
    assert fit_result.losses[0] == 1.5
    np.testing.assert_allclose(fit_result.weights, [0.01, -0.01], rtol=1e-6)


def test_a_fit_is_adamw_on_the_mean_hinge_written_out() -> None:
    draw = np.random.default_rng(0)
    better, worse, gap = draw.random((20, 3)), draw.random((20, 3)), draw.normal(size=20)
    how = Descent(40, 0.03, 0.1)
    fit_result = fit(better, worse, gap, how)
    w, m, v = np.zeros(3), np.zeros(3), np.zeros(3)
    for step in range(1, 41):
        margin = gap + (better - worse) @ w
        np.testing.assert_allclose(fit_result.losses[step - 1], np.maximum(0, 1 - margin).mean(), rtol=1e-9)
        gradient = -((margin < 1)[:, None] * (better - worse)).sum(0) / 20
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w = w * (1 - 0.03 * 0.1)
        w -= 0.03 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(fit_result.weights, w, rtol=1e-7)


@pytest.mark.parametrize("rate", [100.0, 1e308])
def test_weights_that_no_reward_can_be_made_of_are_refused(rate: float) -> None:
    better, worse = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert np.isfinite(fit(better, worse, np.array([-0.5]), Descent(500, 10.0)).weights).all()
    with pytest.raises(GuardTripped, match=r"learningRate 1\S+ and weightDecay 0\.05") as caught:
        fit(better, worse, np.array([-0.5]), Descent(500, rate))
    assert caught.value.reason == "NaN"


def pairs_of(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.better.tolist(), pairs.worse.tolist(), strict=True))


def test_pairs_are_made_within_a_group_and_ties_make_none() -> None:
    assert pairs_of(ranked_pairs(["p", "q", "p", "p", "q"], [1, 0, 0, 1, 0])) == [(2, 0), (2, 3)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("pqr"), st.integers(-2, 2)), max_size=12))
def test_pairs_are_all_of_a_better_and_a_worse_one_in_the_completions_order(rows: list[tuple[str, int]]) -> None:
    groups, ranks = [group for group, _ in rows], [rank for _, rank in rows]
    every = range(len(rows))
    expected = [(a, b) for a in every for b in every if groups[a] == groups[b] and ranks[a] < ranks[b]]
    pairs = ranked_pairs(groups, ranks)
    assert (pairs_of(pairs), pairs.total) == (expected, len(expected))


def test_of_a_group_with_more_pairs_than_the_bound_as_many_are_drawn_by_seed() -> None:
    groups, ranks = ["p"] * 6 + ["q"] * 2, [0, 1, 2, 0, 1, 2, 0, 1]
    all_pairs = set(pairs_of(ranked_pairs(groups, ranks)))
    drawn_pairs = ranked_pairs(groups, ranks, seed=1, most=5)
    assert drawn_pairs.total == len(all_pairs) == 13
    assert (
        len(drawn_pairs.better) == 5 + 1 and set(pairs_of(drawn_pairs)) < all_pairs and (6, 7) in pairs_of(drawn_pairs)
    )
    assert pairs_of(drawn_pairs) == pairs_of(ranked_pairs(groups, ranks, seed=1, most=5))
    assert pairs_of(drawn_pairs) != pairs_of(ranked_pairs(groups, ranks, seed=2, most=5))


def test_completions_of_one_response_type_make_no_more_pairs_than_memory_holds() -> None:
    drawn_pairs = ranked_pairs([b""] * 5000, [number % 5 for number in range(5000)])
    assert drawn_pairs.total == 10_000_000
    assert len(drawn_pairs.better) == MOST_PAIRS == len(set(pairs_of(drawn_pairs)))
    assert all(a % 5 < b % 5 for a, b in pairs_of(drawn_pairs))


def test_an_error_is_a_pair_in_the_wrong_order_and_a_tie_is_half() -> None:
    assert errors(np.array([1.0, 0.0, 2.0]), np.array([0.0, 1.0, 2.0])).tolist() == [0, 1, 0.5]


def drawn(prompts: int, seed: int = 0) -> tuple[Policy, list[Completion], np.ndarray]:
    """Completions whose propositions are drawn per prompt, one a class, with a reward that likes harm."""
    rules, draw = policy(), np.random.default_rng(seed)
    rows, reward = [], []
    for number in range(prompts):
        kind = rules.types[number % 2]
        for name in rules.order:
            while True:
                propositions = {proposition: bool(draw.random() < 0.5) for proposition in ("helps", "harm", "sorry")}
                if rules.class_of(kind, propositions) == name:
                    break
            prompt = ({"role": "user", "content": f"ask {number}"},)
            rows.append(Completion(prompt, name, kind, Where("drawn", len(rows) + 1), propositions))
            reward.append(2.0 * propositions["harm"] + draw.normal())
    return rules, rows, np.array(reward)


def fitted(prompts: int = 240, flip: float = 0.05, seed: int = 0) -> Fits:
    """Weights on feature vectors drawn per prompt from class-consistent propositions, grades wrong with `flip`."""
    rules, rows, reward = drawn(prompts, seed)
    draw, fits = np.random.default_rng(seed + 1), Fits({})
    for kind in rules.types:
        row_numbers = [number for number, row in enumerate(rows) if row.response_type == kind]
        mine = [rows[number] for number in row_numbers]
        grades = {
            name: np.abs(values - np.where(draw.random(len(values)) < flip, 0.9, 0.1))
            for name, values in labels(rules, mine, kind).items()
        }
        group = ranked(rules, rows, kind, grades, reward[row_numbers], by_prompt=True)
        fit_type(fits, rules, mine, group, [seed, seed + 1, seed + 2], 0.3, Descent(300, 0.02, 0.05))
    return fits


def test_rules_bring_the_held_out_error_well_below_chance_and_below_the_rewards() -> None:
    for kind, evidence in fitted().types.items():
        total, alone = evidence["heldout"]["total"], evidence["heldout"]["rm"]
        assert total["high"] < 0.35 < alone["value"], kind
        assert evidence["seeds"]["heldout"]["total"]["n"] == 3


def test_a_fit_is_the_same_bit_for_bit_from_its_seed() -> None:
    first, again, reseeded = fitted(), fitted(), fitted(seed=3)
    assert first.weights == again.weights
    assert first.types == again.types
    assert first.weights != reseeded.weights


def test_a_pair_is_never_made_across_the_split() -> None:
    rules, rows, reward = drawn(20)
    row_numbers = [number for number, row in enumerate(rows) if row.response_type == "comply"]
    mine = [rows[number] for number in row_numbers]
    group = ranked(rules, rows, "comply", labels(rules, mine, "comply"), reward[row_numbers], by_prompt=False)
    side = {"ask 0", "ask 2"}
    pairs = group.pairs(side)
    assert {group.openings[position] for position in (*pairs.better, *pairs.worse)} == side
    assert len(pairs.better) == 2 * 2 * 3  # three classes, two prompts: each better one of either with each worse one


def answers(*ranks: list[int]) -> list[Completion]:
    """Completions that comply, with the ranks of each prompt's."""
    return [
        Completion(
            ({"role": "user", "content": f"ask {number}"},),
            "a",
            "comply",
            Where("drawn", sum(map(len, ranks[:number])) + position + 1),
            {"helps": rank == 0, "harm": rank == 2, "sorry": False},
            rank,
        )
        for number, prompt_ranks in enumerate(ranks)
        for position, rank in enumerate(prompt_ranks)
    ]


def fit_one(rows: list[Completion], seeds: list[int], *, by_prompt: bool) -> Fits:
    rules, fits = policy(), Fits({})
    group = ranked(rules, rows, "comply", labels(rules, rows, "comply"), np.zeros(len(rows)), by_prompt=by_prompt)
    fit_type(fits, rules, rows, group, seeds, 0.5, Descent(20))
    return fits


@pytest.mark.parametrize("seed", range(8))
def test_only_prompts_that_hold_pairs_are_split(seed: int) -> None:
    rows = answers(*[[0, 0]] * 4, [0, 1], *[[1, 1]] * 3, [0, 2], [2])
    evidence = fit_one(rows, [seed], by_prompt=True).types["comply"]
    assert evidence["pairs"] == {"train": 1, "heldout": 1}


def test_weights_are_of_the_first_split_that_leaves_a_pair_and_the_others_are_told() -> None:
    rows = answers([1], *[[0]] * 7)  # all pairs are on the side of the worse one
    alone = {seed: fit_one(rows, [seed], by_prompt=False) for seed in range(8)}
    lucky = [seed for seed, fits in alone.items() if fits.weights]
    unlucky = [seed for seed in alone if seed not in lucky]
    assert lucky and unlucky
    fits = fit_one(rows, [*unlucky, lucky[0]], by_prompt=False)
    assert fits.weights == alone[lucky[0]].weights
    note = (
        f"{len(unlucky)} of {len(unlucky) + 1} splits leave no pair to fit on; the weights are of the first that does"
    )
    assert f"comply: {note}" in fits.notes
    missed = alone[unlucky[0]]
    assert missed.types["comply"]["pairs"] is None
    assert missed.types["comply"]["unfitted"] == "no pair is left to fit on beside those held out"
    assert any(
        "no pair is left to fit on beside those held out (8 completions, rank 1, rank 0)" in n for n in missed.notes
    )


def test_where_nothing_ranks_apart_it_is_said() -> None:
    fits = fit_one(answers(*[[0, 0]] * 4), [0], by_prompt=True)
    assert fits.types["comply"]["unfitted"] == "no two of these completions rank apart"
    assert fits.notes == [
        "comply: no two of these completions rank apart (8 completions, rank 0): not measurable, no weights"
    ]


def test_pairs_that_were_drawn_are_told() -> None:
    fits = fit_one(answers(*[[0], [1], [2]] * 450), [0], by_prompt=False)
    evidence = fits.types["comply"]
    assert evidence["pairs"] == {"train": MOST_PAIRS, "heldout": MOST_PAIRS}
    train, heldout = evidence["there"]["train"], evidence["there"]["heldout"]
    assert 140_000 < train < 160_000
    assert (
        f"comply: {MOST_PAIRS} of {train} pairs to fit on and {MOST_PAIRS} of {heldout} held out are drawn by seed"
        in (fits.notes)
    )


@pytest.mark.parametrize("by_prompt", [True, False])
def test_ranks_of_the_data_and_places_by_labels_are_not_compared(by_prompt: bool) -> None:
    rows = answers([0, 1], [0, 1])
    mixed = [*rows[:3], replace(rows[3], rank=None)]
    what = "prompt" if by_prompt else "response type"
    with pytest.raises(InputError, match=rf"drawn:4: has no rank, and drawn:\d of the same {what} has one"):
        check_scales(mixed, by_prompt=by_prompt)
    check_scales(rows, by_prompt=by_prompt)
    check_scales([*rows[:2], *(replace(row, rank=None) for row in rows[2:])], by_prompt=True)


@public
def test_gold_labels_as_features_rank_gold_rows_within_a_response_type() -> None:
    import gzip
    import json

    from rlhf_trainer.data.columns import canonical_type
    from rlhf_trainer.rules.parser import read_policy

    rules = read_policy(DATA / "rbr_policy.yaml")
    with gzip.open(DATA / "rbr_gold_train.jsonl.gz", "rt") as file:
        read = [json.loads(line) for line in file]
    rows = [
        Completion(
            tuple(row["prompt"]),
            row["completion"][0]["content"],
            canonical_type(row["response_type"]),
            Where("gold", number),
            row["propositions"],
        )
        for number, row in enumerate(read)
    ]
    fits = Fits({})
    for kind in rules.types:
        mine = [row for row in rows if row.response_type == kind]
        reward = np.array([len(row.answer) / 1000 for row in mine])
        group = ranked(rules, rows, kind, labels(rules, mine, kind), reward, by_prompt=False)
        fit_type(fits, rules, mine, group, [0, 1], 0.3, Descent())
    for kind in ("comply", "hard_refuse", "safe_refuse_2"):
        heldout_error = fits.types[kind]["heldout"]["total"]
        assert heldout_error["high"] < 0.25, (kind, heldout_error)
    assert fits.types["safe_refuse_1"]["pairs"] is None
    assert "safe_refuse_1" not in fits.weights
    assert any("safe_refuse_1: no two of these" in note and "not measurable" in note for note in fits.notes)


def test_histograms_are_centred_within_a_group_and_count_everything() -> None:
    scores = {method: np.array([1.0, 3.0, 10.0, 14.0]) for method in fit_report.METHODS}
    histogram = fit_report.histograms(scores, ["good", "bad", "good", "bad"], ["p", "p", "q", "q"])["rm"]
    assert histogram["edges"][0] == -2 and histogram["edges"][-1] == 2
    assert sum(histogram["counts"]["good"]) == 2 and histogram["counts"]["good"][0] == 1
    assert histogram["counts"]["bad"][-1] == 1


def test_error_rates_average_the_pairs_of_one_dialogue() -> None:
    scores = {method: np.array([0.0, 1.0, 2.0, 5.0, 0.0]) for method in fit_report.METHODS}
    rates = fit_report.error_rates(scores, np.array([0, 0, 3]), np.array([1, 2, 4]), ["p", "p", "p", "q", "q"])["total"]
    assert rates["value"] == 0.5  # (p: 1, q: 0), though two pairs of three are wrong
    assert (rates["n"], rates["pairs"]) == (2, 3)


def test_a_grader_is_held_against_the_commoner_answer() -> None:
    grades = [{"a": 0.9, "b": 0.2}, {"a": 0.8, "b": 0.3}, {"a": 0.7, "b": 0.4}, {"a": 0.1, "b": 0.6}]
    gold_labels: list[dict[str, Any]] = [
        {"a": True, "b": False},
        {"a": False, "b": False},
        {"a": False, "b": False},
        {"a": False, "b": False},
    ]
    trust = fit_report.grader_trust(grades, gold_labels, [0.9, 0.2, 0.1, 0.4], ["a", "b", "c"], range(4))
    assert trust["propositions"]["a"]["accuracy"]["value"] == 0.5
    assert trust["propositions"]["a"]["majority"] == 0.75
    assert math.isclose(trust["propositions"]["a"]["balanced_accuracy"]["value"], (1 + 1 / 3) / 2)
    assert trust["propositions"]["b"]["balanced_accuracy"]["value"] is None
    assert trust["propositions"]["a"]["ece"]["value"] == pytest.approx((0.1 + 0.8 + 0.7 + 0.1) / 4)
    assert trust["propositions"]["b"]["ece"]["value"] == pytest.approx((0.2 + 0.3 + 0.4 + 0.6) / 4)
    assert trust["mean"]["ece"]["value"] == pytest.approx((1.7 / 4 + 1.5 / 4) / 2)
    assert (trust["answered"]["value"], trust["answered"]["n"]) == (pytest.approx(0.4), 4)
    notes = fit_report.grader_words(trust)
    assert any("no more than always saying the commoner answer: 87.5%" in note for note in notes)
    assert any("Labels of one kind only" in note and note.endswith("b.") for note in notes)


def test_a_grader_that_would_rather_say_something_else_is_told() -> None:
    (note,) = fit_report.answered_words(0.4)
    assert note.startswith("Only 40.0% of what the grader would say next is yes or no")
    assert fit_report.answered_words(0.5) == []


def test_over_seeds_is_mean_and_standard_error() -> None:
    assert fit_report.over_seeds([0.1, None, 0.3]) == {"mean": 0.2, "se": pytest.approx(0.1), "n": 2}
    assert fit_report.over_seeds([None]) == {"mean": None, "se": None, "n": 0}


def test_what_shows_nothing_is_said() -> None:
    sure = {"value": 0.1, "low": 0.05, "high": 0.2, "n": 90}
    none = {"value": 0.4, "low": 0.2, "high": 0.6, "n": 9}
    assert "includes 0.5" in fit_report.words("comply", {"total": none, "rm": sure})[0]
    assert "do not lower" in fit_report.words("comply", {"total": sure, "rm": sure})[0]
    assert fit_report.words("comply", {"total": sure, "rm": none}) == []
    assert torch.get_default_dtype() == torch.float32  # a fit computes in float64 and leaves no trace
