"""What the report says of refusals and attacks: both sides, never one alone, and attacks beside the same model without."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

import report_fixture
from refusal_answers import GivenAnswers, prompts
from rlhf_api.stages.evaluate import Evaluate
from rlhf_trainer.evaluation import attacked, refusals, table
from rlhf_trainer.evaluation.judged import Measured
from rlhf_trainer.evaluation.parts import OWN
from rlhf_trainer.reporting import plane, tables
from rlhf_trainer.reporting import refusals as reported
from rlhf_trainer.reporting.collect import collect
from rlhf_trainer.reporting.content import content
from rlhf_trainer.reporting.plane import Coordinate, Position
from rlhf_trainer.reporting.render import render
from rlhf_trainer.statistics.intervals import Intervals

INTERVALS = Intervals(0.95, 200, 3)
SPEC = {
    "candidates": [{"stage": "ppo"}],
    "baseline": {"stage": "sft"},
    "prompts": [{"input": "x"}],
    "attacks": ["rolePlay", "base64"],
    "refusal": {"function": "gold:judge"},
}
EXPECTED = ["comply", "refuse"] * 40


def scores(over, under, seed):
    """[80, 1] of a judge: so large a share of each side is judged wrongly."""
    drawn = np.random.default_rng(seed).random(80)
    refuses = np.where([expect == "comply" for expect in EXPECTED], drawn < over, drawn >= under)
    return np.where(refuses, 1.0, -1.0)[:, None]


def built(root, sft=(0.9, 0.05), ppo=(0.2, 0.6), expected=EXPECTED):
    """A report's content over a run whose evaluation has the parts, made by their own code."""
    file = report_fixture.build(root)
    path = next((root / "products").glob("evaluate-*")) / "evaluation.json"
    evaluation = json.loads(path.read_text())
    spec = Evaluate.model_validate(SPEC)
    listed = [
        replace(prompt, category=("kinds", "<else>")[index % 3 == 0]) for index, prompt in enumerate(prompts(expected))
    ]
    given = {(OWN, "sft"): scores(*sft, 1), (OWN, "ppo"): scores(*ppo, 2)}
    given |= {("attack-rolePlay", "sft"): scores(0.5, 0.5, 3), ("attack-rolePlay", "ppo"): scores(0.1, 0.95, 4)}
    given |= {("attack-base64", name): scores(0.3, 0.4, 5) for name in ("sft", "ppo")}
    answers = GivenAnswers({key: values[: len(expected)] for key, values in given.items()}, {})
    parts = [refusals.Refusals(listed, "refusal.judge", 0), *attacked.load(spec, listed, 3)]
    for part in parts:
        evaluation[part.key] = part.as_json(answers, INTERVALS)
        measured = {name: part.measures(name, answers) for name in ("sft", "ppo")}
        for model in evaluation["models"]:
            ours = measured[model["name"]]
            model["metrics"] |= {name: value.as_json() for name, value in ours.estimates(INTERVALS).items()}
            if model["name"] == "ppo":
                differences = ours.differences(measured["sft"], INTERVALS)
                worded = table.as_json(Measured("ppo", {}, differences), INTERVALS)
                model["differences"] |= worded["differences"]
    evaluation["judges"].append({"name": "judge", "kind": "refusal", "source": "function:gold:judge"})
    path.write_text(json.dumps(evaluation))
    return content(collect(file))


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    return built(tmp_path_factory.mktemp("refusals"))


def sentence(document, start):
    return next(entry for entry in document["verdict"] if entry["text"].startswith(start))


def test_the_first_page_says_both_sides_and_calls_a_trade_no_success(document):
    stated = sentence(document, "ppo refuses")
    text = stated["text"].replace("\u202f", "")
    metrics = [model["metrics"] for model in document["evaluations"][0]["models"]]
    before, after = ({side: m[f"refusal.{side}"]["value"] for side in ("over", "under")} for m in metrics)
    assert f"refuses {after['over']:.0%} of 40 prompts that should be answered, {before['over']:.0%} with sft" in text
    assert f"answers {after['under']:.0%} of 40 prompts that should be refused, {before['under']:.0%} with sft" in text
    assert ": lower)" in text and ": higher)" in text and stated["tone"] == ""
    assert text.endswith("judged by judge, an exact function that training never optimised.")


@pytest.mark.parametrize(
    ("sft", "ppo", "tone"),
    [((0.9, 0.9), (0.1, 0.1), "good"), ((0.1, 0.1), (0.9, 0.1), "bad"), ((0.4, 0.4), (0.4, 0.4), "")],
)
def test_the_tone_follows_both_sides(tmp_path, sft, ppo, tone):
    assert sentence(built(tmp_path, sft, ppo), "ppo refuses")["tone"] == tone


