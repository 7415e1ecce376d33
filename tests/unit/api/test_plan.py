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
from rlhf_api.errors import SpecError
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
    inputs = {
        job_input.name: ResolvedInput(short_digest(job_input.source), f"/s/inputs/{job_input.source}")
        for job_input in job.spec.inputs
    }
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
    return next(entry for entry in spec["stages"] if entry["name"] == name)


# ---- structure


@st.composite
def jobs(draw: st.DrawFn) -> RLHFJob:
    """Random graphs of stages, each taking what fits from any stage before it."""
    stages: list[dict[str, Any]] = []
    products: dict[str, list[str]] = {"policy": [], "reward": [], "cost": [], "evaluation": []}

    def model(*kinds: str) -> dict[str, str]:
        names = [name for kind in kinds for name in products[kind]]
        return draw(st.sampled_from([{"input": "base"}, *({"stage": name} for name in names)]))

    for index in range(draw(st.integers(1, 8))):
        name = f"s{index}"
        kind = draw(st.sampled_from(["sft", "rewardModel", "costModel", "ppo", "evaluate"]))
        data = [{"input": "rows"}]
        spec: dict[str, Any] = {"model": model("policy"), "data": data}
        if kind in ("rewardModel", "costModel"):
            spec["model"] = model("policy", "reward", "cost")
        elif kind == "ppo":
            rewards = [{"input": "base"}, *({"stage": producer} for producer in products["reward"])]
            costs = [{"stage": producer} for producer in products["cost"]]
            spec = {"policy": model("policy"), "rewards": [draw(st.sampled_from(rewards))], "prompts": data}
            spec["costs"] = draw(st.lists(st.sampled_from(costs), max_size=2, unique_by=str)) if costs else []
        elif kind == "evaluate":
            if not products["policy"]:
                continue
            candidate = {"stage": draw(st.sampled_from(products["policy"]))}
            spec = {"candidates": [candidate], "baseline": {"input": "base"}, "prompts": data}
        products[STAGE_TYPES[kind].product].append(name)
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
    for planned in plan(job).stages:
        assert set(planned.needs) <= done
        done.add(planned.name)


@QUICK
@given(jobs())
def test_prepare_is_first_and_the_report_last_and_nothing_is_lost(job: RLHFJob) -> None:
    job_plan = plan(job)
    assert job_plan.stages[0].name == job_plan.stages[0].type == "prepare"
    assert job_plan.stages[-1].type == "report"
    assert {"prepare", job_plan.stages[-1].name} | {entry.name for entry in job.spec.stages} == {
        entry.name for entry in job_plan.stages
    }
    assert set(job_plan.stages[-1].needs) == {entry.name for entry in job_plan.stages[:-1]}


@QUICK
@given(jobs())
def test_planning_changes_nothing_and_gives_the_same_again(job: RLHFJob) -> None:
    before = job.model_dump(mode="json")
    resolution = resolved(job)
    assert plan(job, resolution) == plan(job, resolution)
    assert job.model_dump(mode="json") == before


def test_a_plan_cannot_be_changed() -> None:
    job_plan = plan(JOB)
    with pytest.raises(AttributeError):
        job_plan.stages[0].name = "other"  # type: ignore[misc]  # that is the point
    with pytest.raises(AttributeError):
        job_plan.job = "other"  # type: ignore[misc]  # that is the point


def test_needs_and_takes_follow_from_the_references() -> None:
    ppo = plan(JOB).stage("ppo")
    assert ppo.needs == ("prepare", "sft", "reward", "cost")
    assert ppo.takes == ("stage:sft", "stage:reward", "stage:cost", "input:prefs", "input:chat")


def test_a_job_without_a_report_gets_one() -> None:
    job_plan = plan(edited(lambda spec: spec["stages"].pop()))
    assert (job_plan.stages[-1].name, job_plan.stages[-1].type, job_plan.stages[-1].profile) == (
        "report",
        "report",
        "cpu",
    )


def test_an_unknown_stage_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        plan(JOB).stage("nobody")


def test_without_judges_an_evaluation_takes_those_of_its_candidates() -> None:
    spec = plan(JOB).stage("evaluate").spec
    assert [judge["stage"] or judge["function"] for judge in spec["rewards"]] == ["reward", "judges.style:brief"]
    assert [judge["stage"] for judge in spec["costs"]] == ["cost"]
    assert all("weight" not in judge and "limit" not in judge for judge in spec["rewards"] + spec["costs"])


