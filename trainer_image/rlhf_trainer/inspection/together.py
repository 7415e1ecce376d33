"""What only rows, policy files and a stage's fields together show: the checks that stages begin with, before any is paid.

Rows that a stage makes are not there yet, and not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlhf_api.effective import effective
from rlhf_api.fields import DataRef, FileRef, Reference, RulesRef
from rlhf_api.job import RLHFJob, Stage
from rlhf_api.plan import ResolvedInput
from rlhf_api.stage_file import StageInput
from rlhf_api.stages import Evaluate, Ppo, Rules, Simulate
from rlhf_trainer.data.load import load_completions, load_prompts
from rlhf_trainer.data.rows import Completion, Counts, Prompt
from rlhf_trainer.evaluation import gates, refusals
from rlhf_trainer.evaluation.classes import measured
from rlhf_trainer.evaluation.load_parts import metrics_of_parts, metrics_of_spec
from rlhf_trainer.evaluation.parts import Part
from rlhf_trainer.evaluation.probes import load_personas, load_sycophancy
from rlhf_trainer.evaluation.suites import load_suites, metrics_of
from rlhf_trainer.evaluation.tasks import LoadedTask
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.labels import label_problems
from rlhf_trainer.inspection.rows import PROMPTS
from rlhf_trainer.rules.completions import check_completions, check_rank_apart, check_scales, check_types
from rlhf_trainer.rules.parser import read_policy
from rlhf_trainer.rules.policy import Policy
from rlhf_trainer.simulation.methods import Method
from rlhf_trainer.simulation.prompts import check_plain, with_types
from rlhf_trainer.statistics.intervals import FEWEST


def misfits(job: RLHFJob, inputs: Mapping[str, ResolvedInput]) -> list[str]:
    """Problems, each with its stage's field: `stage rules, rules.gold[0]: ...`.

    Args:
        job: a valid job.
        inputs: all of its inputs, each of which can be read for itself.
    """
    problems: list[str] = []
    readable, written = _Inputs(job, inputs), {stage.name: stage for stage in job.spec.stages}
    for stage in job.spec.stages:
        if isinstance(stage.spec, Rules):
            _of_rules(readable, stage.spec, _Problems(stage, problems))
        elif isinstance(stage.spec, Simulate):
            _of_simulate(readable, stage.spec, _Problems(stage, problems))
        elif isinstance(stage.spec, Ppo) and stage.spec.rule_based is not None:
            policy = readable.policy_of(stage.spec.rule_based)
            _of_types(readable, policy, stage.spec.prompts, _Problems(stage, problems))
        elif isinstance(judged := effective(stage, written), Evaluate):
            _of_evaluate(readable, judged, _Problems(stage, problems))
    return [*problems, *label_problems(job, readable)]


def few_prompts(job: RLHFJob, prompts: Mapping[str, int]) -> Iterator[str]:
    """A warning for each stage with fewer prompts than its numbers need.

    Args:
        job: a valid job.
        prompts: different ones, by use: `stage ppo, ppo.prompts[0]`. Stages with prompts that are not known are left out.
    """
    for stage in job.spec.stages:
        if not isinstance(stage.spec, Ppo | Evaluate):
            continue
        uses = [f"stage {stage.name}, {stage.type}.prompts[{index}]" for index in range(len(stage.spec.prompts))]
        if not all(use in prompts for use in uses):
            continue
        count = sum(prompts[use] for use in uses)
        if isinstance(stage.spec, Evaluate):
            if count < FEWEST:
                yield f"{uses[0]}: found {count} different prompts; of fewer than {FEWEST} no difference can be shown"
        elif count < min(stage.spec.rollout.prompts, PROMPTS):
            yield (
                f"{uses[0]}: found {count} different prompts, fewer than the {stage.spec.rollout.prompts} of a rollout "
                "(rollout.prompts): each comes several times a step"
            )


@dataclass(frozen=True)
class _Inputs:
    """The job's inputs, as loaders of rows ask for them."""

    job: RLHFJob
    resolved: Mapping[str, ResolvedInput]

    def input(self, reference: Reference) -> StageInput:
        entry = next(entry for entry in self.job.spec.inputs if entry.name == reference.input)
        resolved = self.resolved[entry.name]
        return StageInput(path=resolved.path, digest=resolved.digest, input=entry)

    def policy(self, reference: FileRef) -> Policy:
        return read_policy(Path(self.input(reference).path))

    def policy_of(self, rules: RulesRef) -> Policy | None:
        """The policy that the rules are fitted for; None: no stage of this job fits them."""
        specs = {stage.name: stage.spec for stage in self.job.spec.stages}
        spec = specs.get(rules.stage) if rules.stage is not None else None
        return self.policy(spec.policy) if isinstance(spec, Rules) else None

    def prompts(self, refs: Sequence[DataRef]) -> list[Prompt]:
        return load_prompts(self, [ref for ref in refs if ref.input is not None])[0]

    def completions(self, ref: DataRef) -> list[Completion]:
        return load_completions(self, [ref])[0] if ref.input is not None else []


