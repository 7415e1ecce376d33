"""What the report cannot show, and what nobody said: blind spots that follow from the job itself."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from rlhf_api.fields import DataRef, references
from rlhf_api.plan import PlannedStage
from rlhf_api.stages import STAGE_TYPES
from rlhf_api.stages.report import Report
from rlhf_trainer.reporting import texts
from rlhf_trainer.reporting.collect import Collected
from rlhf_trainer.reporting.files import Json

UNDISCLOSED = "not disclosed"


def disclosure(collected: Collected, settings: Report, evaluations: Sequence[Json]) -> list[Json]:
    """What a reader may want to know, given or not: `{"what", "value"}`, value null where nobody said."""
    licences = [
        f"{entry.name}: {_licence(entry.name, collected) or UNDISCLOSED}" for entry in collected.job.spec.inputs
    ]
    categories = any(evaluation["categories"] for evaluation in evaluations)
    compute = sum(stage.timings["seconds"] for stage in collected.stages if stage.timings)
    return [
        {"what": "Intended use", "value": settings.intended_use},
        {"what": "Contact", "value": settings.contact},
        {"what": "Licences of models and data", "value": "; ".join(licences) or None},
        {"what": "Who wrote and labelled the data, how they were asked and paid, consent", "value": None},
        {"what": "Languages and groups of people the data stand for", "value": None},
        {"what": "What the base model was trained on", "value": None},
        {"what": "Time computed, all stages", "value": f"{compute / 3600:.2f} hours" if compute else None},
        {"what": "Hardware, energy, emissions", "value": None},
        {"what": "Harm by category", "value": "measured, above" if categories else None},
    ]


def _licence(name: str, collected: Collected) -> str | None:
    entry = next(entry for entry in collected.job.spec.inputs if entry.name == name)
    noted: str | None = collected.provenance.get(name, {}).get("licence")
    return entry.licence or noted


def limits(collected: Collected, evaluations: Sequence[Json]) -> list[str]:
    """What this report cannot show: blind spots, in sentences."""
    grouped = any(evaluation.get("groups") for evaluation in evaluations)
    sentences = [
        ("Outside groups, a stage" if grouped else "Every stage")
        + " ran with one seed: intervals are over prompts, not over training runs. Another seed may end elsewhere."
    ]
    if evaluations:
        refused = any(
            {"not_overrefuse", "refusal.over"} & set(model["metrics"])
            for evaluation in evaluations
            for model in evaluation["models"]
        )
        able = any(evaluation.get("suites") for evaluation in evaluations)
        missing = [] if refused else ["answers to harmless questions that were refused (over-refusal)"]
        missing += [] if able else ["general ability before and after"]
        late = any(evaluation.get("dialogues") for evaluation in evaluations)
        missing += [] if late else ["harm late in long dialogues"]
        if missing:
            *before, last = missing
            joined = f"{', '.join(before)}{',' * (len(before) > 1)} and {last}" if before else last
            were = "were" if before else "was"
            sentences.append(f"{joined[0].upper()}{joined[1:]} {were} not measured.")
    for evaluation in evaluations:
        pushed = [judge["name"] for judge in evaluation["judges"] if judge["optimised"]]
        rules = evaluation.get("rules")
        if rules is not None and rules["optimised"]:
            pushed.append("the rules' grader")
        if pushed:
            sentences.append(
                f"{', '.join(pushed)}: training optimised these judges, so their rise or fall alone is no evidence; "
                "a judge that was never optimised is."
            )
        if all(judge["optimised"] for judge in [*evaluation["judges"], *([rules] if rules is not None else [])]):
            sentences.append("No judge of this evaluation is independent of training.")
        tokens = evaluation.get("generation", {}).get("maxNewTokens")
        if tokens is not None:
            sentences.append(
                f"Answers were cut at {tokens} tokens: what a longer answer would have said was not judged."
            )
    simulated = [stage.planned.name for stage in collected.stages if stage.simulation is not None]
    if simulated:
        sentences.append(
            f"Models made the data of {', '.join(simulated)}, and no person checked it but where someone fills in its audit "
            "sample. What is learned from it is what those models prefer."
        )
    return sentences + _leaks(collected) + texts.sentences(collected.provenance)


def _leaks(collected: Collected) -> list[str]:
    """A sentence for each evaluation whose prompts training may have seen: the same input, not split apart."""
    sentences = []
    for stage in collected.stages:
        if STAGE_TYPES[stage.planned.type].product != "evaluation":
            continue
        for prompts in _data(stage.planned):
            readers = [
                training.planned.name
                for training in collected.stages
                if STAGE_TYPES[training.planned.type].product != "evaluation"
                and any(prompts.key == data.key and not _apart(prompts, data) for data in _data(training.planned))
            ]
            if readers:
                sentences.append(
                    f"{stage.planned.name} asks prompts of {prompts.key.partition(':')[2]}, which {', '.join(readers)} also "
                    "read: the prompts were not held out (give the input `heldout`, and the references "
                    "`split: heldout` and `split: train`)."
                )
    return sentences


def _apart(first: DataRef, second: DataRef) -> bool:
    return {first.split, second.split} == {"heldout", "train"}


def _data(planned: PlannedStage) -> list[DataRef]:
    spec = STAGE_TYPES[planned.type].spec.model_validate_json(orjson.dumps(planned.spec))
    return [reference for reference in references(spec) if isinstance(reference, DataRef)]