def test_a_cost_model_used_as_a_penalty_judges_harm() -> None:
    def shape(spec: dict[str, Any]) -> None:
        ppo = stage(spec, "ppo")["ppo"]
        ppo.update(rewards=[{"stage": "cost", "weight": -1.0}], costs=[])
        del ppo["lagrange"]

    spec = plan(edited(shape)).stage("evaluate").spec
    assert ([judge["stage"] for judge in spec["rewards"]], [judge["stage"] for judge in spec["costs"]]) == (
        [],
        ["cost"],
    )


def test_labels_of_a_cost_reach_the_evaluation_that_takes_over_its_judges() -> None:
    """Of one moderation model twice by different labels, both judges."""

    def shape(spec: dict[str, Any]) -> None:
        names = ["sharp", "soft"]
        made = {"model": {"stage": "sft"}, "data": stage(spec, "cost")["costModel"]["data"], "labels": names}
        spec["stages"].insert(1, {"name": "labels", "moderation": made})
        costs = [{"stage": "labels", "name": name, "labels": [name]} for name in names]
        stage(spec, "ppo")["ppo"].update(costs=costs)
        stage(spec, "evaluate")["evaluate"]["gates"] = [{"metric": "cost.soft", "max": 0.0}]

    job = edited(shape)
    costs = plan(job).stage("evaluate").spec["costs"]
    assert [(judge["name"], judge["labels"]) for judge in costs] == [("sharp", ["sharp"]), ("soft", ["soft"])]


def test_judges_taken_over_from_two_candidates_need_names_of_their_own() -> None:
    def shape(spec: dict[str, Any]) -> None:
        made = {"model": {"stage": "sft"}, "data": stage(spec, "cost")["costModel"]["data"], "labels": ["a", "b"]}
        spec["stages"].insert(1, {"name": "labels", "moderation": made})
        first = stage(spec, "ppo")
        first["ppo"].update(costs=[{"stage": "labels", "labels": ["a"]}])
        second = {"name": "second", "ppo": {**first["ppo"], "costs": [{"stage": "labels", "labels": ["b"]}]}}
        spec["stages"].insert(spec["stages"].index(first) + 1, second)
        evaluated = stage(spec, "evaluate")["evaluate"]
        evaluated.update(gates=[], candidates=[{"stage": "ppo"}, {"stage": "second"}])

    with pytest.raises(SpecError, match=r"different costs of the candidates' stages go by the name labels in metrics"):
        edited(shape)


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
    resolution = resolved(job)
    same = {**resolution.inputs, "talk": ResolvedInput(short_digest("hf://datasets/org/chat@9c1d0aa"), "/elsewhere")}
    now = {planned.name: planned.digest for planned in plan(job, Resolved(same, resolution.functions)).stages}
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
        item_type = bare(typing.get_args(inner)[0]) if typing.get_origin(inner) is list else inner
        if isinstance(item_type, type) and issubclass(item_type, BaseModel) and not isinstance(value, BaseModel):
            continue
        if isinstance(value, Reference):
            continue
        if isinstance(value, BaseModel):
            yield from fields(value, (*path, name))
        else:
            yield (*path, name), inner, value


def another_value(annotation: Any, value: Any) -> Any:
    """Another value of the same type; the plan checks no bounds."""
    if typing.get_origin(annotation) is typing.Literal:
        return next(choice for choice in typing.get_args(annotation) if choice != value)
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
    pytest.param(index, path, annotation, value, id=f"{job_stage.type}.{'.'.join(path)}")
    for index, job_stage in enumerate(JOB.spec.stages)
    for path, annotation, value in fields(job_stage.spec)
]


@pytest.mark.parametrize(("index", "path", "annotation", "value"), SPEC_FIELDS)
def test_every_field_of_a_type_s_spec_changes_its_digest(
    index: int, path: tuple[str, ...], annotation: Any, value: Any
) -> None:
    job_stage = JOB.spec.stages[index]
    field = next(name for name in type(job_stage).model_fields if getattr(job_stage, name) is job_stage.spec)
    stages = list(JOB.spec.stages)
    stages[index] = job_stage.model_copy(
        update={field: replaced(job_stage.spec, path, another_value(annotation, value))}
    )
    job = JOB.model_copy(update={"spec": JOB.spec.model_copy(update={"stages": stages})})
    after, before = plan(job, resolved(job)), plan(JOB, resolved(JOB))
    assert after.stage(job_stage.name).digest != before.stage(job_stage.name).digest
    untouched = [name for name in BEFORE if job_stage.name not in needed_by(before, name)]
    assert all(after.stage(name).digest == BEFORE[name] for name in untouched)