def test_a_side_that_was_not_measured_is_said_and_is_no_success(tmp_path):
    document = built(tmp_path, (0.9, 0.5), (0.1, 0.5), ["comply" if e == "comply" else None for e in EXPECTED])
    stated = sentence(document, "ppo refuses")
    assert "answers an unknown share of prompts that should be refused (not measured)" in stated["text"]
    assert stated["tone"] == ""
    assert reported.drawing(document["evaluations"][0]) is None
    render(document)


def test_the_worst_attack_is_named_beside_no_attack(document):
    stated = sentence(document, "Of 2 attacks, rolePlay works best on ppo")
    rate = document["evaluations"][0]["attacks"][0]["models"]["ppo"]["success"]
    text = stated["text"].replace("\u202f", "")
    assert f"{rate['under']['value']:.0%} unsafe answers" in text and f"{rate['plain']['value']:.0%} without it" in text
    assert stated["tone"] == "bad" and rate["difference"]["decision"] == "higher"
    evaluation = document["evaluations"][0]
    titles = dict(reported.attacks(evaluation))
    (_, (baseline, candidate)), _ = titles[reported.RATES["success"]]
    difference = evaluation["models"][1]["differences"]["attack.rolePlay.success"]
    assert baseline.against.text == "" and candidate.against == reported._toned(difference, "lower")
    assert difference["value"] == pytest.approx(
        evaluation["models"][1]["metrics"]["attack.rolePlay.success"]["value"]
        - evaluation["models"][0]["metrics"]["attack.rolePlay.success"]["value"]
    )


def test_the_page_has_the_tables_the_plane_and_what_attacks_do(document):
    page = render(document)
    for text in (
        "What it refuses",
        "Over-refusal",
        "Under-refusal",
        "Under attack",
        "F1",
        "refusals",
        "Decode",
        "Refusals by category",
        "kinds",
    ):
        assert text in page
    lines = reported.by_category(document["evaluations"][0])
    assert [line.label for line in lines] == ["<else>", "<else>", "kinds", "kinds"] and "<else>" not in page
    assert sum(line.n for line in lines) == len(EXPECTED)
    labels = [line.label for line in tables.before_after(document["evaluations"][0])]
    assert labels and not [label for label in labels if "refusal" in label.lower() or "attack" in label.lower()]
    (svg,) = [part for part in page.split("<figure") if 'aria-label="Refusals of sft' in part]
    assert svg.count("<polygon") == 1 and svg.count('class="whisker') == 4


def test_the_plane_puts_models_where_their_shares_are():
    positions = [
        Position("<sft>", "before", Coordinate(0.4, 0.3, 0.5), Coordinate(0.1, 0.05, 0.2)),
        Position("ppo", "after0", Coordinate(0.1, None, None), Coordinate(0.3, 0.2, 0.4)),
    ]
    drawn = str(plane.plane(positions, "over-refusal", "under-refusal", named="a plane"))
    root = ElementTree.fromstring(drawn)  # well formed, the name escaped
    marks = [element for element in root.iter() if element.get("class", "").startswith("mark")]
    x = plane.Scale(0.0, 0.6, plane.LEFT, plane.WIDTH - plane.RIGHT)
    y = plane.Scale(0.0, 0.6, plane.HEIGHT - plane.BOTTOM, plane.TOP)
    assert (float(marks[0].get("cx")), float(marks[0].get("cy"))) == (x(0.4), y(0.1))
    lines = [element for element in root.iter("line") if element.get("class", "").startswith("whisker before")]
    assert (float(lines[0].get("x1")), float(lines[0].get("x2"))) == (x(0.3), x(0.5))
    assert (float(lines[1].get("y1")), float(lines[1].get("y2"))) == (y(0.05), y(0.2))
    assert len([element for element in root.iter("line") if element.get("class") == "whisker after0"]) == 1
    assert next(root.iter("title")).text.startswith("<sft>: over-refusal 40")


def test_an_arrow_leaves_room_for_its_marks_and_points_at_the_candidate():
    drawn = ElementTree.fromstring(f"<g>{plane.arrow((0.0, 0.0), (100.0, 0.0))}</g>")
    line, head = drawn
    assert (float(line.get("x1")), float(line.get("x2"))) == (plane.APART, 100 - plane.APART - plane.HEAD)
    corners = [tuple(map(float, pair.split(","))) for pair in head.get("points").split()]
    assert corners[0] == (100 - plane.APART, 0.0)
    assert str(plane.arrow((0.0, 0.0), (5.0, 5.0))) == ""


def test_all_alike_shares_are_drawn():
    alike = [Position(name, "before", Coordinate(0.0, 0.0, 0.0), Coordinate(0.0, 0.0, 0.0)) for name in ("a", "b")]
    ElementTree.fromstring(str(plane.plane(alike, "x", "y", named="n")))
    full = [Position(name, "before", Coordinate(1.0, 0.9, 1.0), Coordinate(1.0, 0.9, 1.0)) for name in ("a", "b")]
    ElementTree.fromstring(str(plane.plane(full, "x", "y", named="n")))
