"""Simulated data without a model: phrases, draws, soft labels, filters, rows, the audit sample."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from rlhf_api.stages import STAGE_TYPES
from rlhf_api.stages.simulate import Phrase, Simulate
from rlhf_trainer.data.rows import Prompt, Where
from rlhf_trainer.exits import InputError
from rlhf_trainer.simulation import phrases
from rlhf_trainer.simulation.attacks import UNJUDGED, Attack, cleaned, opening_line, select
from rlhf_trainer.simulation.filters import EMPTY, IDENTICAL, LEAKED, REPEATED, Filter, leaks
from rlhf_trainer.simulation.methods import Method, Request
from rlhf_trainer.simulation.report import judging, of_answers, of_attacks
from rlhf_trainer.simulation.rows import Answered, blind, completions, pair
from rlhf_trainer.simulation.sampling import drawn
from rlhf_trainer.statistics.choices import Choice, agree, centred, soft_label

WORDS = (5, "2f2d0f2d")
"""Recipe of `simulate` and the lists' digest under it: other words are other results."""


def spec(method: str = "rlcd", value: object = None, **fields: object) -> Simulate:
    return Simulate.model_validate(
        {"model": {"input": "m"}, "prompts": [{"input": "p"}], method: value or {}, **fields}
    )


def prompt(text: str = "How?", **fields: object) -> Prompt:
    return Prompt(({"role": "user", "content": text},), None, Where("rows.jsonl", 1), **fields)


def answered(number: int, texts: tuple[str, ...], odds: tuple[float, float] | None = None) -> Answered:
    request = Request((("kind words only", "rude words only"), ("rude words only", "kind words only")), 0, "Choose.")
    choices = None if odds is None else (Choice(odds[0], 0.9), Choice(odds[1], 0.7))
    return Answered(number, prompt(f"Question {number}?"), request, texts, tuple(len(text) for text in texts), choices)


# ---- phrases


def test_the_lists_have_as_many_entries_as_the_papers() -> None:
    assert {task: len(asks) for task, asks in phrases.TASKS.items()} == {
        "harmlessness": 16,
        "helpfulness": 1,
        "outlines": 3,
        "own": 0,
    }


def test_every_phrase_may_stand_in_brackets_before_a_colon_and_none_stands_twice() -> None:
    asks = [ask for task in phrases.TASKS.values() for ask in task]
    styles = [text for grades in phrases.STYLES.values() for texts in grades.values() for text in texts]
    every = [text for ask in asks for text in ask[:2]] + styles
    for text in every:
        TypeAdapter(Phrase).validate_python(text)
    assert len(set(every)) == len(every)
    assert len({ask.instruction for ask in asks}) == len(asks)


def test_other_words_are_another_recipe() -> None:
    lists = json.dumps([phrases.TASKS, phrases.STYLES])
    fingerprint = STAGE_TYPES["simulate"].recipe, hashlib.sha256(lists.encode()).hexdigest()[:8]
    assert fingerprint == WORDS, "other phrases: raise the recipe of simulate, and say so here"


@pytest.mark.parametrize("kind", ["hard_refuse", "safe_refuse", "safe_refuse_1", "comply"])
def test_a_response_type_has_one_ideal_two_flawed_and_one_unacceptable_completion(kind: str) -> None:
    method = Method(spec("completions"), 0)
    for row in range(20):
        texts = [last for last, _ in method.request(row, kind).phrases]
        grades = phrases.styles_of(kind, {})
        assert len(texts) == 4 and len(set(texts)) == 4
        assert [next(grade for grade, grade_phrases in grades.items() if text in grade_phrases) for text in texts] == [
            "ideal",
            "suboptimal",
            "suboptimal",
            "unacceptable",
        ]


def test_an_unknown_response_type_is_told_with_what_is_missing() -> None:
    with pytest.raises(InputError, match="response type 'debate' has 0 phrases for ideal; expected at least 1"):
        Method(spec("completions"), 0).request(0, "debate")
    own_styles = [
        {"responseType": "debate", "grade": grade, "phrase": f"{grade} {number}"}
        for grade in ("ideal", "suboptimal", "unacceptable")
        for number in range(2)
    ]
    drawn_phrases = Method(spec("completions", {"styles": own_styles}), 0).request(0, "debate").phrases
    assert [last.split()[0] for last, _ in drawn_phrases] == ["ideal", "suboptimal", "suboptimal", "unacceptable"]


