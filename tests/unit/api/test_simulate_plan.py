"""A simulate stage in the plan that both executors run: who takes its rows, and what makes them anew."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from rlhf_api.errors import SpecError
from rlhf_api.job import RLHFJob
from rlhf_api.load import load_job, parse_job
from rlhf_api.plan import Resolved, ResolvedInput, plan
from rlhf_api.yaml import load_yaml

EXAMPLES = Path(__file__).parents[3] / "examples"
VALUE = load_yaml((EXAMPLES / "rlcd.yaml").read_bytes()).value


def digests(job: RLHFJob) -> dict[str, str]:
    names = [entry.name for entry in job.spec.inputs]
    resolved = Resolved({name: ResolvedInput(f"{index}" * 40, f"/{name}") for index, name in enumerate(names)})
    return {stage.name: str(stage.digest) for stage in plan(job, resolved).stages if stage.digest is not None}


def changed(edit: Any) -> set[str]:
    """Stages whose product an edit of the example makes anew."""
    value = copy.deepcopy(VALUE)
    edit({stage["name"]: stage for stage in value["spec"]["stages"]})
    before, after = digests(parse_job(VALUE)), digests(parse_job(value))
    return {name for name in before if before[name] != after[name]}


def test_reward_models_take_the_rows_of_their_stage_and_both_the_same_test() -> None:
    job_plan = plan(parse_job(VALUE))
    assert job_plan.stage("rlcd-reward").takes == ("input:base", "stage:rlcd-pairs", "input:pairs")
    assert job_plan.stage("rlcd-reward").needs == ("prepare", "rlcd-pairs")
    assert job_plan.stage("rlcd-pairs").needs == job_plan.stage("rlaif-pairs").needs == ("prepare",)
    assert job_plan.stage("rlcd-pairs").profile is None, "the job's profile: it needs a GPU where others do"


@pytest.mark.parametrize(
    ("edit", "anew"),
    [
        (lambda s: s["rlcd-pairs"]["simulate"].update(rlcd={"task": "outlines"}), {"rlcd-pairs", "rlcd-reward", "report"}),
        (lambda s: s["rlcd-pairs"]["simulate"].update(audit=3), {"rlcd-pairs", "rlcd-reward", "report"}),
        (lambda s: s["rlcd-pairs"]["simulate"].update(rlcd={}), set()),
        (lambda s: s["rlaif-pairs"]["simulate"]["rlaif"].update(judge={"input": "base"}), {"rlaif-pairs", "rlaif-reward", "report"}),
        (lambda s: s["rlcd-pairs"].update(execution={"keepCheckpoints": 1}, nodes=2), set()),
        (lambda s: s["rlcd-reward"]["rewardModel"].pop("test"), {"rlcd-reward", "report"}),
    ],
)  # fmt: skip
def test_what_is_made_anew(edit: Any, anew: set[str]) -> None:
    assert changed(edit) == anew


def test_three_rounds_follow_one_another_through_red_teams() -> None:
    job_plan = plan(load_job(EXAMPLES / "three-rounds.yaml"))
    assert {"ppo-1", "cost"} < set(job_plan.stage("attacks-2").needs)
    assert {"ppo-1", "attacks-2"} < set(job_plan.stage("pairs-2").needs)
    assert {"ppo-2", "attacks-3"} < set(job_plan.stage("ppo-3").needs)


MODEL = {"input": "base"}
COMPLETIONS = {"name": "graded", "simulate": {"model": MODEL, "prompts": [{"input": "asked"}], "completions": {}}}
POLICY = {"policy": MODEL, "rewards": [{"input": "base"}], "prompts": [{"input": "asked"}]}


@pytest.mark.parametrize(
    ("stage", "where"),
    [
        ({"sft": {"model": MODEL, "data": [{"stage": "graded"}]}}, r"stages\[1\].sft.data\[0\].stage"),
        (
            {"ppo": {**POLICY, "ptx": {"coefficient": 1.0, "data": [{"stage": "graded"}]}}},
            r"stages\[1\].ppo.ptx.data\[0\].stage",
        ),
    ],
)
def test_completions_of_all_grades_are_nothing_to_imitate(stage: dict[str, Any], where: str) -> None:
    inputs = [{"name": "base", "source": "base"}, {"name": "asked", "source": "rows.jsonl"}]
    job = {**VALUE, "spec": {"inputs": inputs, "stages": [COMPLETIONS, {"name": "next", **stage}]}}
    words = (
        rf"{where}: graded makes completions and prompts by completions; expected conversations "
        r"\(methods that make conversations: rlcd, rlaif, rlcdRescore, contextDistillation\)"
    )
    with pytest.raises(SpecError, match=words):
        parse_job(job)