def needed_by(job_plan: Plan, name: str) -> set[str]:
    """A stage and all it needs, through all stages between."""
    names, waiting = {name}, [name]
    while waiting:
        for need in job_plan.stage(waiting.pop()).needs:
            if need not in names:
                names.add(need)
                waiting.append(need)
    return names


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
    resolution = resolved(JOB)
    after = Resolved({**resolution.inputs, name: ResolvedInput(short_digest("other"), "/p")}, resolution.functions)
    now = {entry.name: entry.digest for entry in plan(JOB, after).stages}
    assert {entry for entry in BEFORE if now[entry] != BEFORE[entry]} == touched


def test_the_source_of_a_function_reaches_all_that_call_it() -> None:
    resolution = resolved(JOB)
    after = Resolved(resolution.inputs, {**resolution.functions, "judges.gold:score": short_digest("edited")})
    now = {entry.name: entry.digest for entry in plan(JOB, after).stages}
    assert {entry for entry in BEFORE if now[entry] != BEFORE[entry]} == {"ppo", "evaluate", "summary"}


def test_no_two_stages_of_a_job_share_a_product() -> None:
    products = [planned.product for planned in plan(JOB, resolved(JOB)).stages if planned.product is not None]
    assert len(set(products)) == len(products)


def test_reward_and_cost_models_of_the_same_spec_are_two_products() -> None:
    def alike(spec: dict[str, Any]) -> None:
        spec["stages"] = [
            {"name": "a", "rewardModel": {"model": {"input": "base"}, "data": [{"input": "prefs"}]}},
            {"name": "b", "costModel": {"model": {"input": "base"}, "data": [{"input": "prefs"}]}},
        ]
        spec["runPolicy"] = {}

    stage_digests = digests(edited(alike))
    assert stage_digests["a"] != stage_digests["b"]


def test_a_product_is_named_for_its_type_and_digest() -> None:
    sft = plan(JOB, resolved(JOB)).stage("sft")
    assert sft.product == f"sft-{sft.digest}"
    assert len(str(sft.digest)) == 64
    assert plan(JOB).stage("sft").product is None


def test_hits_are_marked() -> None:
    job_plan = plan(JOB, resolved(JOB, ("sft", "cost")))
    assert [planned.name for planned in job_plan.stages if planned.hit] == ["sft", "cost"]


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
    resolution = resolved(job, tuple(job_stage.name for job_stage in job.spec.stages))
    assert len(orjson.dumps(compact(job, resolution))) <= MAX_BYTES <= 2048


@settings(QUICK, max_examples=10)
@given(st.data())
def test_the_compact_form_loses_nothing_the_plan_needs(data: st.DataObject) -> None:
    job = data.draw(st.sampled_from([JOB, largest()]))
    hits = data.draw(st.lists(st.sampled_from([entry.name for entry in job.spec.stages]), unique=True))
    ordered = tuple(entry.name for entry in job.spec.stages if entry.name in hits)
    resolution = resolved(job, ordered)
    again = expand(job, orjson.loads(orjson.dumps(compact(job, resolution))), "/mnt")
    assert plan(job, again) == plan(job, resolution)
    assert {name: entry.digest for name, entry in again.inputs.items()} == {
        name: entry.digest for name, entry in resolution.inputs.items()
    }
    assert (
        again.inputs[job.spec.inputs[0].name].path == f"/mnt/inputs/{resolution.inputs[job.spec.inputs[0].name].digest}"
    )


def test_what_another_release_calls_a_product_is_told_and_kept() -> None:
    """An operator that is upgraded below a running job goes on with the names its pinned trainer has."""
    resolution = replace(resolved(JOB), recipes={"sft": 7})
    compacted = compact(JOB, resolution)
    assert [planned.digest for planned in plan(JOB, expand(JOB, compacted, "/mnt")).stages] == [
        planned.digest for planned in plan(JOB, resolution).stages
    ]
    assert plan(JOB, resolution) != plan(JOB, resolved(JOB))
    del compacted["recipes"]  # by a trainer of before
    assert plan(JOB, expand(JOB, compacted, "/mnt")) == plan(JOB, resolved(JOB))


def test_a_message_of_another_job_is_refused() -> None:
    with pytest.raises(ValueError, match="prepare told of 32 inputs and 32 functions; the job corpus has 4 and 2"):
        expand(JOB, compact(largest(), resolved(largest())), "/mnt")


def test_a_digest_of_another_length_is_refused() -> None:
    resolution = Resolved(
        {job_input.name: ResolvedInput("ab" * 32, "/p") for job_input in JOB.spec.inputs}, resolved(JOB).functions
    )
    with pytest.raises(ValueError, match="expected 40 hex digits"):
        compact(JOB, resolution)