# ---- what a row asks for


def test_contrast_asks_for_opposites_and_earlier_turns_carry_the_other() -> None:
    request = Method(spec("rlcd"), 3).request(11)
    (better, before), (worse, beyond) = request.phrases
    ask = phrases.HARMLESSNESS[request.drawn]
    assert (better, before, worse, beyond) == (ask.positive, ask.negative, ask.negative, ask.positive)
    assert request.instruction is None and set(request.secret_phrases) == {ask.positive, ask.negative}


def test_rescoring_asks_the_judge_by_the_instruction_of_the_phrase() -> None:
    method = Method(spec("rlcdRescore"), 3)
    for row in range(40):
        request = method.request(row)
        assert request.instruction == phrases.HARMLESSNESS[request.drawn].instruction
        assert request.phrases[0][0] == phrases.HARMLESSNESS[request.drawn].positive


def test_two_samples_have_no_phrase_and_every_instruction_is_drawn() -> None:
    method = Method(spec("rlaif"), 3)
    requests = [method.request(row) for row in range(400)]
    assert {request.phrases for request in requests} == {((None, None), (None, None))}
    assert {request.instruction for request in requests} == {ask.instruction for ask in phrases.HARMLESSNESS}


def test_own_phrases_are_added_to_the_task_s_or_stand_alone() -> None:
    mine = [{"positive": "brief", "negative": "endless"}]
    assert len(Method(spec("rlcd", {"task": "outlines", "phrases": mine}), 0).asks) == 4
    alone = Method(spec("contextDistillation", {"task": "own", "phrases": mine}), 0)
    assert [alone.request(row).phrases for row in range(3)] == [(("brief", "endless"),)] * 3


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**40), st.integers(1, 40), st.integers(0, 45))
def test_what_is_drawn_is_distinct_in_range_and_a_function_of_seed_and_row(
    seed: int, row: int, of: int, count: int
) -> None:
    numbers = drawn(seed, 1, row, count, of)
    assert numbers == drawn(seed, 1, row, count, of)
    assert len(numbers) == len(set(numbers)) == min(count, of) and all(0 <= number < of for number in numbers)


@given(st.integers(0, 2**31 - 1), st.integers(4097, 2**40), st.integers(0, 64))
def test_few_of_many_are_drawn_without_a_permutation(seed: int, of: int, count: int) -> None:
    numbers = drawn(seed, 1, 5, count, of)
    assert numbers == drawn(seed, 1, 5, count, of)
    assert len(numbers) == len(set(numbers)) == count and all(0 <= number < of for number in numbers)


def test_every_entry_is_drawn_about_as_often() -> None:
    counts = Counter(drawn(5, 1, row, 1, 16)[0] for row in range(16000))
    chi = sum((counts[index] - 1000) ** 2 / 1000 for index in range(16))
    assert chi < 37.7  # 99.9 % of chi-squared with 15 degrees of freedom


# ---- soft labels


def test_a_soft_label_is_the_sigmoid_of_the_mean_log_odds() -> None:
    assert soft_label(1.2, -0.4) == pytest.approx(0.6899744811276125, abs=1e-15)
    assert soft_label(0.5, 0.5) == 0.5
    assert soft_label(800.0, -800.0) == 1.0 and soft_label(-800.0, 800.0) == pytest.approx(0.0, abs=1e-300)


@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(-30, 30))
def test_a_lean_to_a_place_cancels_and_swapped_answers_swap_the_label(first: float, second: float, lean: float) -> None:
    assert soft_label(first + lean, second + lean) == pytest.approx(soft_label(first, second), abs=1e-9)
    assert soft_label(first, second) + soft_label(second, first) == pytest.approx(1)


