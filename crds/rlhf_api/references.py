"""The rules that cross stages: names are unique, references exist, point back and fit.

All findings are relative to `spec`. A job of which only parts are valid is checked as far as those parts go, so that
one mistake does not hide another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlhf_api.effective import effective
from rlhf_api.error_messages import nearest
from rlhf_api.errors import Finding, Loc
from rlhf_api.expansion import check_repeats
from rlhf_api.fields import MAX_ITEMS, CostScorer, DataRef, ModelRef, Reference, Scorer, located_references, same_labels
from rlhf_api.job import JobSpec, Stage
from rlhf_api.job_view import JobView, StageView, partial_view_of, view_of
from rlhf_api.pods import Pod
from rlhf_api.sources import parse_source
from rlhf_api.stages import PREPARE, REPORT, STAGE_TYPES, Evaluate, Moderation, Ppo, Simulate
from rlhf_api.stages.common import Batches
from rlhf_api.stages.evaluate import COST_HINT, NO_COST
from rlhf_api.stages.ppo import Reward
from rlhf_api.stages.rows import instead, misfit

_WORDS = {
    "policy": "a policy",
    "reward": "a reward model",
    "cost": "a cost model",
    "moderation": "a moderation model",
    "rules": "rules",
    "data": "data",
    "evaluation": "an evaluation",
    "report": "the report",
}


def check(spec: JobSpec) -> list[Finding]:
    """Everything wrong with a job that its parts alone do not show."""
    return list(_check(view_of(spec)))


def check_partial(spec: dict[str, Any]) -> list[Finding]:
    """The same of a job that is not valid, from those of its parts that are."""
    return list(_check(partial_view_of(spec)))


def _check(view: JobView) -> Iterator[Finding]:
    yield from _unique("inputs", [entry.name for entry in view.inputs])
    yield from _unique("stages", [stage.name for stage in view.stages])
    yield from _reserved(view)
    yield from check_repeats(view)
    repeated = any(stage.model is not None and stage.model.repeat is not None for stage in view.stages)
    for stage in view.stages:
        if stage.model is None:
            continue
        for at, reference in located_references(stage.model):
            yield from _reference(view, stage, at, reference)
        if not repeated:  # they are about members: checked on the job with its repeats written out
            yield from _gates(view, stage.model, ("stages", stage.index))
            yield from _audits(view, stage.model, ("stages", stage.index))
        yield from _lengths(stage.model, ("stages", stage.index))
        yield from _mounts(view.pod, stage.model.pod, ("stages", stage.index, "pod"))
    yield from _mounts(view.pod, view.pod, ("pod",))
    yield from _overrides(view)
    yield from _functions(view)


def _unique(field: str, names: list[str | None]) -> Iterator[Finding]:
    first_index: dict[str, int] = {}
    for index, name in enumerate(names):
        if name is None:
            continue
        first = first_index.setdefault(name, index)
        if first != index:
            yield Finding((field, index, "name"), f"{name} is the name of {field}[{first}] already", "rename one")


def _reserved(view: JobView) -> Iterator[Finding]:
    reports = [stage.index for stage in view.stages if stage.type == REPORT]
    for stage in view.stages:
        at: Loc = ("stages", stage.index)
        if stage.name == PREPARE:
            message = f"{PREPARE} is reserved: it runs first in every job, unwritten"
            yield Finding((*at, "name"), message, "rename the stage")
        if stage.name == REPORT and stage.type not in (REPORT, None):
            yield Finding((*at, "name"), f"{REPORT} is kept for the report", "rename the stage")
        if stage.index in reports[1:]:
            yield Finding((*at, REPORT), f"a job has one report; stages[{reports[0]}] is it", "leave one out")


def _reference(view: JobView, stage: StageView, at: Loc, reference: Reference) -> Iterator[Finding]:
    loc: Loc = ("stages", stage.index, *at)
    if reference.input is not None:
        yield from _input(view, loc, reference)
    elif reference.stage is not None:
        yield from _stage(view, stage, loc, reference)


def _input(view: JobView, loc: Loc, reference: Reference) -> Iterator[Finding]:
    names = [candidate.name for candidate in view.inputs if candidate.name is not None]
    if reference.input not in names:
        yield Finding((*loc, "input"), f"there is no input {reference.input}", _known(str(reference.input), names))
        return
    entry = next(candidate.model for candidate in view.inputs if candidate.name == reference.input)
    if entry is None:
        return
    kind = parse_source(entry.source).kind
    if isinstance(reference, ModelRef | Scorer) and kind == "hub-data":
        yield Finding((*loc, "input"), f"{entry.name} is a data set of a hub ({entry.source}); expected a model")
    if isinstance(reference, DataRef):
        if kind == "hub-model":
            hint = "data sets are written hf://datasets/org/name@revision"
            yield Finding((*loc, "input"), f"{entry.name} is a model of a hub ({entry.source}); expected data", hint)
        if reference.split == "heldout" and entry.heldout == 0:
            message = f"found heldout, but the input {entry.name} holds no rows out"
            yield Finding((*loc, "split"), message, "set the input's heldout to a share above 0")
        if reference.split == "train" and entry.heldout == 1:
            yield Finding(
                (*loc, "split"), f"found train, but the input {entry.name} holds all rows out", "lower heldout"
            )


def _stage(view: JobView, stage: StageView, loc: Loc, reference: Reference) -> Iterator[Finding]:
    at = (*loc, "stage")
    target = next((candidate for candidate in view.stages if candidate.name == reference.stage), None)
    if target is None:
        names = [candidate.name for candidate in view.stages[: stage.index] if candidate.name is not None]
        yield Finding(at, f"there is no stage {reference.stage}", _known(str(reference.stage), names))
        return
    if target.index == stage.index:
        yield Finding(at, f"{reference.stage} refers to itself", "refer to an earlier stage")
        return
    if target.index > stage.index:
        message = f"{reference.stage} is stages[{target.index}], which comes later"
        yield Finding(at, message, "move it up: stages refer to earlier ones only")
        return
    if target.type is None or not reference.takes:  # a file's: the reference has said so itself
        return
    product = STAGE_TYPES[target.type].product
    if product not in reference.takes:
        expected = " or ".join(_WORDS[kind] for kind in _WORDS if kind in reference.takes)
        message = f"{reference.stage} ({target.type}) makes {_WORDS[product]}; expected {expected}"
        yield Finding(at, message, _instead(view, stage, reference))
    elif isinstance(reference, Reward) and product == "cost" and reference.weight >= 0:
        message = f"found {reference.weight} for the cost model {reference.stage}: harm would be rewarded"
        yield Finding((*loc, "weight"), message, "give it a negative weight, or put it under costs with a limit")
    elif isinstance(reference, CostScorer) and reference.labels:
        yield from _labels(target, loc, reference)
    elif isinstance(reference, DataRef) and target.model is not None and isinstance(target.model.spec, Simulate):
        why = misfit(str(stage.type), loc[2:], target.model.spec)
        if why is not None:
            yield Finding(at, f"{reference.stage} {why}", instead(str(stage.type), loc[2:]))
        if reference.split == "heldout":
            message = f"found heldout, but the stage {reference.stage} holds no rows out"
            yield Finding((*loc, "split"), message, "only inputs do; a model that is trained on them has a holdout")


def _labels(target: StageView, loc: Loc, reference: CostScorer) -> Iterator[Finding]:
    """Labels of a cost are those of a moderation model; of one whose labels the data tell, the stage knows them."""
    spec = None if target.model is None else target.model.spec
    if not isinstance(spec, Moderation):
        message = f"found labels for {reference.stage} ({target.type}); only moderation models have labels"
        yield Finding((*loc, "labels"), message, "leave them out")
        return
    for index, label in enumerate(reference.labels):
        if spec.labels and label not in spec.labels:
            message = f"the stage {reference.stage} learns no label {label}"
            yield Finding((*loc, "labels", index), message, _known(label, spec.labels))


def _known(name: str, names: list[str]) -> str:
    close = nearest(name, names)
    if close is not None:
        return f"did you mean {close}?"
    return f"there are {', '.join(names)}" if names else "there are none before it"


def _instead(view: JobView, stage: StageView, reference: Reference) -> str | None:
    fitting = [
        earlier.name
        for earlier in view.stages[: stage.index]
        if earlier.name is not None
        and earlier.type is not None
        and STAGE_TYPES[earlier.type].product in reference.takes
    ]
    return f"stages that fit: {', '.join(fitting)}" if fitting else None


def _gates(view: JobView, stage: Stage, loc: Loc) -> Iterator[Finding]:
    """Metrics of gates that name a judge (`cost.harm`) name one that judges; dialogues have a judge of harm."""
    spec = stage.evaluate
    if spec is None or any(entry.model is None for entry in view.stages):
        return
    written = {entry.name: entry.model for entry in view.stages if entry.name is not None and entry.model is not None}
    if any(candidate.stage is not None and candidate.stage not in written for candidate in spec.candidates):
        return
    judged = effective(stage, written)
    assert isinstance(judged, Evaluate)  # effective keeps the type
    for family, judges in (("reward", judged.rewards), ("cost", judged.costs)):
        if judged is not spec and (clash := next(same_labels(judges, family), None)) is not None:
            label = judges[int(clash.at[1])].label
            message = f"different {family}s of the candidates' stages go by the name {label} in metrics"
            hint = "give them different names there, or list the evaluation's rewards and costs here"
            yield Finding((*loc, "evaluate", "candidates"), message, hint)
    labels = {"reward": [judge.label for judge in judged.rewards], "cost": [judge.label for judge in judged.costs]}
    if spec.dialogues and not spec.rewards and not judged.costs:  # with rewards the stage has said so itself
        yield Finding((*loc, "evaluate", "dialogues"), NO_COST, COST_HINT)
    listed: dict[str, list[str]] = {"suite": [suite.name for suite in judged.suites], "attack": [*judged.attacks]}
    asked_metrics = [judge.metric for judge in judged.judges]
    if spec.attacks and not spec.rewards and not judged.costs and judged.refusal is None:
        message = "neither the stage nor the training of its candidates has costs; expected what judges the answers"
        yield Finding((*loc, "evaluate", "attacks"), message, "add costs, or refusal")
    for index, gate in enumerate(spec.gates):
        family, dot, label = gate.metric.partition(".")
        if dot and family in labels and label not in labels[family]:
            at = (*loc, "evaluate", "gates", index, "metric")
            message = f"there is no {family} {label} among the judges"
            yield Finding(at, message, _known(label, labels[family]))
        entry = label.partition(".")[0]
        if dot and family in listed and entry not in listed[family]:
            at = (*loc, "evaluate", "gates", index, "metric")
            yield Finding(at, f"there is no {family} {entry}", _known(entry, listed[family]))
        if dot and family == "judge" and gate.metric not in asked_metrics:
            at = (*loc, "evaluate", "gates", index, "metric")
            yield Finding(at, f"no judge measures {gate.metric}", _known(gate.metric, asked_metrics))
        if dot and family == "refusal" and judged.refusal is None:
            at = (*loc, "evaluate", "gates", index, "metric")
            yield Finding(at, "nothing judges refusals", "set refusal")


def _audits(view: JobView, stage: Stage, loc: Loc) -> Iterator[Finding]:
    """Filled-in audits are inputs, and belong to stages that simulate."""
    inputs = [entry.name for entry in view.inputs if entry.name is not None]
    simulations = [
        entry.name
        for entry in view.stages
        if entry.name is not None and (entry.type is None or STAGE_TYPES[entry.type].product == "data")
    ]
    for index, audit in enumerate(stage.report.audits if stage.report is not None else []):
        at = (*loc, "report", "audits", index)
        if audit.stage not in simulations:
            yield Finding((*at, "stage"), f"there is no simulate stage {audit.stage}", _known(audit.stage, simulations))
        if audit.input not in inputs:
            yield Finding((*at, "input"), f"there is no input {audit.input}", _known(audit.input, inputs))


def _lengths(stage: Stage, loc: Loc) -> Iterator[Finding]:
    """A micro-batch holds one row at least."""
    tokens, spec = stage.execution.micro_batch_tokens, stage.spec
    if tokens is None:
        return
    longest = 0
    if isinstance(spec, Batches):
        longest = spec.max_length
    elif isinstance(spec, Ppo):
        longest = spec.rollout.max_prompt_tokens + spec.rollout.max_new_tokens
    if tokens < longest:
        message = f"found {tokens}; expected at least {longest}, the longest row of the stage"
        yield Finding((*loc, "execution", "microBatchTokens"), message)


def _mounts(job: Pod | None, pod: Pod | None, loc: Loc) -> Iterator[Finding]:
    if pod is None:
        return
    volumes = list(
        dict.fromkeys(volume.name for fields in (job, pod) if fields is not None for volume in fields.volumes)
    )
    for index, mount in enumerate(pod.volume_mounts):
        if mount.name not in volumes:
            message = f"there is no volume {mount.name}"
            yield Finding((*loc, "volumeMounts", index, "name"), message, _known(mount.name, volumes))


def _functions(view: JobView) -> Iterator[Finding]:
    """No more functions than what `prepare` tells of them may hold (`rlhf_api.termination_codec`)."""
    functions: set[str] = set()
    for stage in view.stages:
        for at, reference in located_references(stage.model):
            if isinstance(reference, Scorer) and reference.function is not None and reference.function not in functions:
                functions.add(reference.function)
                if len(functions) == MAX_ITEMS + 1:
                    message = f"is function {len(functions)} of the job; expected at most {MAX_ITEMS} different ones"
                    yield Finding(("stages", stage.index, *at, "function"), message, "let one function call others")


def _overrides(view: JobView) -> Iterator[Finding]:
    if view.policy is None:
        return
    names = [PREPARE, *(stage.name for stage in view.stages if stage.name is not None), REPORT]
    first_index: dict[str, int] = {}
    for index, override in enumerate(view.policy.overrides):
        at: Loc = ("runPolicy", "overrides", index, "stage")
        if override.stage not in names:
            yield Finding(at, f"there is no stage {override.stage}", _known(override.stage, names))
        first = first_index.setdefault(override.stage, index)
        if first != index:
            yield Finding(at, f"{override.stage} is overridden twice, first by overrides[{first}]", "merge them")
