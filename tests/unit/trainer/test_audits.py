"""Audit samples that people filled in: matched row by row, compared with the labels, shown in the report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import report_fixture
from rlhf_api.errors import SpecError
from rlhf_api.load import parse_job
from rlhf_api.plan import Resolved, ResolvedInput, plan
from rlhf_api.stage_file import StageInput
from rlhf_api.stages.simulate import Simulate
from rlhf_trainer.data.rows import Prompt, Where
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.uses import AuditUse, uses
from rlhf_trainer.reporting.collect import collect
from rlhf_trainer.reporting.content import content
from rlhf_trainer.reporting.render import render
from rlhf_trainer.simulation.audits import agreement, kappa, read_answers
from rlhf_trainer.simulation.methods import Method
from rlhf_trainer.simulation.report import SimulationReport, of_answers
from rlhf_trainer.simulation.rows import Answered

Json = dict[str, Any]


def simulated(method: str, count: int = 2) -> SimulationReport:
    """200 rows of a method, 16 of them (sets of them) set aside."""
    spec = {"model": {"input": "base"}, "prompts": [{"input": "prefs"}], method: {}}
    simulate_method = Method(Simulate.model_validate(spec), 3)
    kind = "comply" if method == "completions" else None
    rows = [
        Answered(
            number,
            Prompt(({"role": "user", "content": f"Question {number}?"},), None, Where("rows.jsonl", 1), kind),
            simulate_method.request(number, kind),
            tuple(f"{number} {text}" for text in ("first", "second", "third", "fourth")[:count]),
            (1,) * count,
        )
        for number in range(200)
    ]
    return of_answers(simulate_method, rows, {"method": method}, answers=[])


def labels(outcome: SimulationReport) -> list[Any]:
    """What somebody who agrees with every label fills in."""
    pairs = "chosen" in outcome.keys[0]
    return [("b" if key["swapped"] else "a") if pairs else key.get("rank") == 0 for key in outcome.keys]


def fill(path: Path, outcome: SimulationReport, values: list[Any], **changes: Any) -> Path:
    field = "better" if "better" in outcome.audit[0] else "good"
    rows = [{**row, field: value} for row, value in zip(outcome.audit, values, strict=True)]
    rows[3] |= changes
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_agreement_with_a_pair_s_labels_has_an_interval_and_kappa(tmp_path: Path) -> None:
    pairs = simulated("rlcd")
    values = labels(pairs)
    values[0] = "A" if values[0] == "b" else "B"
    values[5] = None
    compared = agreement(read_answers(fill(tmp_path / "audit.jsonl", pairs, values)), pairs.keys)
    assert (compared["rows"], compared["answered"]) == (16, 15)
    assert compared["agreement"]["value"] == pytest.approx(14 / 15)
    assert compared["agreement"]["low"] == pytest.approx(0.7018, abs=5e-4)  # Wilson by hand
    assert 0.8 < compared["kappa"] < 14 / 15


def test_kappa_is_agreement_beyond_chance() -> None:
    first, second = "a" * 25 + "b" * 25, "a" * 20 + "b" * 5 + "a" * 10 + "b" * 15
    assert kappa(first, second) == pytest.approx(0.4)  # (0.7 - 0.5) / (1 - 0.5)
    assert kappa("aaaa", "aaaa") is None
    assert kappa("abab", "baba") == -1


def test_completions_are_good_by_grade(tmp_path: Path) -> None:
    graded = simulated("completions", 4)
    values = [value or key["rank"] == 1 for value, key in zip(labels(graded), graded.keys, strict=True)]
    compared = agreement(read_answers(fill(tmp_path / "audit.jsonl", graded, values)), graded.keys)
    assert compared["agreement"]["value"] == 0.5 and compared["kappa"] == pytest.approx(0.2)
    shares = {grade: share["value"] for grade, share in compared["good_by_grade"].items()}
    assert shares == {"ideal": 1.0, "suboptimal": 1.0, "unacceptable": 0.0}


def test_rows_without_a_label_are_good_or_not(tmp_path: Path) -> None:
    outcome = simulated("contextDistillation", 1)
    compared = agreement(read_answers(fill(tmp_path / "a.jsonl", outcome, [True] * 12 + [False] * 4)), outcome.keys)
    assert compared["good"]["value"] == 0.75 and "agreement" not in compared and "kappa" not in compared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"number": 99}, "audit.jsonl:4: number: found 99, which is no row of this audit sample"),
        ({"number": 2}, "audit.jsonl:4: number: found 2 again"),
        ({"a": "other"}, "audit.jsonl:4: row 3 is not what the audit sample shows"),
        ({"extra": 1}, "audit.jsonl:4: row 3 is not what the audit sample shows"),
        ({"better": "c"}, "audit.jsonl:4: better: found 'c', expected a or b"),
        ({"better": True}, "audit.jsonl:4: better: found true, expected a or b"),
        ({"number": "3"}, "audit.jsonl:4: found no number"),
    ],
)
def test_rows_that_are_not_the_sample_s_are_refused(tmp_path: Path, changes: Json, message: str) -> None:
    pairs = simulated("rlcd")
    with pytest.raises(InputError, match=re.escape(message)):
        agreement(read_answers(fill(tmp_path / "audit.jsonl", pairs, labels(pairs), **changes)), pairs.keys)


def test_the_sample_of_another_seed_or_stage_is_refused(tmp_path: Path) -> None:
    pairs, graded = simulated("rlcd"), simulated("completions", 4)
    filled = read_answers(fill(tmp_path / "audit.jsonl", pairs, labels(pairs)))
    with pytest.raises(InputError, match=r"audit.jsonl:1: row 0 is not what the audit sample shows"):
        agreement(filled, graded.keys)


def test_a_sample_that_nobody_filled_in_is_refused(tmp_path: Path) -> None:
    pairs = simulated("rlcd")
    with pytest.raises(InputError, match=r"none of 16 rows is filled in; expected a value in `better` or `good`"):
        read_answers(fill(tmp_path / "audit.jsonl", pairs, [None] * 16))


PAIRS = {"name": "pairs", "simulate": {"model": {"input": "base"}, "prompts": [{"input": "prefs"}], "rlcd": {}}}
INPUTS = [*report_fixture.JOB["spec"]["inputs"], {"name": "people", "source": "pvc://models/audit.jsonl"}]


def job(audits: list[Json]) -> Json:
    stages = [report_fixture.JOB["spec"]["stages"][0], PAIRS, {"name": "last", "report": {"audits": audits}}]
    return {**report_fixture.JOB, "spec": {**report_fixture.JOB["spec"], "inputs": INPUTS, "stages": stages}}


def test_the_report_shows_what_people_said(tmp_path: Path) -> None:
    outcome = simulated("rlcd")
    file = report_fixture.build(tmp_path, job=job([{"stage": "pairs", "input": "people"}]))
    product = Path(file.inputs["stage:pairs"].path)
    provenance = {"method": "rlcd", "model": {"source": "input:base"}}
    summary = {"prompts": 200, "chat": "plain", "provenance": provenance, "counts": outcome.counts}
    (product / "simulation.json").write_text(json.dumps(outcome.content | summary))
    (product / "audit-key.jsonl").write_text("".join(json.dumps(row) + "\n" for row in outcome.keys))
    folder = tmp_path / "people"
    folder.mkdir()
    fill(folder / "audit.jsonl", outcome, labels(outcome))
    inputs = {**file.inputs, "input:people": StageInput(path=str(folder), digest="a" * 64)}
    report = content(collect(file.model_copy(update={"inputs": inputs})))
    (people,) = report["simulations"][0]["people"]
    assert (people["input"], people["answered"], people["agreement"]["value"], people["kappa"]) == ("people", 16, 1, 1)
    page = render(report)
    assert (
        "Rows on which people agree with the label" in page and "Cohen&#39;s kappa" in page
    ) or "Cohen's kappa" in page
    fill(folder / "audit.jsonl", outcome, labels(outcome), a="changed")
    with pytest.raises(InputError, match=r"report.audits\[0\], input people for pairs: audit.jsonl:4: row 3"):
        collect(file.model_copy(update={"inputs": inputs}))


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        ({"stage": "sft", "input": "people"}, r"stages\[2\].report.audits\[0\].stage: there is no simulate stage sft"),
        ({"stage": "pairs", "input": "peple"}, r"audits\[0\].input: there is no input peple \(did you mean people"),
    ],
)
def test_an_audit_names_a_simulate_stage_and_an_input(audit: Json, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_job(job([audit]))


def test_a_filled_in_audit_makes_the_report_anew_and_nothing_else() -> None:
    resolved = {name: ResolvedInput(name[0] * 40, "/") for name in ("base", "chat", "prefs", "heldout", "people")}
    without, audited = job([]), job([{"stage": "pairs", "input": "people"}])
    digests = [
        {stage.name: stage.digest for stage in plan(parse_job(value), Resolved(inputs)).stages}
        for value, inputs in (
            (without, resolved),
            (audited, resolved),
            (audited, {**resolved, "people": ResolvedInput("f" * 40, "/")}),
        )
    ]
    assert (
        len({by_stage["pairs"] for by_stage in digests}) == 1 and len({by_stage["last"] for by_stage in digests}) == 3
    )
    assert [use for use in uses(parse_job(audited)) if isinstance(use, AuditUse)] == [
        AuditUse("people", "stage last, report.audits[0]")
    ]
