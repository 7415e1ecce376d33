"""What the report makes of further judges: the table, the first page, and when it says that a judge shows nothing."""

import copy
import json

import numpy as np
import pytest

import report_fixture
from rlhf_trainer.evaluation import opinions
from rlhf_trainer.evaluation.opinions import PairOpinions
from rlhf_trainer.reporting import judges
from rlhf_trainer.reporting.collect import collect
from rlhf_trainer.reporting.content import content
from rlhf_trainer.reporting.render import render
from rlhf_trainer.statistics.intervals import Intervals, decide, inconclusive

PROMPTS = 64
INTERVALS = Intervals(0.95, 200, 0)


def pairs(reads):
    """46 of 64 prompts for ppo by a judge that reads, else the first place wins always."""
    better = np.where(np.arange(PROMPTS) < 46, -1.0, 1.0)[:, None]
    lean = np.zeros((PROMPTS, 1)) if reads else np.full((PROMPTS, 1), 3.0)
    return {(0, 1): PairOpinions(lean + better, lean - better, np.zeros((PROMPTS, 1)), np.full((PROMPTS, 1), 0.9))}


def worded(estimate):
    return {**estimate.as_json(), "decision": decide(estimate), "why": inconclusive(estimate)}


def judged(root, reads=True, source="input:judge", name="kind"):
    """The fixture's evaluation with three further judges; what `collect` reads."""
    file = report_fixture.build(root)
    path = next((root / "products").glob("evaluate-*")) / "evaluation.json"
    evaluation = json.loads(path.read_text())
    sft, ppo = evaluation["models"]
    spread = np.random.default_rng(0).normal(0, 0.5, PROMPTS)
    ratings = (spread + 4, spread + 6 + np.linspace(0, 0.1, PROMPTS))
    harm = (np.arange(PROMPTS) < 30).astype(float), (np.arange(PROMPTS) < 4).astype(float)
    for model, values, rate in zip((sft, ppo), ratings, harm, strict=True):
        model["metrics"]["judge.grade.score"] = INTERVALS.mean(values).as_json()
        model["metrics"]["judge.shield.harmful_rate"] = INTERVALS.rate(rate).as_json()
    ppo["differences"]["judge.grade.score"] = worded(INTERVALS.difference(*ratings[::-1]))
    ppo["differences"]["judge.shield.harmful_rate"] = worded(INTERVALS.rate_difference(*harm[::-1]))
    ppo["metrics"][f"judge.{name}.win_rate"] = INTERVALS.share(opinions.win_rate(pairs(reads), 1)).as_json()
    used = {"requests": 128, "prompt_tokens": 900, "completion_tokens": 130}
    base = {"instruction": None, "label_mass": 0.5, "questions": 128, "unreadable": 3}
    evaluation["further_judges"] = [
        {
            "name": name,
            "asks": "pairs",
            "metric": f"judge.{name}.win_rate",
            "source": source,
            "instruction": None,
            **opinions.summary(pairs(reads), ["sft", "ppo"], INTERVALS),
        },
        {
            "name": "grade",
            "asks": "scale",
            "metric": "judge.grade.score",
            "source": "url:https://a.example m",
            **base,
            **used,
        },
        {"name": "shield", "asks": "guard", "metric": "judge.shield.harmful_rate", "source": "input:guard", **base},
    ]
    path.write_text(json.dumps(evaluation))
    return content(collect(file))


def test_the_first_page_has_a_sentence_of_each_judge(tmp_path):
    document = judged(tmp_path)
    texts = [sentence["text"].replace("\u202f", "") for sentence in document["verdict"]]
    (wins,) = [text for text in texts if "the judge kind" in text]
    assert "which training never optimised" in wins and "preferred to sft's in 72%" in wins and "of 64 prompts" in wins
    assert "both orders agree on 100%" in wins
    (scale,) = [text for text in texts if "judge grade" in text]
    assert "rose" in scale and "on 64 prompts" in scale
    (guard,) = [sentence for sentence in document["verdict"] if "guard shield" in sentence["text"]]
    assert "fell" in guard["text"] and guard["tone"] == "good"


def test_a_judge_by_place_is_said_to_show_nothing_though_its_win_rate_would(tmp_path):
    document = judged(tmp_path, reads=False)
    assert document["evaluations"][0]["models"][1]["metrics"]["judge.kind.win_rate"]["low"] > 0.5
    (sentence,) = [sentence for sentence in document["verdict"] if "judge kind" in sentence["text"].lower()]
    assert "shows nothing" in sentence["text"] and "the place decides" in sentence["text"] and sentence["tone"] == ""
    assert judges.lines(document["evaluations"][0])[0].after.word == "shows nothing"


def test_the_table_has_agreement_bias_and_elo(tmp_path):
    document = judged(tmp_path)
    page = render(document).replace("\u202f", "")
    assert "What other judges say" in page and "3 of its replies unreadable" in page
    assert "128 requests of 900 and 130 tokens" in page and "url:https://a.example m" in page
    line = judges.lines(document["evaluations"][0])[0]
    assert line.agreement.text.replace("\u202f", "") == "100%" and line.bias.text.replace("\u202f", "") == "50%"
    assert float(line.elo.text) == pytest.approx(400 * np.log10(46 / 18), rel=1e-2) and " to " in line.elo.interval
    assert "judge.kind.win_rate" not in page.split("What other judges say")[0].split("All measures")[1]


def test_elo_where_the_fit_does_not_exist_is_no_number():
    section = opinions.summary(
        {(0, 1): PairOpinions(*(np.full((30, 1), value) for value in (-1.0, 1.0, 0.0, 0.9)))}, ["a", "b"], INTERVALS
    )
    assert judges.elo(section, "b") == judges.Cell("not connected", "")
    nearly = copy.deepcopy(section)
    nearly["elo"]["b"] |= {"value": 600.0, "low": 300.0, "high": None, "unbounded": ["high"]}
    assert judges.elo(nearly, "b").interval == "300 to no bound"


def test_text_of_a_job_is_escaped(tmp_path):
    assert "<b>evil</b>" not in render(judged(tmp_path, source="input:<b>evil</b>"))


def test_a_judge_whose_choices_training_learned_from_is_said_to_be_optimised():
    from rlhf_trainer.reporting.content import _labelled

    spec = {"model": {"input": "base"}, "prompts": [{"input": "p"}]}
    assert _labelled({**spec, "rlaif": {"judge": {"input": "judge"}}}) == {"input:judge"}
    assert _labelled({**spec, "rlaif": {}}) == {"input:base"}
    assert _labelled({**spec, "rlcd": {}}) == set()
    assert judges.trained_on([{"source": "input:judge"}], {"input:judge"})[0]["optimised"] is True
