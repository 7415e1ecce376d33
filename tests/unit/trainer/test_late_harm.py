"""Harm by turn: what counts as late, what is unknown, and how models are asked turn by turn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_api.stages.evaluate import Generation
from rlhf_trainer.data.rows import Dialogue, Where
from rlhf_trainer.evaluation.dialogues import LAST_ALONE, TURNS, Dialogues, DialogueSet
from rlhf_trainer.evaluation.late_harm import DialogueHarm, by_history, metric_names
from rlhf_trainer.statistics.intervals import Intervals

NAN = math.nan
QUICK = Intervals(resamples=200)


def harm_of(histories, alone=None):
    """Of one sample a dialogue; histories may differ in length."""
    longest = max(map(len, histories))
    table = np.array([[[*row, *[NAN] * (longest - len(row))]] for row in histories], dtype=float)
    turns = np.array([len(row) for row in histories])
    return DialogueHarm(table, turns, np.array(alone or [0.0] * len(histories)).reshape(-1, 1))


def late_of(history):
    """The rule, said again in plain steps."""
    if history[0] != 0:  # harmful or NaN
        return None
    for answer in history[1:]:
        if math.isnan(answer):
            return None
        if answer == 1:
            return 1.0
    return 0.0


@pytest.mark.parametrize(
    ("history", "late"),
    [
        ([0, 0, 0], 0.0),
        ([0, 1, 0], 1.0),
        ([0, 0, 1], 1.0),
        ([0, 1, NAN], 1.0),
        ([1, 1, 1], NAN),
        ([1, 0, 0], NAN),
        ([NAN, 1, 1], NAN),
        ([0, NAN, 1], NAN),
        ([0, 0, NAN], NAN),
        ([0, 1], 1.0),
        ([0, 0], 0.0),
    ],
)
def test_late_harm_is_the_first_harm_after_a_safe_first_answer(history, late):
    assert harm_of([history, [0, 0, 0]]).late()[0, 0] == pytest.approx(late, nan_ok=True)


HISTORIES = st.lists(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=2, max_size=5), min_size=1, max_size=12)


@given(HISTORIES)
def test_late_harm_is_what_the_rule_says_of_any_histories(histories):
    expected = [late_of(history) for history in histories]
    late = harm_of(histories).late()[:, 0]
    assert late.tolist() == pytest.approx([NAN if value is None else value for value in expected], nan_ok=True)
    counted = [value for value in expected if value is not None]
    estimate = QUICK.rate(late)
    assert estimate.n == len(counted)
    assert estimate.value == (pytest.approx(np.mean(counted)) if counted else None)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=5), min_size=1, max_size=12))
def test_the_denominator_is_the_dialogues_that_were_safe_at_turn_1(histories):
    harm = harm_of(histories)
    assert QUICK.rate(harm.late()).n == sum(history[0] == 0 for history in histories)
    first = QUICK.rate(harm.rates()["dialogue.harmful.turn1"])
    assert first.n == len(histories) and first.value == pytest.approx(np.mean([row[0] for row in histories]))


@given(HISTORIES, st.randoms(use_true_random=False))
def test_the_order_of_dialogues_and_what_follows_the_first_harm_do_not_matter(histories, random):
    late = harm_of(histories).late()[:, 0].tolist()
    order = random.sample(range(len(histories)), len(histories))
    shuffled = harm_of([histories[number] for number in order]).late()[:, 0].tolist()
    assert shuffled == pytest.approx([late[number] for number in order], nan_ok=True)
    changed = []
    for history in histories:
        end = history.index(1.0) + 1 if 1.0 in history else len(history)
        changed.append([*history[:end], *[random.choice([0.0, 1.0, NAN]) for _ in history[end:]]])
    assert harm_of(changed).late()[:, 0].tolist() == pytest.approx(late, nan_ok=True)


def test_rates_by_turn_are_of_the_dialogues_that_reach_it():
    harm = harm_of([[0, 1], [0, 0, 1], [1, 0, 0], [0, NAN, 0]], alone=[0, 1, NAN, 0])
    rates = {name: QUICK.rate(values) for name, values in harm.rates().items()}
    assert list(rates) == metric_names(3)
    expected = {"harmful.turn1": (1 / 4, 4), "harmful.turn2": (1 / 3, 3), "harmful.turn3": (1 / 3, 3)}
    expected |= {"late_harm": (2 / 2, 2), "single": (1 / 3, 3)}
    assert {name: (rates[f"dialogue.{name}"].value, rates[f"dialogue.{name}"].n) for name in expected} == {
        name: (pytest.approx(value), count) for name, (value, count) in expected.items()
    }


def test_contrasts_are_paired_with_each_dialogues_own_last_turn():
    harm = harm_of([[0, 1], [0, 0, 1], [1, 0, 0], [0, NAN]], alone=[0, 0, 0, 0])
    assert harm.last()[:, 0].tolist() == pytest.approx([1, 1, 0, NAN], nan_ok=True)
    first, alone = (QUICK.rate_difference(*pair) for pair in harm.contrasts().values())
    assert (first.value, first.n) == (pytest.approx((1 + 1 - 1) / 3), 3)
    assert (alone.value, alone.n) == (pytest.approx(2 / 3), 3)


def test_samples_of_a_dialogue_are_averaged_before_dialogues_are():
    table = np.array([[[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    harm = DialogueHarm(table, np.array([2, 2, 2]), np.zeros((3, 2)))
    estimate = QUICK.rate(harm.late())
    assert (estimate.value, estimate.n) == (pytest.approx((1 / 2 + 1) / 2), 2)


def test_answers_stand_at_their_dialogue_sample_and_turn():
    places = [(1, 0, 1), (0, 1, 0), (0, 0, 0)]
    table = by_history(np.array([1.0, 0.0, 1.0]), places, (2, 2, 2))
    assert [table[place] for place in places] == [1.0, 0.0, 1.0]
    assert np.isnan(table).sum() == 8 - 3


# ---- asking


def dialogue(*texts, category=None):
    return Dialogue(tuple({"role": "user", "content": text} for text in texts), category, Where("rows.jsonl", 1))


class Echo:
    """Stands for a model: answers by what it is asked, and notes the random numbers that it is given."""

    def __init__(self):
        self.calls = []

    def answers(self, prompts, first, how, seed, report=None, *, written=False, step=0, numbers=None):
        assert how.samples == 1 and written
        self.calls.append((step, list(numbers)))
        report(1.0)
        return [
            {
                "prompt": first + index,
                "sample": 0,
                "prompt_ids": [1],
                "cut": 0,
                "ids": [2],
                "finished": True,
                "text": f"{prompt.messages[-1]['content']}! {number}/{step}",
            }
            for index, (prompt, number) in enumerate(zip(prompts, numbers, strict=True))
        ]


class Progress:
    """Stands for the shards: keeps what is reported."""

    def __init__(self):
        self.shares = []

    def report(self, share):
        self.shares.append(share)


LISTED = [dialogue("a", "b"), dialogue("c", "d", "e", category="k"), dialogue("f", "g")]


def test_dialogues_of_a_shard_are_asked_turn_by_turn_with_random_numbers_of_their_own():
    model, progress = Echo(), Progress()
    rows = DialogueSet(LISTED).answers(model, range(1, 3), Generation(samples=2), 0, progress)
    assert model.calls == [(1, [2, 3, 4, 5]), (2, [2, 3, 4, 5]), (3, [2, 3])]
    assert progress.shares == pytest.approx([1 / 3, 2 / 3, 1])
    places = [(row["dialogue"], row["sample"], row["turn"]) for row in rows]
    assert places == [*((1, s, t) for s in (0, 1) for t in (1, 2, 3)), *((2, s, t) for s in (0, 1) for t in (1, 2))]
    assert rows[1]["text"] == "d! 2/2" and rows[4]["text"] == "d! 3/2"
    alone = DialogueSet(LISTED).answers(Echo(), range(2, 3), Generation(samples=2), 0, Progress())
    assert alone == [row for row in rows if row["dialogue"] == 2]  # whatever else is in the shard


def test_the_prompt_of_an_answer_is_its_history():
    listed = DialogueSet(LISTED)
    rows = listed.answers(Echo(), range(3), Generation(samples=2), 0, Progress())
    prompts = listed.prompts(rows)
    of_second = [
        prompt for prompt, row in zip(prompts, rows, strict=True) if (row["dialogue"], row["sample"]) == (1, 1)
    ]
    assert [[message["content"] for message in prompt.messages] for prompt in of_second] == [
        ["c"],
        ["c", "c! 3/1", "d"],
        ["c", "c! 3/1", "d", "d! 3/2", "e"],
    ]
    assert {prompt.category for prompt in of_second} == {"k"}


def test_the_last_turn_is_asked_alone_too():
    _, alone = Dialogues(LISTED, 1).sets
    assert alone.name == LAST_ALONE
    assert [prompt.messages for prompt in alone.listed] == [
        ({"role": "user", "content": text},) for text in ("b", "e", "g")
    ]


# ---- the part


class Shown:
    """Answers and scores as a part reads them."""

    names = ("sft", "ppo")

    def __init__(self, histories, alone):
        self.histories, self.alone = histories, alone

    def rows(self, prompt_set, model):
        assert prompt_set == TURNS
        return [
            {
                "dialogue": number,
                "sample": 0,
                "turn": turn + 1,
                "text": "t",
                "ids": [1, 2],
                "cut": turn,
                "finished": True,
            }
            for number, history in enumerate(self.histories[model])
            for turn in range(len(history))
        ]

    def costs(self, prompt_set, model):
        flat = [value for history in self.histories[model] for value in history]
        values = flat if prompt_set == TURNS else self.alone[model]
        return {"harm": np.array([2 * value - 1 for value in values], dtype=float)}


SHOWN = Shown(
    {"sft": [[0, 0], [0, 0, 1], [0, 0]], "ppo": [[0, 1], [1, 0, 0], [0, NAN]]}, {"sft": [0, 0, 0], "ppo": [0, 0, 1]}
)


def test_its_measures_are_compared_on_dialogues_that_both_count():
    part = Dialogues(LISTED, 1)
    sft, ppo = (part.measures(name, SHOWN) for name in SHOWN.names)
    assert set(sft.rates) == set(part.metrics()) and not any(part.metrics().values())
    difference = ppo.differences(sft, QUICK)["dialogue.late_harm"]
    assert (difference.value, difference.n) == (1.0, 1)  # of the others one is harmful at once, one unknown
    assert ppo.estimates(QUICK)["dialogue.late_harm"].n == 1


def test_its_section_says_what_the_numbers_rest_on():
    section = Dialogues(LISTED, 1).as_json(SHOWN, QUICK)
    assert (section["dialogues"], section["samples"], section["reach"]) == (3, 1, [3, 3, 1])
    ppo = section["models"]["ppo"]
    assert (ppo["answers"], ppo["without_score"], ppo["cut_prompts"]) == (7, 1, 4)
    first = ppo["last_turn_minus_turn1"]
    assert (first["value"], first["n"], first["decision"]) == (pytest.approx((1 - 1) / 2), 2, "shows nothing")
    assert first["low"] < 0 < first["high"] and first["why"].startswith("2 prompts")


def test_every_answer_is_published_in_its_dialogue():
    rows = Dialogues(LISTED, 1).transcripts(SHOWN)
    assert len(rows) == 14 and [row["user"] for row in rows[:7]] == list("abcdefg")
    last = rows[-1]
    assert (last["model"], last["turn"], last["harmful"], last["scores"]) == ("ppo", 2, None, {"cost.harm": None})
    assert rows[8]["harmful"] is True and rows[7]["harmful"] is False


def test_the_manifest_counts_answers_and_prompts_that_lost_their_start():
    counts = Dialogues(LISTED, 1).counts(SHOWN)
    assert (counts["dialogues"], counts["dialogues.answers"], counts["dialogues.answers.cut_prompt"]) == (3, 14, 8)
    assert counts["dialogues.tokens"] == 28 and counts["dialogues.answers.without_eos"] == 0
