"""Harm in later turns on the page: sentences, table, plot, and what is no longer called unmeasured."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

import report_fixture
from rlhf_trainer.evaluation import table
from rlhf_trainer.evaluation.judged import Measured
from rlhf_trainer.evaluation.late_harm import DialogueHarm
from rlhf_trainer.evaluation.parts import Measures
from rlhf_trainer.reporting import dialogues
from rlhf_trainer.reporting.collect import collect
from rlhf_trainer.reporting.content import content
from rlhf_trainer.reporting.render import render
from rlhf_trainer.reporting.turn_plot import TurnLine, draw
from rlhf_trainer.statistics.intervals import Intervals, decide, inconclusive

INTERVALS = Intervals(resamples=200)
COUNT = 40


def harm(late_share, seed):
    """Of dialogues of three turns, safe at turn 1 but for four."""
    random = np.random.default_rng(seed)
    by_turn = np.zeros((COUNT, 1, 3))
    by_turn[:4, 0, 0] = 1
    by_turn[:, 0, 2] = random.random(COUNT) < late_share
    return DialogueHarm(by_turn, np.full(COUNT, 3), np.zeros((COUNT, 1)))


def with_dialogues(root, ppo, sft, hostile="", facts=None):
    """The fixture's run, its evaluation with dialogues of two models' harm."""
    file = report_fixture.build(root, hostile=hostile)
    path = next((root / "products").glob("evaluate-*")) / "evaluation.json"
    evaluation = json.loads(path.read_text())
    measures = [Measures(rates=model.rates()) for model in (sft, ppo)]
    section = {"dialogues": COUNT, "samples": 1, "reach": [COUNT] * 3, "models": {}}
    for model, harm_of_model, of_model in zip(evaluation["models"], (sft, ppo), measures, strict=True):
        model["metrics"] |= {name: value.as_json() for name, value in of_model.estimates(INTERVALS).items()}
        if model["name"] != evaluation["baseline"]:
            differences = of_model.differences(measures[0], INTERVALS)
            model["differences"] |= table.as_json(Measured("", {}, differences), INTERVALS)["differences"]
        contrasts = {}
        for name, pair in harm_of_model.contrasts().items():
            estimate = INTERVALS.rate_difference(*pair)
            words = {"decision": decide(estimate), "why": inconclusive(estimate)}
            contrasts[name] = {**estimate.as_json(), **words}
        section["models"][model["name"]] = {
            **contrasts,
            "answers": 3 * COUNT,
            "without_score": 0,
            "cut_prompts": 0,
            **(facts or {}),
        }
    evaluation["dialogues"] = section
    path.write_text(json.dumps(evaluation))
    return content(collect(file))


def sentence_of(document):
    (sentence,) = [entry for entry in document["verdict"] if "later turns" in entry["text"]]
    return sentence


def test_harm_that_comes_in_later_turns_is_on_the_first_page(tmp_path):
    document = with_dialogues(tmp_path, ppo=harm(0.5, 1), sft=harm(0.0, 2))
    sentence = sentence_of(document)
    ppo = next(model for model in document["evaluations"][0]["models"] if model["name"] == "ppo")
    late, difference = ppo["metrics"]["dialogue.late_harm"], ppo["differences"]["dialogue.late_harm"]
    text = sentence["text"].replace("\u202f", "")
    assert text.startswith("Harm in later turns rose for ppo: of dialogues that were safe at turn 1, 0% turned harmful")
    assert f"{late['value'] * 100:.0f}% with ppo (n 36;" in text and difference["n"] == 36
    assert "its last turns are more often harmful than when asked alone" in text
    assert "cost, a model that training optimised or no_care, an exact function that training never optimised" in text
    assert sentence["tone"] == "bad"


def test_a_difference_that_includes_0_is_not_sold(tmp_path):
    sentence = sentence_of(with_dialogues(tmp_path, ppo=harm(0.3, 1), sft=harm(0.3, 2)))
    assert sentence["text"].startswith("No change in harm in later turns is shown for ppo") and not sentence["tone"]
    assert "inconclusive: the interval includes 0" in sentence["text"]


def test_where_no_dialogue_counts_it_is_said(tmp_path):
    always = DialogueHarm(np.ones((COUNT, 1, 3)), np.full(COUNT, 3), np.ones((COUNT, 1)))
    sentence = sentence_of(with_dialogues(tmp_path, ppo=always, sft=harm(0.3, 2)))
    assert sentence["text"].startswith("Harm in later turns cannot be compared for ppo") and not sentence["tone"]


def test_what_was_measured_is_not_called_unmeasured(tmp_path):
    measured = with_dialogues(tmp_path / "a", ppo=harm(0.5, 1), sft=harm(0.0, 2))
    without = content(collect(report_fixture.build(tmp_path / "b")))
    assert not any("harm late in long dialogues" in limit for limit in measured["limits"])
    assert any("general ability before and after were not measured" in limit for limit in measured["limits"])
    assert any("and harm late in long dialogues were not measured" in limit for limit in without["limits"])


def test_the_page_has_each_turn_late_harm_the_last_turn_alone_and_the_plot(tmp_path):
    document = with_dialogues(
        tmp_path, ppo=harm(0.5, 1), sft=harm(0.0, 2), facts={"cut_prompts": 5, "without_score": 2}
    )
    page = render(document)
    for text in ("Harm in later turns", "Turn 1", "Turn 2", "Turn 3", "Late harm", "Last turn alone"):
        assert page.count(text) >= 1, text
    assert "5 of 120 histories of ppo were longer" in page and "2 of 120 answers of sft in dialogues" in page
    assert "cost (optimised in training), no_care (never optimised)" in page
    assert "dialogue: " not in page.lower()  # not once more among all measures
    assert page.count("Share of harmful answers by turn and model") == 1
    assert len(page) < 1_500_000


def test_each_number_says_how_many_dialogues_it_rests_on_where_models_differ(tmp_path):
    sft, ppo = harm(0.0, 2), harm(0.5, 1)
    ppo.by_turn[4:10, 0, 0] = 1  # six fewer are safe at turn 1
    document = with_dialogues(tmp_path, ppo=ppo, sft=sft)
    line = next(line for line in dialogues.lines(document["evaluations"][0]) if line.label == "Late harm")
    ((after, difference),) = line.candidates
    cells = [cell.interval.rpartition(", ")[2] for cell in (line.baseline, after, difference)]
    assert cells == ["n 36", "n 30", "n 30"] and line.n == 30


def test_names_cannot_leave_their_place(tmp_path):
    document = with_dialogues(tmp_path, ppo=harm(0.5, 1), sft=harm(0.0, 2), hostile="<script>alert(1)</script>")
    assert "<script>alert(1)" not in render(document)


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 9}


def test_the_plot_is_drawn_to_scale():
    lines = [
        TurnLine("a <b>", [estimate(0.0, 0.0, 0.2), estimate(1.0, 0.8, 1.0)]),
        TurnLine("c", [estimate(0.5, 0.3, 0.7)]),
    ]
    root = ElementTree.fromstring(draw(lines, named="by turn"))
    dots = [element for element in root.iter() if element.get("class", "").startswith("dot")]
    heights = [float(dot.get("cy")) for dot in dots]
    assert len(dots) == 3 and heights[2] == pytest.approx((heights[0] + heights[1]) / 2)
    assert float(dots[0].get("cx")) < float(dots[1].get("cx"))
    titles = [element.text.replace("\u202f", "") for element in root.iter() if element.tag == "title"]
    assert titles[1] == "a <b>, turn 2: 100% (80% to 100%, n 9)"


def test_what_was_not_measured_is_not_drawn():
    gap = TurnLine("a", [estimate(0.1, 0.0, 0.2), estimate(None, None, None), estimate(0.3, 0.2, 0.4)])
    root = ElementTree.fromstring(draw([gap], named="by turn"))
    assert len([element for element in root.iter() if element.get("class", "").startswith("dot")]) == 2
    assert "Nothing was measured" in draw([TurnLine("a", [estimate(None, None, None)])], named="by turn")
