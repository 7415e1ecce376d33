"""The plan: an order in which it can be done, and digests that change with the result and with nothing else."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from corpus.cases import BASE
from rlhf_api.base import bare
from rlhf_api.digest import short_digest
from rlhf_api.fields import MAX_ITEMS, Reference
from rlhf_api.job import RLHFJob
from rlhf_api.load import parse_job
from rlhf_api.plan import Plan, Resolved, ResolvedInput, plan
from rlhf_api.stages import STAGE_TYPES
from rlhf_api.termination_codec import MAX_BYTES, compact, expand, function_names
from rlhf_api.yaml import load_yaml

VALUE = load_yaml(BASE).value
JOB = parse_job(VALUE)
QUICK = settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def resolved(job: RLHFJob, hits: tuple[str, ...] = ()) -> Resolved:
    """Every input and function found, each with a digest of its name and source."""
    inputs = {one.name: ResolvedInput(short_digest(one.source), f"/s/inputs/{one.source}") for one in job.spec.inputs}
    return Resolved(inputs, {name: short_digest(name) for name in function_names(job)}, hits)


def digests(job: RLHFJob) -> dict[str, str | None]:
    return {stage.name: stage.digest for stage in plan(job, resolved(job)).stages}


BEFORE = digests(JOB)


def edited(edit: typing.Callable[[dict[str, Any]], object]) -> RLHFJob:
    """The base job with its spec edited in place."""
    value = copy.deepcopy(VALUE)
    edit(value["spec"])
    return parse_job(value)


def changed(job: RLHFJob) -> set[str]:
    """Stages of the base job whose digest is another now."""
    now = digests(job)
    return {name for name in BEFORE if now.get(name) != BEFORE[name]}


def stage(spec: dict[str, Any], name: str) -> Any:
    return next(one for one in spec["stages"] if one["name"] == name)


# ---- structure


@st.composite
def jobs(draw: st.DrawFn) -> RLHFJob:
    """Random graphs of stages, each taking what fits from any stage before it."""
    stages: list[dict[str, Any]] = []
    made: dict[str, list[str]] = {"policy": [], "reward": [], "cost": [], "evaluation": []}

    def model(*kinds: str) -> dict[str, str]:
        names = [name for kind in kinds for name in made[kind]]
        return draw(st.sampled_from([{"input": "base"}, *({"stage": name} for name in names)]))

    for index in range(draw(st.integers(1, 8))):
        name = f"s{index}"
        kind = draw(st.sampled_from(["sft", "rewardModel", "costModel", "ppo", "evaluate"]))
        data = [{"input": "rows"}]
        spec: dict[str, Any] = {"model": model("policy"), "data": data}
        if kind in ("rewardModel", "costModel"):
            spec["model"] = model("policy", "reward", "cost")
        elif kind == "ppo":
            rewards = [{"input": "base"}, *({"stage": one} for one in made["reward"])]
            costs = [{"stage": one} for one in made["cost"]]
            spec = {"policy": model("policy"), "rewards": [draw(st.sampled_from(rewards))], "prompts": data}
            spec["costs"] = draw(st.lists(st.sampled_from(costs), max_size=2, unique_by=str)) if costs else []
        elif kind == "evaluate":
            if not made["policy"]:
                continue
            candidate = {"stage": draw(st.sampled_from(made["policy"]))}
            spec = {"candidates": [candidate], "baseline": {"input": "base"}, "prompts": data}
        made[STAGE_TYPES[kind].product].append(name)
        stages.append({"name": name, kind: spec})
    if not stages or draw(st.booleans()):
        stages.insert(draw(st.integers(0, len(stages))), {"name": "words", "report": {}})
    inputs = [{"name": "base", "source": "base"}, {"name": "rows", "source": "rows.jsonl"}]
    metadata = {"name": "random"}
    spec = {"inputs": inputs, "stages": stages}
    return parse_job({"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": metadata, "spec": spec})


@QUICK
@given(jobs())
def test_every_stage_comes_after_all_it_needs(job: RLHFJob) -> None:
    done: set[str] = set()
    for one in plan(job).stages:
        assert set(one.needs) <= done
        done.add(one.name)


@QUICK
@given(jobs())
def test_prepare_is_first_and_the_report_last_and_nothing_is_lost(job: RLHFJob) -> None:
    made = plan(job)
    assert made.stages[0].name == made.stages[0].type == "prepare"
    assert made.stages[-1].type == "report"
    assert {"prepare", made.stages[-1].name} | {one.name for one in job.spec.stages} == {
        one.name for one in made.stages
    }
    assert set(made.stages[-1].needs) == {one.name for one in made.stages[:-1]}


@QUICK
@given(jobs())
def test_planning_changes_nothing_and_gives_the_same_again(job: RLHFJob) -> None:
    before = job.model_dump(mode="json")
    found = resolved(job)
    assert plan(job, found) == plan(job, found)
    assert job.model_dump(mode="json") == before


def test_a_plan_cannot_be_changed() -> None:
    made = plan(JOB)
    with pytest.raises(AttributeError):
        made.stages[0].name = "other"  # type: ignore[misc]  # that is the point
    with pytest.raises(AttributeError):
        made.job = "other"  # type: ignore[misc]  # that is the point


def test_needs_and_takes_follow_from_the_references() -> None:
    ppo = plan(JOB).stage("ppo")
    assert ppo.needs == ("prepare", "sft", "reward", "cost")
    assert ppo.takes == ("stage:sft", "stage:reward", "stage:cost", "input:prefs", "input:chat")


def test_a_job_without_a_report_gets_one() -> None:
    made = plan(edited(lambda spec: spec["stages"].pop()))
    assert (made.stages[-1].name, made.stages[-1].type, made.stages[-1].profile) == ("report", "report", "cpu")


def test_an_unknown_stage_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        plan(JOB).stage("nobody")


def test_without_judges_an_evaluation_takes_those_of_its_candidates() -> None:
    spec = plan(JOB).stage("evaluate").spec
    assert [one["stage"] or one["function"] for one in spec["rewards"]] == ["reward", "judges.style:brief"]
    assert [one["stage"] for one in spec["costs"]] == ["cost"]
    assert all("weight" not in one and "limit" not in one for one in spec["rewards"] + spec["costs"])


def test_a_cost_model_used_as_a_penalty_judges_harm() -> None:
    def shape(spec: dict[str, Any]) -> None:
        ppo = stage(spec, "ppo")["ppo"]
        ppo.update(rewards=[{"stage": "cost", "weight": -1.0}], costs=[])
        del ppo["lagrange"]

    spec = plan(edited(shape)).stage("evaluate").spec
    assert ([one["stage"] for one in spec["rewards"]], [one["stage"] for one in spec["costs"]]) == ([], ["cost"])


def test_a_stage_overrides_the_job_s_placement_and_seed() -> None:
    job = edited(lambda spec: stage(spec, "sft")["sft"].update(seed=11))
    assert (plan(job).stage("sft").seed, plan(job).stage("reward").seed) == (11, 7)
    assert (plan(job).stage("ppo").nodes, plan(job).stage("sft").nodes) == (2, 1)


# ---- digests: what does not change them


@pytest.mark.parametrize(
    "edit",
    [
        lambda spec: stage(spec, "sft").pop("execution"),
        lambda spec: stage(spec, "ppo").update(execution={"zero": 3, "gradientCheckpointing": True}),
        lambda spec: stage(spec, "ppo").update(nodes=7, ranksPerNode=2, profile="other"),
        lambda spec: stage(spec, "ppo").update(pod={"priorityClassName": "low"}, resources={"limits": {"cpu": "1"}}),
        lambda spec: spec.update(profile="other", nodes=3, ranksPerNode=1),
        lambda spec: spec.update(suspend=True, activeDeadlineSeconds=5, runPolicy={}),
        lambda spec: spec.pop("storage"),
        lambda spec: spec.pop("credentials"),
        lambda spec: spec["inputs"].reverse(),
    ],
)
def test_what_does_not_change_the_result_changes_no_digest(edit: Any) -> None:
    assert changed(edited(edit)) == set()


@pytest.mark.parametrize(
    "edit",
    [
        lambda spec: spec["inputs"].append({"name": "more", "source": "x"}),
        lambda spec: spec["inputs"][2].update(licence="MIT"),
    ],
)
def test_what_only_the_report_prints_changes_the_report_alone(edit: Any) -> None:
    assert changed(edited(edit)) == {"summary"}


def test_the_order_of_independent_stages_changes_no_digest_but_the_report_s() -> None:
    def swap(spec: dict[str, Any]) -> None:
        spec["stages"][1], spec["stages"][2] = spec["stages"][2], spec["stages"][1]

    assert changed(edited(swap)) == {"summary"}


def test_a_further_stage_changes_no_digest_but_the_report_s() -> None:
    more = {"name": "more", "sft": {"model": {"stage": "sft"}, "data": [{"input": "chat"}]}}
    assert changed(edited(lambda spec: spec["stages"].insert(5, more))) == {"summary"}


def test_where_an_input_lies_and_what_it_is_called_changes_no_digest_but_the_report_s() -> None:
    """The same content from elsewhere under another name makes the same products; the report prints both."""
    value = copy.deepcopy(VALUE)
    text = (
        orjson.dumps(value)
        .decode()
        .replace('"input":"chat"', '"input":"talk"')
        .replace('"name":"chat"', '"name":"talk"')
    )
    job = parse_job(orjson.loads(text.replace("hf://datasets/org/chat@9c1d0aa", "hf://datasets/other/copy@main")))
    found = resolved(job)
    same = {**found.inputs, "talk": ResolvedInput(short_digest("hf://datasets/org/chat@9c1d0aa"), "/elsewhere")}
    now = {one.name: one.digest for one in plan(job, Resolved(same, found.functions)).stages}
    assert {name for name in now if now[name] != BEFORE[name]} == {"summary"}


def test_the_name_of_a_stage_changes_no_digest_where_no_product_tells_it() -> None:
    text = orjson.dumps(VALUE).decode()
    for old in ("sft", "reward"):
        text = text.replace(f'"stage":"{old}"', f'"stage":"{old}-2"').replace(f'"name":"{old}"', f'"name":"{old}-2"')
    now = digests(parse_job(orjson.loads(text)))
    assert now["sft-2"] == BEFORE["sft"]
    assert now["reward-2"] == BEFORE["reward"]
    assert now["cost"] == BEFORE["cost"], "it starts from the renamed stage"
    assert now["ppo"] != BEFORE["ppo"], "its metrics are called after the reward"


def test_the_job_s_name_changes_the_report_alone() -> None:
    value = copy.deepcopy(VALUE)
    value["metadata"]["name"] = "other"
    assert changed(parse_job(value)) == {"summary"}


def test_a_default_written_out_is_the_default() -> None:
    assert changed(edited(lambda spec: stage(spec, "ppo")["ppo"].update(gamma=1.0, epochs=1))) == set()


# ---- digests: what changes them


def fields(model: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Every field of a spec that holds a plain value, or a list of such: path, annotation, value."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        inner = bare(field.annotation)
        held = bare(typing.get_args(inner)[0]) if typing.get_origin(inner) is list else inner
        if isinstance(held, type) and issubclass(held, BaseModel) and not isinstance(value, BaseModel):
            continue
        if isinstance(value, Reference):
            continue
        if isinstance(value, BaseModel):
            yield from fields(value, (*path, name))
        else:
            yield (*path, name), inner, value


def other(annotation: Any, value: Any) -> Any:
    """Another value of the same type; the plan checks no bounds."""
    if typing.get_origin(annotation) is typing.Literal:
        return next(one for one in typing.get_args(annotation) if one != value)
    if typing.get_origin(annotation) is list:
        return ["x"]
    if annotation is bool:
        return not value
    return "x" if annotation is str else (value or 0) + 1


def replaced(model: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    inner = replaced(getattr(model, name), tuple(rest), value) if rest else value
    return model.model_copy(update={name: inner})


SPEC_FIELDS = [
    pytest.param(index, path, annotation, value, id=f"{one.type}.{'.'.join(path)}")
    for index, one in enumerate(JOB.spec.stages)
    for path, annotation, value in fields(one.spec)
]


@pytest.mark.parametrize(("index", "path", "annotation", "value"), SPEC_FIELDS)
def test_every_field_of_a_type_s_spec_changes_its_digest(
    index: int, path: tuple[str, ...], annotation: Any, value: Any
) -> None:
    one = JOB.spec.stages[index]
    field = next(name for name in type(one).model_fields if getattr(one, name) is one.spec)
    stages = list(JOB.spec.stages)
    stages[index] = one.model_copy(update={field: replaced(one.spec, path, other(annotation, value))})
    job = JOB.model_copy(update={"spec": JOB.spec.model_copy(update={"stages": stages})})
    made, before = plan(job, resolved(job)), plan(JOB, resolved(JOB))
    assert made.stage(one.name).digest != before.stage(one.name).digest
    untouched = [name for name in BEFORE if one.name not in needed_by(before, name)]
    assert all(made.stage(name).digest == BEFORE[name] for name in untouched)


def needed_by(made: Plan, name: str) -> set[str]:
    """A stage and all it needs, through all stages between."""
    found, waiting = {name}, [name]
    while waiting:
        for need in made.stage(waiting.pop()).needs:
            if need not in found:
                found.add(need)
                waiting.append(need)
    return found


@pytest.mark.parametrize(
    ("edit", "touched"),
    [
        (lambda spec: spec.update(seed=8), {"sft", "reward", "cost", "ppo", "evaluate", "summary"}),
        (lambda spec: stage(spec, "reward")["rewardModel"].update(seed=8), {"reward", "ppo", "evaluate", "summary"}),
        (
            lambda spec: stage(spec, "cost")["costModel"]["data"][0].update(limit=9),
            {"cost", "ppo", "evaluate", "summary"},
        ),
        (lambda spec: stage(spec, "ppo")["ppo"]["rewards"][1].update(weight=-0.2), {"ppo", "evaluate", "summary"}),
        (lambda spec: stage(spec, "ppo")["ppo"]["costs"][0].update(limit=1), {"ppo", "evaluate", "summary"}),
        (lambda spec: spec["inputs"][3].update(format="prompt-only"), {"evaluate", "summary"}),
        (lambda spec: spec["inputs"][2].update(heldout=0.2), {"reward", "cost", "ppo", "evaluate", "summary"}),
        (lambda spec: spec["inputs"][2].update(columns={}), {"reward", "cost", "ppo", "evaluate", "summary"}),
        (lambda spec: stage(spec, "evaluate")["evaluate"]["gates"].pop(), {"evaluate", "summary"}),
        (lambda spec: stage(spec, "reward")["rewardModel"].update(lora={}), {"reward", "ppo", "evaluate", "summary"}),
        (lambda spec: stage(spec, "sft")["sft"]["lora"].update(rank=8), set(BEFORE) - {"prepare"}),
        (lambda spec: stage(spec, "reward")["rewardModel"].pop("ensemble"), {"reward", "ppo", "evaluate", "summary"}),
        (lambda spec: stage(spec, "ppo")["ppo"].update(reference={"input": "base"}), {"ppo", "evaluate", "summary"}),
        (lambda spec: stage(spec, "ppo")["ppo"]["guards"].update(length={"max": 9}), {"ppo", "evaluate", "summary"}),
        (lambda spec: stage(spec, "ppo")["ppo"].pop("ptx"), {"ppo", "evaluate", "summary"}),
        (lambda spec: stage(spec, "evaluate")["evaluate"]["prompts"].pop(), {"evaluate", "summary"}),
        (lambda spec: stage(spec, "summary")["report"].update(title="Other"), {"summary"}),
    ],
)
def test_a_change_reaches_all_that_take_from_it_and_no_others(edit: Any, touched: set[str]) -> None:
    assert changed(edited(edit)) == touched


@pytest.mark.parametrize(
    ("name", "touched"),
    [
        ("base", {"sft", "reward", "cost", "ppo", "evaluate", "summary"}),
        ("prefs", {"reward", "cost", "ppo", "evaluate", "summary"}),
        ("eval", {"evaluate", "summary"}),
    ],
)
def test_the_content_of_an_input_reaches_all_that_take_from_it(name: str, touched: set[str]) -> None:
    found = resolved(JOB)
    other = Resolved({**found.inputs, name: ResolvedInput(short_digest("other"), "/p")}, found.functions)
    now = {one.name: one.digest for one in plan(JOB, other).stages}
    assert {one for one in BEFORE if now[one] != BEFORE[one]} == touched


def test_the_source_of_a_function_reaches_all_that_call_it() -> None:
    found = resolved(JOB)
    other = Resolved(found.inputs, {**found.functions, "judges.gold:score": short_digest("edited")})
    now = {one.name: one.digest for one in plan(JOB, other).stages}
    assert {one for one in BEFORE if now[one] != BEFORE[one]} == {"ppo", "evaluate", "summary"}


def test_no_two_stages_of_a_job_share_a_product() -> None:
    made = [one.product for one in plan(JOB, resolved(JOB)).stages if one.product is not None]
    assert len(set(made)) == len(made)


def test_reward_and_cost_models_of_the_same_spec_are_two_products() -> None:
    def alike(spec: dict[str, Any]) -> None:
        spec["stages"] = [
            {"name": "a", "rewardModel": {"model": {"input": "base"}, "data": [{"input": "prefs"}]}},
            {"name": "b", "costModel": {"model": {"input": "base"}, "data": [{"input": "prefs"}]}},
        ]
        spec["runPolicy"] = {}

    found = digests(edited(alike))
    assert found["a"] != found["b"]


def test_a_product_is_named_for_its_type_and_digest() -> None:
    sft = plan(JOB, resolved(JOB)).stage("sft")
    assert sft.product == f"sft-{sft.digest}"
    assert len(str(sft.digest)) == 64
    assert plan(JOB).stage("sft").product is None


def test_hits_are_marked() -> None:
    made = plan(JOB, resolved(JOB, ("sft", "cost")))
    assert [one.name for one in made.stages if one.hit] == ["sft", "cost"]


def test_what_was_not_resolved_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        plan(JOB, Resolved({}))


# ---- what prepare tells in a termination message


def largest() -> RLHFJob:
    """As many inputs, functions and stages as a job may have."""
    inputs = [{"name": f"i{index}", "source": f"{index}.jsonl"} for index in range(MAX_ITEMS)]
    rewards = [{"function": f"judges:f{index}"} for index in range(MAX_ITEMS)]
    ppo = {"policy": {"input": "i0"}, "rewards": rewards, "prompts": [{"input": "i1"}]}
    stages: list[dict[str, Any]] = [{"name": f"s{index}", "ppo": ppo} for index in range(MAX_ITEMS)]
    metadata, spec = {"name": "largest"}, {"inputs": inputs, "stages": stages}
    return parse_job({"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": metadata, "spec": spec})


def test_the_largest_job_s_resolution_fits_a_termination_message() -> None:
    job = largest()
    found = resolved(job, tuple(one.name for one in job.spec.stages))
    assert len(orjson.dumps(compact(job, found))) <= MAX_BYTES <= 2048


@settings(QUICK, max_examples=10)
@given(st.data())
def test_the_compact_form_loses_nothing_the_plan_needs(data: st.DataObject) -> None:
    job = data.draw(st.sampled_from([JOB, largest()]))
    hits = data.draw(st.lists(st.sampled_from([one.name for one in job.spec.stages]), unique=True))
    ordered = tuple(one.name for one in job.spec.stages if one.name in hits)
    found = resolved(job, ordered)
    again = expand(job, orjson.loads(orjson.dumps(compact(job, found))), "/mnt")
    assert plan(job, again) == plan(job, found)
    assert {name: one.digest for name, one in again.inputs.items()} == {
        name: one.digest for name, one in found.inputs.items()
    }
    assert again.inputs[job.spec.inputs[0].name].path == f"/mnt/inputs/{found.inputs[job.spec.inputs[0].name].digest}"


def test_what_another_release_calls_a_product_is_told_and_kept() -> None:
    """An operator that is upgraded below a running job goes on with the names its pinned trainer has."""
    found = replace(resolved(JOB), recipes={"sft": 7})
    told = compact(JOB, found)
    assert [one.digest for one in plan(JOB, expand(JOB, told, "/mnt")).stages] == [
        one.digest for one in plan(JOB, found).stages
    ]
    assert plan(JOB, found) != plan(JOB, resolved(JOB))
    del told["recipes"]  # by a trainer of before
    assert plan(JOB, expand(JOB, told, "/mnt")) == plan(JOB, resolved(JOB))


def test_a_message_of_another_job_is_refused() -> None:
    with pytest.raises(ValueError, match="prepare told of 32 inputs and 32 functions; the job corpus has 4 and 2"):
        expand(JOB, compact(largest(), resolved(largest())), "/mnt")


def test_a_digest_of_another_length_is_refused() -> None:
    found = Resolved({one.name: ResolvedInput("ab" * 32, "/p") for one in JOB.spec.inputs}, resolved(JOB).functions)
    with pytest.raises(ValueError, match="expected 40 hex digits"):
        compact(JOB, found)
