"""Labels that a job names, against those that its rows tell: before a moderation model is trained, or anything after it."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_api.error_messages import nearest
from rlhf_api.fields import CostScorer
from rlhf_api.job import RLHFJob
from rlhf_api.stages import Moderation
from rlhf_trainer.data.label_names import label_names
from rlhf_trainer.data.load import Inputs, load_labelled
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.uses import of_stage


def label_problems(job: RLHFJob, inputs: Inputs) -> Iterator[str]:
    """Labels of stages that no row names, and labels of costs that their moderation stage does not learn.

    Args:
        job: A valid job.
        inputs: Gives all of its inputs.
    """
    learned: dict[str, tuple[str, ...]] = {}
    for stage in job.spec.stages:
        if isinstance(stage.spec, Moderation) and all(ref.input is not None for ref in stage.spec.data):
            try:
                learned[stage.name] = label_names(stage.spec.labels, load_labelled(inputs, stage.spec.data)[0])
            except InputError as error:
                yield f"stage {stage.name}, moderation.{error}"
        for where, reference in of_stage(stage):
            names = learned.get(reference.stage or "")
            for index, label in enumerate(reference.labels if isinstance(reference, CostScorer) else []):
                if names is not None and label not in names:
                    close = nearest(label, names)
                    hint = f"did you mean {close}?" if close is not None else f"there are {', '.join(names[:20])}"
                    yield f"{where}.labels[{index}]: the rows of {reference.stage} name no label {label} ({hint})"