@dataclass(frozen=True)
class _Problems:
    """Collects what a stage's checks refuse."""

    stage: Stage
    all: list[str]

    @contextmanager
    def at(self, field: str) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            self.all.append(f"stage {self.stage.name}, {self.stage.type}.{field}: {error}")


def _whole(refs: Sequence[DataRef]) -> bool:
    """Whether all rows are inputs'."""
    return all(ref.input is not None for ref in refs)


def _of_rules(inputs: _Inputs, spec: Rules, problems: _Problems) -> None:
    policy = inputs.policy(spec.policy)
    before = len(problems.all)
    rows: list[Completion] = []
    for index, ref in enumerate(spec.completions):
        completions = inputs.completions(ref)
        rows += completions
        with problems.at(f"completions[{index}]"):
            check_completions(policy, completions, labelled=spec.features == "labels")
    for index, ref in enumerate(spec.gold):
        with problems.at(f"gold[{index}]"):
            check_completions(policy, inputs.completions(ref), labelled=True)
    if len(problems.all) > before:
        return
    with problems.at("completions"):
        check_scales(rows, by_prompt=spec.pairs == "prompt")
        if _whole(spec.completions):
            check_rank_apart(policy, rows, by_prompt=spec.pairs == "prompt")


def _of_simulate(inputs: _Inputs, spec: Simulate, problems: _Problems) -> None:
    prompts = inputs.prompts(spec.prompts)
    with problems.at("prompts"):
        check_plain(prompts)
    if spec.completions is None:
        return
    typed = [prompt for prompt in prompts if prompt.response_type is not None]
    if _whole(spec.prompts):
        with problems.at("prompts"):
            with_types(prompts, Counts())
    with problems.at("completions"):
        for kind in sorted({str(prompt.response_type) for prompt in typed}):
            Method(spec, seed=0).styles(kind)


def _of_evaluate(inputs: _Inputs, spec: Evaluate, problems: _Problems) -> None:
    policy = None if spec.rule_based is None else inputs.policy_of(spec.rule_based)
    suites: list[LoadedTask] | None = None
    with problems.at("suites"):
        suites = load_suites(inputs, spec)
    parts: list[Part] = []
    before = len(problems.all)
    with problems.at("sycophancy"):
        parts += load_sycophancy(inputs, spec)
    with problems.at("personas"):
        parts += load_personas(inputs, spec)
    if suites is not None and len(problems.all) == before and (policy is not None or spec.rule_based is None):
        prompts = inputs.prompts(spec.prompts) if _whole(spec.prompts) else None
        with problems.at("gates"):
            names = metrics_of(suites) | metrics_of_spec(inputs, spec, prompts) | metrics_of_parts(parts)
            gates.check_names(spec, [] if policy is None else measured(policy), names)
    if spec.refusal is not None and _whole(spec.prompts):
        with problems.at("prompts"):
            refusals.check_prompts(inputs.prompts(spec.prompts))
    if policy is not None:
        _of_types(inputs, policy, spec.prompts, problems)


def _of_types(inputs: _Inputs, policy: Policy | None, refs: Sequence[DataRef], problems: _Problems) -> None:
    if policy is None:
        return
    with problems.at("prompts"):
        kinds = [prompt.response_type for prompt in inputs.prompts(refs)]
        if _whole(refs) or any(kinds):
            check_types(policy, kinds, "rules")
