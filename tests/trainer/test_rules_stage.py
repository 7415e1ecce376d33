"""The rules stage on tiny models: what it publishes, that it is the same however it ran, and how it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rules_cases
from rules_cases import POLICY, case
from stage_gang import Case, CutOff, alone, gang

import report_fixture
from fakes.policies import DATA, public
from rlhf_trainer.exits import InputError, Stopped
from rlhf_trainer.reporting.collect import collect
from rlhf_trainer.reporting.content import content
from rlhf_trainer.reporting.render import render
from rlhf_trainer.rules import grader
from rlhf_trainer.rules.parser import parse_policy
from rlhf_trainer.rules.product import Weights
from rlhf_trainer.rules.weights import NO_PAIR_LEFT


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rules_cases.base(tmp_path_factory.mktemp("rules"))


@pytest.fixture(scope="module")
def done(home: Path) -> Case:
    rules_case = case(home, name="done")
    alone(rules_case)
    return rules_case


def published(finished: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """fit.json and the manifest."""
    return (
        json.loads((finished.product / "fit.json").read_text()),
        json.loads((finished.product / "manifest.json").read_text()),
    )


def same(first: Case, second: Case) -> None:
    for name in ("rules.json", "fit.json"):
        assert (first.product / name).read_bytes() == (second.product / name).read_bytes(), name


def test_it_publishes_weights_by_name_bound_to_policy_reward_and_grader(done: Case) -> None:
    rules = Weights.read(done.product)
    assert rules.policy == parse_policy(POLICY)
    assert [*rules.weights["refuse"]] == ["harm", "sorry", "ideal", "poor", "disallowed"]
    assert rules.reward.source == "stage:rm" and rules.reward.digest == b"stage:rm".hex().ljust(64, "0")
    assert rules.grader is not None and rules.grader.source == "stage:grader"
    assert all(abs(weight) > 0 for named in rules.weights.values() for weight in named.values())


def test_its_evidence_has_errors_weights_histograms_and_the_grader(done: Case) -> None:
    fit, manifest = published(done)
    comply = fit["types"]["comply"]
    assert comply["pairs"] == {"train": 24, "heldout": 6}
    assert set(comply["heldout"]) == {"rm", "rbr", "total"}
    assert comply["seeds"]["heldout"]["total"]["n"] == 3
    assert sum(map(sum, comply["histograms"]["total"]["counts"].values())) == 6
    assert set(fit["grader"]["propositions"]) == {"helps", "harm", "sorry"}
    assert fit["grader"]["propositions"]["sorry"]["n"] == 30  # asked only where the response type rests on it
    assert manifest["counts"]["graded"] == 120
    assert manifest["metrics"]["error_rate"]["comply"]["total"] == comply["heldout"]["total"]
    assert any("it shows nothing" in note for note in manifest["notes"])
    grades = [
        row
        for path in sorted((done.work / "shards" / "grades").glob("*"))
        for row in json.loads(path.read_text())["rows"]
    ]
    assert fit["grader"]["answered"]["value"] == pytest.approx(np.mean([row["answered"] for row in grades[60:]]))
    assert 0 < fit["grader"]["mean"]["ece"]["value"] < 1
    assert any("of what the grader would say next is yes or no" in note for note in manifest["notes"])


def test_the_report_tells_of_the_grader_of_drawn_pairs_and_of_types_without_weights(done: Case, tmp_path: Path) -> None:
    fit, _ = published(done)
    fit["types"]["comply"]["there"] = {"train": 160_000, "heldout": 6}
    fit["types"]["refuse"] = {"completions": 4, "pairs": None, "unfitted": NO_PAIR_LEFT}
    page = render(content(collect(report_fixture.build(tmp_path))) | {"fits": [{"stage": "rules", **fit}]})
    for sentence in (
        "24 fitted, 6 held out, drawn by seed from 160 000 and 6; half is a coin",
        "No pair is left to fit on beside those held out: nothing was fitted",
        "Yes and no together are",
        "Calibration error",
    ):
        assert sentence in page.replace("\u202f", " "), sentence


def test_the_errors_are_those_of_the_weights_and_scores(home: Path, done: Case) -> None:
    """The whole computation once more, by hand, for the fitted pairs of the first split."""
    from rlhf_trainer.data.rows import Completion, Where
    from rlhf_trainer.data.splits import split_by_prompt

    rules, fit = Weights.read(done.product), published(done)[0]
    rows = [json.loads(line) for line in (home / "completions.jsonl").read_text().splitlines()]
    shards = {
        name: [
            row
            for path in sorted((done.work / "shards" / name).glob("*"))
            for row in json.loads(path.read_text())["rows"]
        ]
        for name in ("grades", "scores")
    }
    assert len(shards["grades"]) == 120 and len(shards["scores"]) == 60
    row_numbers = [number for number, row in enumerate(rows) if row["response_type"] == "refuse"]
    refusals = [
        Completion(({"role": "user", "content": rows[n]["prompt"]},), "", "refuse", Where("", n)) for n in row_numbers
    ]
    fitted = {row.row.row for row in split_by_prompt(refusals, 0.2, 7 * 1009)[0]}
    total = {}
    for number in row_numbers:
        phi, w = shards["grades"][number]["grades"], rules.weights["refuse"]
        raw = {"ideal": phi["sorry"] * (1 - phi["harm"]), "disallowed": phi["harm"]}
        raw["poor"] = (1 - raw["ideal"]) * (1 - phi["harm"])
        features = phi | {name: value / sum(raw.values()) for name, value in raw.items()}
        total[number] = shards["scores"][number]["score"] + sum(w[name] * features[name] for name in w)
    wrong = {}
    for first, second, third in zip(row_numbers[::3], row_numbers[1::3], row_numbers[2::3], strict=True):
        if first in fitted:
            pairs = [(first, second), (first, third), (second, third)]
            wrong[first] = np.mean([0.5 - 0.5 * np.sign(total[a] - total[b]) for a, b in pairs])
    assert fit["types"]["refuse"]["train"]["total"]["value"] == pytest.approx(np.mean(list(wrong.values())))


def test_it_is_the_same_bit_for_bit_from_its_seed(home: Path, done: Case) -> None:
    again, reseeded = case(home, name="again"), replace(case(home, name="other"), seed=8)
    alone(again, reseeded)
    same(done, again)
    assert (done.product / "rules.json").read_bytes() != (reseeded.product / "rules.json").read_bytes()


@pytest.mark.parametrize("at", [0, 1, 3])
def test_killed_while_grading_it_goes_on_and_grades_no_completion_twice(
    home: Path, done: Case, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    rules_case = case(home, name=f"killed-{at}")
    original_grade, calls = grader.Grader.grade, []

    def counted(self: Any, questions: Any, **options: Any) -> Any:
        if len(calls) == at and dying:
            raise CutOff
        calls.append(len(questions))
        return original_grade(self, questions, **options)

    monkeypatch.setattr(grader.Grader, "grade", counted)
    dying = True
    with pytest.raises(CutOff):
        alone(rules_case)
    dying = False
    alone(rules_case)
    assert sum(calls) == 120
    same(done, rules_case)


def test_stopped_between_shards_it_keeps_what_it_has(home: Path, done: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_trainer.context import StageContext

    rules_case, stop_answers = case(home, name="stopped"), iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "stop_requested", lambda self: next(stop_answers))
        with pytest.raises(Stopped):
            alone(rules_case)
    assert len(list((rules_case.work / "shards").rglob("*.json"))) == 2
    alone(rules_case)
    same(done, rules_case)


def test_other_settings_of_the_fit_grade_nothing_again(home: Path, done: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    rules_case = case(home, name="refit", iterations=10, holdout=0.4)
    rules_case.work.mkdir(parents=True)
    (done.work / "shards").rename(rules_case.work / "shards")
    monkeypatch.setattr(grader.Grader, "grade", lambda *_, **__: pytest.fail("graded again"))
    alone(rules_case)
    (rules_case.work / "shards").rename(done.work / "shards")
    assert published(rules_case)[0]["types"]["comply"]["pairs"]["heldout"] == 12


def test_two_ranks_find_what_one_does(home: Path, done: Case, tmp_path: Path) -> None:
    two = case(home, name="two")
    gang(2, [two], tmp_path)
    same(done, two)


def test_labels_are_features_without_a_grader(home: Path) -> None:
    rules_case = case(home, name="labels", features="labels", grader=None, gold=None, iterations=300, holdout=0.3)
    alone(rules_case)
    fit, manifest = published(rules_case)
    assert Weights.read(rules_case.product).grader is None
    assert fit["grader"] is None
    for kind in ("comply", "refuse"):
        assert fit["types"][kind]["heldout"]["total"]["value"] == 0
    assert any("Features are labels" in note for note in manifest["notes"])


def test_pairs_of_a_response_type_join_different_prompts_and_say_so(home: Path) -> None:
    rules_case = case(home, name="across", pairs="responseType", features="labels", grader=None, gold=None)
    alone(rules_case)
    fit, manifest = published(rules_case)
    assert fit["types"]["comply"]["pairs"] == {"train": 3 * 8 * 8, "heldout": 3 * 2 * 2}
    assert any("different prompts" in note for note in manifest["notes"])


def test_ranks_of_the_data_come_before_labels(home: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (home / "completions.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        del row["propositions"]
        row["rank"] = min(number % 3, 1)
    data = tmp_path / "ranked.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules_case = case(home, name="ranks", gold=None, inputs={"input:completions": str(data)})
    alone(rules_case)
    fit, _ = published(rules_case)
    assert fit["types"]["comply"]["pairs"] == {"train": 16, "heldout": 4}  # one ideal, two alike
    assert [*fit["types"]["comply"]["histograms"]["rm"]["counts"]] == ["rank 0", "rank 1"]


def test_a_function_may_be_the_reward_and_its_source_is_what_weights_are_bound_to(home: Path) -> None:
    rules_case = case(home, name="function", reward={"function": "care:score"}, gold=None)
    alone(rules_case)
    rules = Weights.read(rules_case.product)
    assert rules.reward.source == "function:care:score" and len(rules.reward.digest) == 40


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"response_type": "answer"},
            r"completions.jsonl:1: response_type: found answer; the policy has comply, refuse",
        ),
        ({"propositions": {"rude": True}}, "the policy has no rude"),
        ({"propositions": {"helps": True}}, "propositions: harm missing; without rank, labels rank a completion"),
        ({"propositions": None}, "neither propositions nor rank"),
        ({"response_type": None}, "found no response type, expected a string such as comply"),
        ({"propositions": {"helps": "yes"}}, "expected an object of true or false by proposition"),
        ({"propositions": None, "rank": 0.5}, "rank: found .* expected a whole number"),
    ],
)
def test_a_row_that_the_rules_cannot_use_is_refused_by_its_place(
    home: Path, tmp_path: Path, row: Any, message: str
) -> None:
    rows = [json.loads(line) for line in (home / "completions.jsonl").read_text().splitlines()]
    rows[0] |= row
    data = tmp_path / "completions.jsonl"
    data.write_text("".join(json.dumps(completion) + "\n" for completion in rows))
    with pytest.raises(InputError, match=message):
        alone(case(home, name="bad", inputs={"input:completions": str(data)}))


def test_completions_of_one_prompt_with_and_without_rank_are_refused(home: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (home / "completions.jsonl").read_text().splitlines()]
    rows[0]["rank"] = 0
    data = tmp_path / "mixed.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"mixed.jsonl:2: has no rank, and mixed.jsonl:1 of the same prompt has one"):
        alone(case(home, name="mixed", gold=None, inputs={"input:completions": str(data)}))


def test_completions_that_all_rank_alike_leave_nothing_to_fit(home: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (home / "completions.jsonl").read_text().splitlines()][::3]
    data = tmp_path / "alike.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="no two of one prompt rank apart; there is nothing to fit"):
        alone(case(home, name="alike", gold=None, inputs={"input:completions": str(data)}))


def test_a_policy_with_problems_is_refused_with_all_of_them(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.replace("declines: false, harm", "declines: true, harm"))
    with pytest.raises(InputError, match=r"policy.yaml:\d+:\d+: .*ideal and poor both hold") as raised:
        alone(case(home, name="policy", inputs={"input:policy": str(path)}))
    assert (raised.value.code, raised.value.reason) == (2, "InvalidPolicy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rules_json: rules_json.update(version="2"), "found version '2'"),
        (
            lambda rules_json: rules_json["weights"]["comply"].pop("helps"),
            "weights of comply are not those of its features",
        ),
        (
            lambda rules_json: rules_json["policy"]["simple_propositions"]["helps"].update(prompt="?"),
            "is not the one that",
        ),
        (lambda rules_json: rules_json.pop("reward"), "not rules of this version"),
    ],
)
def test_rules_that_were_tampered_with_are_refused(done: Case, tmp_path: Path, change: Any, message: str) -> None:
    rules_json = json.loads((done.product / "rules.json").read_text())
    change(rules_json)
    (tmp_path / "rules.json").write_text(json.dumps(rules_json))
    with pytest.raises(InputError, match=message):
        Weights.read(tmp_path)


@public
def test_the_gold_set_is_fitted_on_its_labels_and_one_response_type_is_not_measurable(home: Path) -> None:
    files = {"input:policy": str(DATA / "rbr_policy.yaml"), "input:completions": str(DATA / "rbr_gold_train.jsonl.gz")}
    across = {"features": "labels", "pairs": "responseType", "grader": None, "gold": None, "holdout": 0.3}
    rules_case = case(home, name="gold", reward={"function": "care:score"}, inputs=files, iterations=1000, **across)
    alone(rules_case)
    fit, manifest = published(rules_case)
    assert manifest["counts"]["rows.used"] == 351
    for kind in ("comply", "hard_refuse", "safe_refuse_2"):
        assert fit["types"][kind]["heldout"]["total"]["high"] < 0.3, kind
        assert fit["types"][kind]["heldout"]["rm"]["value"] > 0.3, kind
    assert fit["types"]["safe_refuse_1"]["pairs"] is None
    notes = " ".join(manifest["notes"])
    assert (
        "safe_refuse_1: no two of these completions rank apart (9 completions, unacceptable_completion): not" in notes
    )
    assert "Features are labels" in notes and "different prompts" in notes
