"""The report of simulated data: counts, the judge's worth, the audit sample escaped, scorers on people's pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import report_fixture
from rlhf_api.stages.simulate import Simulate
from rlhf_trainer.data.rows import Prompt, Where
from rlhf_trainer.reporting.collect import collect
from rlhf_trainer.reporting.content import content
from rlhf_trainer.reporting.render import render
from rlhf_trainer.simulation.attacks import Attack
from rlhf_trainer.simulation.methods import Method
from rlhf_trainer.simulation.report import of_answers, of_attacks
from rlhf_trainer.simulation.rows import Answered
from rlhf_trainer.statistics.choices import Choice

HOSTILE = "<script>alert('x')</script><img src=x onerror=y>{{ 7 * 7 }}"
PAIRS = {"model": {"input": "base"}, "prompts": [{"input": "prefs"}], "rlcdRescore": {}}
TEAM = {
    "model": {"input": "base"},
    "prompts": [{"input": "prefs"}],
    "redTeam": {"target": {"stage": "sft"}, "costs": [{"stage": "cost"}]},
}
STAGES = [
    *report_fixture.JOB["spec"]["stages"][:3],
    {"name": "pairs", "simulate": PAIRS},
    {"name": "attacks", "simulate": TEAM},
    {
        "name": "simulated-reward",
        "rewardModel": {
            "model": {"stage": "sft"},
            "data": [{"stage": "pairs"}],
            "test": [{"input": "prefs", "split": "heldout"}],
        },
    },
]
JOB = {**report_fixture.JOB, "spec": {**report_fixture.JOB["spec"], "stages": STAGES}}


def prompt(text: str) -> Prompt:
    return Prompt(({"role": "user", "content": text},), None, Where("rows.jsonl", 1))


def simulated() -> Any:
    """What the stage writes of 40 judged pairs whose texts are hostile."""
    method = Method(Simulate.model_validate(PAIRS), 7)
    rows = [
        Answered(
            number,
            prompt(f"{HOSTILE} {number}?"),
            method.request(number),
            ("" if number == 3 else f"{HOSTILE} yes {number}", f"{HOSTILE} no"),
            (9, 7),
            (Choice(1.0, 0.9), Choice(-0.5, 0.8)),
        )
        for number in range(40)
    ]
    answers = [{"cut": 0, "finished": True, "unmarked": 0, "ids": [1, 2]}] * 80
    return of_answers(method, rows, {"method": "rlcdRescore"}, answers=answers)


def attacked() -> Any:
    attacks = [
        Attack(number, f"{HOSTILE} {number}", [0], None, HOSTILE, {"cost": float(number)}) for number in range(30)
    ]
    return of_attacks(Simulate.model_validate(TEAM), 7, attacks, [prompt("Why?")], {"method": "redTeam"})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    root = tmp_path_factory.mktemp("simulated")
    file = report_fixture.build(root, job=JOB)
    for name, outcome in (("pairs", simulated()), ("attacks", attacked())):
        product = Path(file.inputs[f"stage:{name}"].path)
        provenance = {"method": name, "model": {"source": "input:base"}, "judge": {"source": "stage:sft"}}
        summary = {"prompts": 40, "chat": "template", "provenance": provenance, "counts": outcome.counts}
        (product / "simulation.json").write_text(json.dumps(outcome.content | summary))
        (product / "audit-key.jsonl").write_text("".join(json.dumps(row) + "\n" for row in outcome.keys))
        timings = {"steps": 2, "seconds": 9.0, "phases": {"generate": 4.0}, "tokens": {"generate": 160}, "attempts": 1}
        (product / "timings.json").write_text(json.dumps({**timings, "peakRssBytes": 1}))
    product = Path(file.inputs["stage:simulated-reward"].path)
    manifest = json.loads((product / "manifest.json").read_text())
    accuracy = {"value": 0.52, "low": 0.44, "high": 0.6, "n": 150, "method": "wilson"}
    manifest["metrics"]["test"] = {"accuracy": accuracy, "accuracy_shorter_wins": accuracy}
    (product / "manifest.json").write_text(json.dumps(manifest))
    document = content(collect(file))
    return document, render(document)


def test_counts_filters_and_the_judge_are_told(page: tuple[dict[str, Any], str]) -> None:
    pairs, attacks = page[0]["simulations"]
    assert pairs["counts"]["rows.made"] == 40 and pairs["dropped"] == {"empty answer": 1}
    assert pairs["counts"]["rows.audit"] == len(pairs["audit"]) == 3 and pairs["tokensPerSecond"] == 40
    assert pairs["judging"]["order_agreement"]["value"] == 1 and pairs["judging"]["order_bias"] == 0.25
    assert attacks["attacks"]["written"] == 30 and attacks["counts"]["rows.kept"] == 15
    for words in (
        "dropped: empty answer",
        "Pairs on which both orders agree",
        "40 tokens a second",
        "16 entries to draw",
    ):
        assert words in page[1].replace("\u202f", " "), words


def test_texts_of_the_audit_sample_are_escaped(page: tuple[dict[str, Any], str]) -> None:
    html = page[1]
    assert "<script" not in html and "<img" not in html and ">49<" not in html
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)") >= 3 * 3 + 1
    assert "asked for: " in html and "judged by: Choose" in html


def test_a_scorer_is_shown_on_pairs_it_was_not_trained_on(page: tuple[dict[str, Any], str]) -> None:
    (row,) = page[0]["tests"]
    assert row["stage"] == "simulated-reward" and row["word"] == "shows nothing" and row["judged"] == ["prefs"]
    assert row["learned"] == [{"name": "pairs", "method": "pairs by contrast, judged by a model (RLCD-Rescore)"}]
    assert any("150 test pairs that it was not trained on, 52" in sentence["text"] for sentence in page[0]["verdict"])
    assert any(sentence.startswith("Models made the data of pairs, attacks") for sentence in page[0]["limits"])


def test_a_job_without_simulated_data_has_no_such_section(tmp_path: Path) -> None:
    document = content(collect(report_fixture.build(tmp_path)))
    assert document["simulations"] == document["tests"] == []
    assert 'id="simulated"' not in render(document)
