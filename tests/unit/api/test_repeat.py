"""Repeated stages: written out when a job is loaded, with the digests of stages that were written by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_api.digest import short_digest
from rlhf_api.errors import Finding, SpecError
from rlhf_api.expansion import expand, written_at
from rlhf_api.job import RLHFJob
from rlhf_api.load import check_document, dump_job, load_job, located, parse_job
from rlhf_api.plan import Resolved, ResolvedInput, plan
from rlhf_api.termination_codec import compact, function_names
from rlhf_api.termination_codec import expand as unpacked
from rlhf_api.yaml import dump_yaml, load_yaml

QUICK = settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
INPUTS = [{"name": name, "source": f"{name}.jsonl"} for name in ("base", "rows", "prompts")]
ROWS, PROMPTS = [{"input": "rows"}], [{"input": "prompts"}]


def job(stages: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": "many"},
        "spec": {"inputs": INPUTS, "stages": stages, **spec},
    }


def chain(repeat: dict[str, Any], suffix: str = "", **seed: int) -> list[dict[str, Any]]:
    """sft -> reward -> ppo, repeated or one of them written out."""
    sft, reward, ppo = (f"{name}{suffix}" for name in ("sft", "reward", "ppo"))
    return [
        {"name": sft, **repeat, "sft": {"model": {"input": "base"}, "data": ROWS, **seed}},
        {"name": reward, **repeat, "rewardModel": {"model": {"stage": sft}, "data": ROWS, **seed}},
        {
            "name": ppo,
            **repeat,
            "ppo": {
                "policy": {"stage": sft},
                "rewards": [{"stage": reward}],
                "prompts": PROMPTS,
                "critics": {"model": {"stage": reward}},
                **seed,
            },
        },
    ]


def evaluation(*candidates: str, **spec: Any) -> dict[str, Any]:
    contenders = [{"stage": name} for name in candidates]
    judged = {"candidates": contenders, "baseline": {"input": "base"}, "prompts": PROMPTS, **spec}
    return {"name": "evaluate", "evaluate": judged}


def resolved(parsed: RLHFJob, hits: tuple[str, ...] = ()) -> Resolved:
    inputs = {
        entry.name: ResolvedInput(short_digest(entry.source), f"/s/inputs/{short_digest(entry.source)}")
        for entry in parsed.spec.inputs
    }
    return Resolved(inputs, {name: short_digest(name) for name in function_names(parsed)}, hits)


SEEDS = st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=8, unique=True)


@QUICK
@given(SEEDS)
def test_members_are_what_stages_written_out_with_those_seeds_are(seeds: list[int]) -> None:
    repeated = parse_job(job([*chain({"repeat": {"seeds": seeds}}), evaluation("ppo")]))
    members = [f"ppo-s{seed}" for seed in seeds]
    by_name = [stage for seed in seeds for stage in chain({}, f"-s{seed}", seed=seed)]
    by_hand = sorted(by_name, key=lambda stage: ["sft", "reward", "ppo"].index(stage["name"].partition("-")[0]))
    group = {"name": "ppo", "members": [{"stage": name} for name in members]}
    written = parse_job(job([*by_hand, evaluation(*members, groups=[group])]))
    assert repeated == written
    assert plan(repeated, resolved(repeated)) == plan(written, resolved(written))


def test_each_member_has_its_own_digest_and_that_of_a_single_stage_with_its_seed() -> None:
    repeated = parse_job(job(chain({"repeat": {"seeds": [0, 7]}})))
    digests = {stage.name: stage.digest for stage in plan(repeated, resolved(repeated)).stages}
    assert len(set(digests.values())) == len(digests)
    single = parse_job(job([{"name": "only", "sft": {"model": {"input": "base"}, "data": ROWS, "seed": 7}}]))
    assert plan(single, resolved(single)).stage("only").digest == digests["sft-s7"]


def test_stages_refer_to_one_another_seed_by_seed_whatever_their_order() -> None:
    stages = chain({"repeat": {"seeds": [3, 5]}})
    stages[2]["repeat"] = {"seeds": [5, 3]}
    planned = plan(parse_job(job(stages)))
    assert [stage.name for stage in planned.stages[-3:-1]] == ["ppo-s5", "ppo-s3"]
    for seed in (3, 5):
        assert planned.stage(f"reward-s{seed}").needs == ("prepare", f"sft-s{seed}")
        assert planned.stage(f"ppo-s{seed}").needs == ("prepare", f"sft-s{seed}", f"reward-s{seed}")


def test_a_repeated_candidate_is_a_group_and_each_member_is_judged_by_what_it_was_trained_with() -> None:
    parsed = parse_job(job([*chain({"repeat": {"seeds": [0, 1]}}), evaluation("sft", "ppo")]))
    spec = parsed.spec.stages[-1].evaluate
    assert spec is not None
    assert [candidate.label for candidate in spec.candidates] == ["sft-s0", "sft-s1", "ppo-s0", "ppo-s1"]
    assert [(group.name, [member.label for member in group.members]) for group in spec.groups] == [
        ("sft", ["sft-s0", "sft-s1"]),
        ("ppo", ["ppo-s0", "ppo-s1"]),
    ]
    judges = plan(parsed).stage("evaluate").spec["rewards"]
    assert [judge["stage"] for judge in judges] == ["reward-s0", "reward-s1"]


def test_an_override_holds_for_every_member() -> None:
    policy = {"overrides": [{"stage": "ppo", "nodes": 2}, {"stage": "report", "nodes": 1}]}
    parsed = parse_job(job(chain({"repeat": {"seeds": [0, 1]}}), runPolicy=policy))
    overrides = [(override.stage, override.nodes) for override in parsed.spec.run_policy.overrides]
    assert overrides == [("ppo-s0", 2), ("ppo-s1", 2), ("report", 1)]


def test_an_expanded_job_is_itself_and_reads_back() -> None:
    parsed = parse_job(job([*chain({"repeat": {"seeds": [0, 1]}}), evaluation("ppo")]))
    assert expand(parsed) is parsed
    assert load_job(dump_job(parsed)) == parsed


def test_a_job_that_was_not_loaded_is_not_planned() -> None:
    raw = RLHFJob.model_validate(job(chain({"repeat": {"seeds": [0, 1]}})))
    with pytest.raises(ValueError, match="repeated stage"):
        plan(raw)


def test_what_prepare_found_of_members_comes_back() -> None:
    parsed = parse_job(job(chain({"repeat": {"seeds": [0, 1, 2]}})))
    before = resolved(parsed, ("sft-s1", "ppo-s2"))
    after = unpacked(parsed, compact(parsed, before), "/s")
    assert after.hits == before.hits
    assert after.inputs == before.inputs


def test_a_digest_of_an_evaluation_without_groups_is_that_of_before_there_were_any() -> None:
    """Groups are the only new content: left out where there are none, and part of the digest where there are."""
    stages = [*chain({}, "-s0", seed=0), *chain({}, "-s1", seed=1)]
    group = {"name": "g", "members": [{"stage": "ppo-s0"}, {"stage": "ppo-s1"}]}
    specs: list[dict[str, Any]] = [{}, {"groups": []}, {"groups": [group]}]
    jobs = [parse_job(job([*stages, evaluation("ppo-s0", "ppo-s1", **spec)])) for spec in specs]
    without, empty, grouped = (plan(parsed, resolved(parsed)).stage("evaluate").digest for parsed in jobs)
    assert without == empty != grouped


# ---- where findings stand in the file


@QUICK
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_a_place_in_the_expanded_job_is_one_in_the_file(sizes: list[int], data: st.DataObject) -> None:
    stages = [
        {"name": f"s{index}", "sft": {"model": {"input": "base"}, "data": ROWS}}
        | ({"repeat": {"seeds": list(range(size))}} if size > 1 else {})
        for index, size in enumerate(sizes)
    ]
    written = job(stages)
    expanded = parse_job(copy.deepcopy(written)).spec.stages
    index = data.draw(st.integers(0, len(expanded) - 1))
    at = written_at(written, ("spec", "stages", index, "sft", "model"))
    assert at[:2] == ("spec", "stages")
    assert at[3:] == ("sft", "model")
    place = at[2]
    assert isinstance(place, int)
    assert expanded[index].name.partition("-")[0] == stages[place]["name"]


def test_a_finding_about_a_member_points_at_the_line_of_its_stage() -> None:
    document = load_yaml(dump_yaml(job(chain({"repeat": {"seeds": [0, 1]}}))))
    stages = check_document(document).spec.stages
    index = [stage.name for stage in stages].index("reward-s1")
    problem = located(document, Finding(("spec", "stages", index, "rewardModel"), "wrong"))
    assert problem.path == "spec.stages[1].rewardModel"
    assert (problem.line, problem.column) == document.position(("spec", "stages", 1, "rewardModel"))


def test_gates_on_judges_of_members_name_those() -> None:
    gate = {"metric": "reward.reward-s1", "min": 0}
    repeat = {"repeat": {"seeds": [0, 1]}}
    parse_job(job([*chain(repeat), evaluation("ppo", gates=[gate])]))
    with pytest.raises(SpecError, match=r"stages\[3\]\.evaluate\.gates\[0\]\.metric: there is no reward reward"):
        parse_job(job([*chain(repeat), evaluation("ppo", gates=[gate | {"metric": "reward.reward"}])]))


def test_a_report_may_name_audits_of_members() -> None:
    method = {"rlcd": {"task": "own", "phrases": [{"positive": "kind", "negative": "rude"}]}}
    made = {"model": {"input": "base"}, "prompts": PROMPTS, **method}
    stages = [{"name": "made", "repeat": {"seeds": [0, 1]}, "simulate": made}]
    audits = [{"stage": "made-s1", "input": "rows"}]
    parsed = parse_job(job([*stages, {"name": "report", "report": {"audits": audits}}]))
    assert parsed.spec.stages[-1].report is not None
    with pytest.raises(SpecError, match="there is no simulate stage made"):
        parse_job(job([*stages, {"name": "report", "report": {"audits": [{"stage": "made", "input": "rows"}]}}]))
