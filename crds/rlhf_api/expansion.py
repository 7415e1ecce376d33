"""A job with its repeated stages written out, one stage a seed. Pure.

Jobs are expanded when they are loaded (`rlhf_api.load`), so that plan, executors, status and trainer only ever see
stages that run. A trainer of before `repeat` runs them as well, but does not know groups of an evaluation. The file, and
the object on the API server, stay as they were written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_api.base import ApiModel
from rlhf_api.errors import Finding, Loc
from rlhf_api.fields import MAX_ITEMS, Contender, Reference, located_references
from rlhf_api.job import RLHFJob, Stage
from rlhf_api.job_view import JobView, StageView
from rlhf_api.repeat import member_name
from rlhf_api.run_policy import RunPolicy
from rlhf_api.stages import Evaluate
from rlhf_api.stages.evaluate import MAX_GROUPS, Group

Seeds = Mapping[str, Sequence[int]]
"""Of repeated stages, by name."""


def expand(job: RLHFJob) -> RLHFJob:
    """The job with every repeated stage written out; the job itself where none is.

    References between stages with the same seeds go seed by seed. In an evaluation, a repeated
    candidate becomes its members and a group of its name. Overrides of a repeated stage hold for each member.
    """
    seeds = {stage.name: stage.repeat.seeds for stage in job.spec.stages if stage.repeat is not None}
    if not seeds:
        return job
    stages = [written for stage in job.spec.stages for written in _written(stage, seeds)]
    spec = job.spec.model_copy(update={"stages": stages, "run_policy": _run_policy(job.spec.run_policy, seeds)})
    return job.model_copy(update={"spec": spec})


def check_repeats(view: JobView) -> Iterator[Finding]:
    """What is wrong with repeated stages that they do not show by themselves; relative to `spec`."""
    models = [stage.model for stage in view.stages if stage.model is not None]
    seeds = {model.name: model.repeat.seeds for model in models if model.repeat is not None}
    if not seeds:
        return
    count = sum(len(seeds.get(stage.name or "", (0,))) for stage in view.stages)
    if count > MAX_ITEMS:
        yield Finding(("stages",), f"found {count} stages with their repeats; expected at most {MAX_ITEMS}")
    for stage in view.stages:
        yield from _names(view, stage, seeds)
        if stage.model is None:
            continue
        for at, reference in located_references(stage.model.spec, (str(stage.type),)):
            if reference.stage in seeds:
                yield from _reference(stage, stage.model, at, seeds)
        if stage.model.evaluate is not None:
            yield from _evaluation(stage.model.evaluate, ("stages", stage.index, "evaluate"), seeds)


def written_at(job: Any, at: Loc) -> Loc:
    """Where something stands in a job as it was written, from where it stands in the expanded one.

    Args:
        job: The written job, as a mapping.
        at: A path from the root of the job.
    """
    stages = _list(_map(_map(job).get("spec")).get("stages"))
    seeds = {_map(stage).get("name"): len(_list(_map(_map(stage).get("repeat")).get("seeds"))) for stage in stages}
    if not any(seeds.values()) or len(at) < 3:
        return at
    sizes = [seeds[_map(stage).get("name")] or 1 for stage in stages]
    if at[:2] == ("spec", "stages"):
        index = _position(sizes, at[2])
        return (*at[:2], index, *_in_evaluation(_map(_map(stages[index]).get("evaluate")), at[3:], seeds))
    if at[:3] == ("spec", "runPolicy", "overrides") and len(at) > 3:
        overrides = _list(_map(_map(_map(job).get("spec")).get("runPolicy")).get("overrides"))
        return (*at[:3], _position([seeds.get(_map(entry).get("stage")) or 1 for entry in overrides], at[3]), *at[4:])
    return at


def _written(stage: Stage, seeds: Seeds) -> Iterator[Stage]:
    field = next(name for name, entry in Stage.model_fields.items() if entry.alias == stage.type)
    if stage.repeat is None:
        yield stage if stage.evaluate is None else stage.model_copy(update={field: _judging(stage.evaluate, seeds)})
        return
    for seed in stage.repeat.seeds:
        names = {name: member_name(name, seed) for name in seeds}
        spec = _redirected(stage.spec, names).model_copy(update={"seed": seed})
        yield stage.model_copy(update={"name": member_name(stage.name, seed), "repeat": None, field: spec})


def _redirected(value: Any, names: Mapping[str, str]) -> Any:
    """A spec whose references to repeated stages point at members."""
    if isinstance(value, list):
        redirected = [_redirected(item, names) for item in value]
        return redirected if any(new is not old for new, old in zip(redirected, value, strict=True)) else value
    if not isinstance(value, ApiModel):
        return value
    fields = {name: getattr(value, name) for name in type(value).model_fields}
    changed = {name: new for name, old in fields.items() if (new := _redirected(old, names)) is not old}
    if isinstance(value, Reference) and value.stage is not None and value.stage in names:
        changed["stage"] = names[value.stage]
    return value.model_copy(update=changed) if changed else value


def _judging(spec: Evaluate, seeds: Seeds) -> Evaluate:
    """An evaluation whose repeated candidates are their members, each a group."""
    members = {
        candidate.key: [Contender(stage=member_name(candidate.label, seed)) for seed in seeds[candidate.label]]
        for candidate in spec.candidates
        if candidate.stage in seeds
    }
    groups = [Group(name=key.partition(":")[2], members=contenders) for key, contenders in members.items()]
    candidates = [entry for candidate in spec.candidates for entry in members.get(candidate.key, [candidate])]
    return spec.model_copy(update={"candidates": candidates, "groups": [*spec.groups, *groups]}) if groups else spec


def _run_policy(policy: RunPolicy, seeds: Seeds) -> RunPolicy:
    names = {name: [member_name(name, seed) for seed in of_stage] for name, of_stage in seeds.items()}
    overrides = [
        override.model_copy(update={"stage": name})
        for override in policy.overrides
        for name in names.get(override.stage, [override.stage])
    ]
    return policy.model_copy(update={"overrides": overrides})


def _names(view: JobView, stage: StageView, seeds: Seeds) -> Iterator[Finding]:
    """No member is called as another stage is, or a member of one."""
    others = [(entry.index, entry.name) for entry in view.stages if entry.index != stage.index and entry.name]
    written = {name: index for index, name in others}
    written |= {member_name(name, seed): index for index, name in others for seed in seeds.get(name, ())}
    for seed in seeds.get(stage.name or "", ()):
        name = member_name(str(stage.name), seed)
        if name in written:
            message = f"with seed {seed} it is {name}, the name of stages[{written[name]}] or of a member of it"
            yield Finding(("stages", stage.index, "name"), message, "rename one")


def _reference(stage: StageView, model: Stage, at: Loc, seeds: Seeds) -> Iterator[Finding]:
    reference = next(entry for loc, entry in located_references(model.spec, (str(stage.type),)) if loc == at)
    name, place = str(reference.stage), ("stages", stage.index, *at, "stage")
    words = ", ".join(str(seed) for seed in seeds[name])
    if at[:2] == ("evaluate", "candidates"):
        return
    if model.repeat is None:
        message = f"{name} is repeated with seeds {words}; expected one model"
        hint = "repeat this stage with the same seeds"
        if at[0] == "evaluate":
            hint = "only candidates may be repeated stages; they are a group without being put in one"
        yield Finding(place, message, hint)
    elif set(model.repeat.seeds) != set(seeds[name]):
        message = f"{name} is repeated with seeds {words}; this stage with other ones"
        yield Finding(place, message, "give both the same seeds: members refer to one another seed by seed")


def _evaluation(spec: Evaluate, at: Loc, seeds: Seeds) -> Iterator[Finding]:
    judging = _judging(spec, seeds)
    if len(judging.candidates) > MAX_ITEMS:
        message = f"found {len(judging.candidates)} candidates with those of repeats; expected at most {MAX_ITEMS}"
        yield Finding((*at, "candidates"), message)
    if len(judging.groups) > MAX_GROUPS:
        message = f"found {len(judging.groups)} groups with those of repeats; expected at most {MAX_GROUPS}"
        yield Finding((*at, "groups"), message)
    of_repeats = any(member.stage in seeds for group in spec.groups for member in group.members)
    for finding in () if of_repeats or judging is spec else judging.rules():
        yield finding.below(at)


def _in_evaluation(evaluation: Mapping[str, Any], at: Loc, seeds: Mapping[Any, int]) -> Loc:
    """The same of a path below a stage: candidates are more there, too, and groups that nobody wrote are theirs."""
    if at[:2] == ("evaluate", "candidates") and len(at) > 2:
        sizes = [seeds.get(_map(entry).get("stage")) or 1 for entry in _list(evaluation.get("candidates"))]
        return (*at[:2], _position(sizes, at[2]), *at[3:])
    if at[:2] == ("evaluate", "groups") and len(at) > 2 and at[2] not in range(len(_list(evaluation.get("groups")))):
        return ("evaluate", "candidates")
    return at


def _position(sizes: Sequence[int], index: Any) -> int:
    """Which of several runs of these sizes, one behind the other, an index lies in."""
    position = 0
    while position < len(sizes) - 1 and index >= sum(sizes[: position + 1]):
        position += 1
    return position


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