def test_orders_agree_where_the_label_follows_the_answer() -> None:
    assert [agree(2, -1), agree(2, 1), agree(-2, 0.1), agree(0, 1)] == [1, 0, 1, 0.5]
    assert centred([(2.0, 1.0), (0.0, -1.0)]) == [(1.5, 0.5), (-0.5, -1.5)]
    figures = judging([answered(0, ("a", "b"), (3.0, 1.0)), answered(1, ("a", "b"), (1.0, 3.0))], constructed=True)
    assert figures["order_agreement"]["value"] == 0 and figures["centred_agreement"]["value"] == 1
    assert figures["order_bias"] == 2 and figures["label_mass"] == pytest.approx(0.8)
    assert figures["construction_agreement"]["value"] == 0.5
    assert figures["certainty"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert sum(bucket["n"] for bucket in figures["bins"]) == 2


# ---- filters


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("Sure (kind) thing", "kind", True),
        ("[ Kind ] thing", "kind", True),
        ("What a kind thing to ask.", "kind", False),
        ("Here is a CARING answer, that keeps everyone safe!", "a caring answer that keeps everyone safe", True),
        ("It keeps everyone safe.", "a caring answer that keeps everyone safe", False),
        ("好的，请只用善良的话语！回答你", "只用善良的话语", True),
        ("他很善良，话语不多", "善良的话语", False),
        ("一个善良的人", "善良的人", False),
        ("好（善良）的", "善良", True),
        ("やさしい、言葉だけで答えます", "やさしい言葉", True),
        ("นี่คือคำตอบที่ใจดีมาก", "คำตอบที่ใจดี", True),
        ("the _caring answer that_ keeps", "caring answer that", True),
        ("a caring answer that keeps everyone safest", "a caring answer that keeps everyone safe", False),
    ],
)
def test_a_phrase_leaks_in_brackets_or_word_for_word(text: str, phrase: str, expected: bool) -> None:
    assert leaks(text, phrase) is expected


def test_rows_are_dropped_for_one_reason_each() -> None:
    judge, messages = Filter(), prompt().messages
    phrase = ["kind words only"]
    assert judge.reason(messages, ("a", " "), phrase) == EMPTY
    assert judge.reason(messages, ("a", "a"), phrase) == IDENTICAL
    assert judge.reason(messages, ("a", "b"), phrase) is None
    assert judge.reason(messages, ("b", "a"), phrase) == REPEATED
    assert judge.reason(prompt("Else?").messages, ("b", "a"), phrase) is None
    assert judge.reason(messages, ("kind words only", "c"), phrase) == LEAKED


# ---- rows


def test_a_judged_pair_puts_the_better_first_and_its_probability_beside() -> None:
    row = pair(answered(4, ("worse", "better"), (-1.0, 2.0)), {"method": "rlcdRescore"})
    assert [row[name][0]["content"] for name in ("chosen", "rejected")] == ["better", "worse"]
    assert row["weight"] == pytest.approx(1 / (1 + math.exp(-1.5)))
    provenance = row["provenance"]
    assert (provenance["chosen"], provenance["rejected"]) == ("rude words only", "kind words only")
    assert provenance["first"] == "rejected" and provenance["log_odds"] == [-1.0, 2.0] and provenance["row"] == 4
    assert provenance["probability_first"] == pytest.approx(1 - row["weight"])


def test_a_constructed_pair_is_certain() -> None:
    row = pair(answered(0, ("one", "two")), {})
    assert row["weight"] == 1.0 and row["chosen"][0]["content"] == "one"


def test_completions_are_ranked_by_grade() -> None:
    answered_row = Answered(2, prompt(response_type="comply"), Method(spec("completions"), 0).request(2, "comply"),
                   ("a", "b", "c", "d"), (1, 1, 1, 1))  # fmt: skip
    rows = completions(answered_row, {"seed": 0})
    assert [row["rank"] for row in rows] == [0, 1, 1, 2]
    assert {row["response_type"] for row in rows} == {"comply"}
    assert rows[3]["provenance"]["grade"] == "unacceptable"


