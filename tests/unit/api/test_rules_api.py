"""The rules stage in jobs: what it and its users take, what prepare looks at, and what it needs of memory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from rlhf_api.errors import SpecError
from rlhf_api.load import load_job, parse_job
from rlhf_api.memory import estimate
from rlhf_api.memory.facts import ModelFacts
from rlhf_api.plan import Resolved, ResolvedInput, plan
from rlhf_trainer.inspection.lineage import meetings
from rlhf_trainer.inspection.uses import DataUse, ModelUse, PolicyUse, uses
from rlhf_trainer.reporting import fits
from rlhf_trainer.reporting.histogram import histogram

EXAMPLE = Path(__file__).parents[3] / "examples" / "safe-rlhf-rbr.yaml"
JOB: dict[str, Any] = {
    "apiVersion": "rlhf.dev/v1alpha1",
    "kind": "RLHFJob",
    "metadata": {"name": "ruled"},
    "spec": {
        "inputs": [
            {"name": name, "source": f"{name}.jsonl"} for name in ("base", "grader", "policy", "rows", "prompts")
        ],
        "stages": [
            {"name": "reward", "rewardModel": {"model": {"input": "base"}, "data": [{"input": "rows"}]}},
            {
                "name": "rules",
                "rules": {
                    "policy": {"input": "policy"},
                    "reward": {"stage": "reward"},
                    "grader": {"input": "grader"},
                    "completions": [{"input": "rows"}],
                },
            },
            {
                "name": "ppo",
                "ppo": {
                    "policy": {"input": "base"},
                    "rewards": [{"stage": "reward"}],
                    "rules": {"stage": "rules"},
                    "prompts": [{"input": "prompts"}],
                },
            },
            {
                "name": "evaluate",
                "evaluate": {
                    "candidates": [{"stage": "ppo"}],
                    "baseline": {"input": "base"},
                    "prompts": [{"input": "prompts"}],
                    "rules": {"stage": "rules"},
                },
            },
        ],
    },
}


def changed(change: Any = None) -> Any:
    job = copy.deepcopy(JOB)
    if change is not None:
        change({stage["name"]: stage for stage in job["spec"]["stages"]})
    return parse_job(job)


def resolved(**digests: str) -> Resolved:
    names = [entry["name"] for entry in JOB["spec"]["inputs"]]
    return Resolved({name: ResolvedInput(digests.get(name, name[0] * 40), f"/in/{name}") for name in names})


def test_who_uses_rules_takes_their_grader_too() -> None:
    job_plan = plan(changed())
    assert job_plan.stage("rules").takes == ("input:policy", "stage:reward", "input:grader", "input:rows")
    for name in ("ppo", "evaluate"):
        assert {"stage:rules", "input:grader"} <= set(job_plan.stage(name).takes)
        assert job_plan.stage(name).spec["rules"]["grader"] == {"input": "grader", "stage": None}


def test_another_policy_or_grader_is_another_product_of_all_that_uses_it() -> None:
    before = plan(changed(), resolved())
    for name in ("policy", "grader"):
        after = plan(changed(), resolved(**{name: "9" * 40}))
        assert before.stage("reward").digest == after.stage("reward").digest
        for stage in ("rules", "ppo", "evaluate"):
            assert before.stage(stage).digest != after.stage(stage).digest, (name, stage)


def test_a_weight_is_part_of_the_digest_and_a_default_is_not() -> None:
    plain = plan(changed(), resolved()).stage("ppo").digest
    assert plan(changed(lambda s: s["ppo"]["ppo"]["rules"].update(weight=1.0)), resolved()).stage("ppo").digest == plain
    assert plan(changed(lambda s: s["ppo"]["ppo"]["rules"].update(weight=0.5)), resolved()).stage("ppo").digest != plain


def test_rules_are_no_reward_and_a_reward_is_no_rules() -> None:
    with pytest.raises(SpecError, match=r"rules \(rules\) makes rules; expected a reward model or a cost model"):
        changed(lambda stages: stages["ppo"]["ppo"].update(rewards=[{"stage": "rules"}]))
    with pytest.raises(SpecError, match=r"makes a reward model; expected rules \(stages that fit: rules\)"):
        changed(lambda stages: stages["evaluate"]["evaluate"].update(rules={"stage": "reward"}))


def test_prepare_reads_the_policy_and_completions_and_no_tokenizer_of_the_grader() -> None:
    all_uses = uses(changed())
    assert [use.where for use in all_uses if isinstance(use, PolicyUse)] == ["stage rules, rules.policy"]
    rows = [use.rows for use in all_uses if isinstance(use, DataUse) and use.where.startswith("stage rules")]
    assert rows == ["completions"]
    graders = [use.kind for use in all_uses if isinstance(use, ModelUse) and use.input == "grader"]
    assert graders == ["causal"]
    assert list(meetings(changed(lambda s: s["ppo"]["ppo"]["rules"].update(grader={"input": "grader"})))) == []


def facts() -> dict[str, ModelFacts]:
    from test_memory import SMOL

    return {"base": SMOL, "grader": SMOL}


def test_the_grader_is_part_of_what_a_stage_needs() -> None:
    alone = changed(lambda stages: stages["ppo"]["ppo"].pop("rules"))
    with_rules, without = (estimate(job, "ppo", facts()) for job in (changed(), alone))
    assert with_rules is not None and without is not None
    weights = 4 * facts()["grader"].parameters
    assert with_rules.parts["weights of the grader"] == weights
    assert with_rules.bytes - without.bytes == weights
    rules = estimate(changed(), "rules", facts())
    assert rules is not None and rules.bytes > weights


def test_the_example_is_a_whole_chain() -> None:
    job = load_job(EXAMPLE)
    assert [stage.type for stage in job.spec.stages] == [
        "sft", "rewardModel", "sft", "rules", "ppo", "evaluate", "report",
    ]  # fmt: skip


def test_histograms_draw_a_line_a_class_and_spreads_are_words() -> None:
    drawn = {"edges": [-1.0, 0.0, 1.0], "counts": {"good": [0, 3], "<bad>": [2, 0]}}
    svg = histogram(drawn, named="scores", unit="score", counted="completions")
    assert svg.count("<polyline") == 2
    assert "&lt;bad&gt;: 2 completions" in svg
    assert fits.spread({"mean": 0.25, "se": 0.05, "n": 3}) == "25\u202f% ± 5\u202f% (n 3)"
    assert fits.spread({"mean": None, "se": None, "n": 0}) == "not measured"
    assert fits.errors({"pairs": None}) == fits.histograms({"pairs": None}, "comply") == []


def test_the_headline_says_what_rules_found_and_whose_opinion_it_is() -> None:
    from rlhf_trainer.reporting.verdict import sentences

    def model(name: str, f1: float | None, decision: str = "higher") -> dict[str, Any]:
        metrics = {metric: {"value": f1} for metric in ("safety_f1", "not_unsafe", "not_overrefuse")}
        return {"name": name, "metrics": metrics, "differences": {"safety_f1": {"decision": decision}}}

    def headline(after: float | None, decision: str) -> dict[str, str]:
        models = [model("sft", 0.5), model("ppo", after, decision)]
        return sentences({"judges": [], "baseline": "sft", "models": models})[0]

    assert "rose for ppo: 50\u202f% to 75\u202f%" in headline(0.75, "higher")["text"]
    assert headline(0.75, "higher")["tone"] == "good" and headline(0.25, "lower")["tone"] == "bad"
    assert "shows no change" in headline(0.5, "shows nothing")["text"]
    assert "nothing to measure" in headline(None, "shows nothing")["text"]


def test_a_verdict_of_rules_that_training_optimised_is_marked_and_no_success() -> None:
    from rlhf_trainer.reporting.verdict import sentences

    metrics = {metric: {"value": 0.5} for metric in ("safety_f1", "not_unsafe", "not_overrefuse")}
    models = [
        {"name": name, "metrics": metrics, "differences": {"safety_f1": {"decision": "higher"}}} for name in ("a", "b")
    ]
    evaluation = {"judges": [], "baseline": "a", "models": models}
    free = sentences({**evaluation, "rules": {"source": "stage:other", "optimised": False}})[0]
    pushed = sentences({**evaluation, "rules": {"source": "stage:rules", "optimised": True}})[0]
    assert free["tone"] == "good" and "Training optimised" not in free["text"]
    assert pushed["tone"] == "" and "Training optimised these rules" in pushed["text"]
