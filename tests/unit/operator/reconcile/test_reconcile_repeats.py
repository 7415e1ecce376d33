"""A repeated stage on a cluster: status names its members, messages the place in the spec as it was written."""

from __future__ import annotations

import copy

from fakes.cluster_model import Cluster, Raw, job

SEEDS = {"seeds": [1, 2]}
ROWS = {"data": [{"input": "rows"}]}


def stages(**later: Raw | str) -> list[Raw]:
    return [
        {"name": "sft", "repeat": SEEDS, "sft": {"model": {"input": "base"}, **ROWS}},
        {"name": "reward", "repeat": SEEDS, **later, "rewardModel": {"model": {"stage": "sft"}, **ROWS}},
    ]


def test_members_run_and_the_spec_stays_as_it_was_written() -> None:
    raw = job(stages=stages())
    cluster = Cluster(copy.deepcopy(raw))
    cluster.settle()
    members = {stage["name"]: stage["state"] for stage in cluster.status["stages"]}
    assert members == dict.fromkeys(("prepare", "sft-s1", "sft-s2", "reward-s1", "reward-s2", "report"), "Complete")
    assert cluster.job["spec"] == raw["spec"]


def test_what_is_wrong_with_a_repeated_stage_is_told_once_at_its_place() -> None:
    cluster = Cluster(job(stages=stages(profile="none")))
    cluster.settle()
    messages = [condition["message"] for condition in cluster.status["conditions"]]
    assert "spec.stages[1].profile: there is no profile none (there are cpu, default, pair)" in messages