@given(st.lists(st.sampled_from(["a", "b", "", "kind words only"]), min_size=2, max_size=60), st.integers(0, 20))
def test_every_row_made_is_written_set_aside_or_dropped(texts: list[str], audit: int) -> None:
    rows = [answered(index % 7, (text, "z")) for index, text in enumerate(texts)]
    outcome = of_answers(Method(spec("rlcd", audit=audit), 9), rows, {}, answers=[])
    dropped = sum(outcome.content["dropped"].values())
    assert len(outcome.rows) + len(outcome.audit) + dropped == len(texts) == outcome.counts["rows.made"]
    assert len(outcome.audit) == len(outcome.keys) == min(audit, outcome.counts["rows.kept"] // 10)
    written = [json.dumps(row) for row in outcome.rows]
    aside = [json.dumps({k: v for k, v in row.items() if k not in ("number", "swapped")}) for row in outcome.keys]
    assert not set(written) & set(aside)


def test_people_who_check_are_not_told_what_was_preferred() -> None:
    rows = [answered(index, (f"yes {index}", f"no {index}")) for index in range(200)]
    outcome = of_answers(Method(spec("rlcd"), 9), rows, {}, answers=[])
    assert len(outcome.audit) == 16
    for shown, key in zip(outcome.audit, outcome.keys, strict=True):
        assert set(shown) == {"number", "prompt", "a", "b", "better"} and shown["better"] is None
        assert (shown["a"].startswith("no")) is key["swapped"]
        assert {shown["a"], shown["b"]} == {key["chosen"][0]["content"], key["rejected"][0]["content"]}
    assert sum(key["swapped"] for key in outcome.keys) == 8


def test_the_order_and_numbers_of_completions_to_check_tell_no_grade() -> None:
    method = Method(spec("completions", audit=100), 9)
    rows = [
        Answered(
            number,
            prompt(f"Question {number}?", response_type="comply"),
            method.request(number, "comply"),
            tuple(f"{number} {grade}" for grade in "abcd"),
            (1, 1, 1, 1),
        )
        for number in range(1000)
    ]
    outcome = of_answers(method, rows, {}, answers=[])
    assert [row["number"] for row in outcome.audit] == [key["number"] for key in outcome.keys] == list(range(400))
    assert all(set(row) == {"number", "prompt", "completion", "good"} for row in outcome.audit)
    ranks = [key["rank"] for key in outcome.keys]
    assert Counter(ranks) == {0: 100, 1: 200, 2: 100}
    places = [Counter(ranks[start::4]) for start in range(4)]
    assert all(10 < counts[rank] < 75 for counts in places for rank in (0, 1, 2)), places
    prompts = [json.dumps(key["prompt"]) for key in outcome.keys]
    assert sum(a == b for a, b in itertools.pairwise(prompts)) < 20, "the four of a prompt do not stand together"
    assert [row["number"] for row in of_answers(method, rows, {}, answers=[]).audit] == list(range(400))


def test_a_conversation_to_check_is_shown_without_its_phrase() -> None:
    row = {"prompt": [], "completion": [{"role": "assistant", "content": "x"}], "provenance": {"phrase": "kind"}}
    assert blind(row, 0, False) == {"number": 0, "prompt": [], "completion": row["completion"], "good": None}


def test_a_length_that_tells_the_answer_is_said() -> None:
    rows = [answered(index, ("long" * 9 + str(index), f"no {index}")) for index in range(60)]
    outcome = of_answers(Method(spec("rlcd"), 9), rows, {}, answers=[])
    assert outcome.content["lengths"]["chosen_shorter"]["value"] == 0
    assert "taking the longer answer is right on 1.000 of the pairs: a reward model may learn that" in outcome.notes


# ---- red-teaming


def attack(number: int, text: str, **costs: float | None) -> Attack:
    return Attack(number, text, [0], None, "said", dict(costs))


def test_the_worst_share_of_what_is_new_is_kept_in_order() -> None:
    attacks = [
        attack(0, "How?", harm=9.0),
        attack(1, "", harm=9.0),
        attack(2, "A", harm=1.0, spite=-3.0),
        attack(3, "B", harm=-2.0, spite=2.0),
        attack(4, "A", harm=8.0),
        attack(5, "C", harm=None, spite=4.0),
        attack(6, "D", harm=0.0),
    ]
    selected, dropped = select(attacks, [prompt("How?")], 0.5)
    assert [chosen.number for chosen in selected] == [2, 3]
    assert dropped == {0: REPEATED, 1: EMPTY, 4: REPEATED, 5: UNJUDGED}
    method = {"target": {"input": "m"}, "costs": [{"input": "c"}], "keep": 0.5}
    outcome = of_attacks(spec("redTeam", method), 0, attacks, [prompt("How?")], {"method": "redTeam"})
    assert [row["prompt"][0]["content"] for row in outcome.rows] == ["A", "B"]
    assert outcome.counts["rows.made"] == 7 and sum(outcome.content["dropped"].values()) == 5
    assert outcome.content["attacks"]["harmful"]["n"] == 6


def test_what_a_writer_says_is_made_one_plain_line() -> None:
    assert cleaned('\n 5. "Where do I  hide it?"\nmore') == "Where do I  hide it?"
    assert cleaned("- * \n") == "" and cleaned("") == "" and cleaned('"') == '"'
    turns = (
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "a\nb"},
    )
    assert opening_line(Prompt(turns, None, Where("x", 1))) == "a b"
