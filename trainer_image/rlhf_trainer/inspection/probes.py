"""What data are like beyond their format: text measures of each use's rows, and what evaluates although it trained.

A second pass over the rows, evaluations first: a few of their prompts are kept, training's rows stream by.
Rows that a stage makes are not there yet, and not looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_api.job import Input, RLHFJob
from rlhf_api.stages import STAGE_TYPES
from rlhf_trainer.data.conversion import Conversion
from rlhf_trainer.data.splits import in_heldout
from rlhf_trainer.inspection.overlap import Evaluated, Twins, stage_of
from rlhf_trainer.inspection.quality import Quality
from rlhf_trainer.inspection.texts import Row, prompts
from rlhf_trainer.inspection.uses import DataUse, uses

JUDGED = "test"
"""The field of training stages whose rows show how good their model is."""
LABELLED = "gold"
"""That whose answers people labelled, to show how good a grader is: its prompts neither train nor evaluate a model."""


@dataclass
class Probes:
    """What was found, by input."""

    quality: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """`Quality.as_dict` of the rows of different uses, with the uses."""
    twins: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """`Twins.overlaps` of the references to it that evaluate."""


def probe(job: RLHFJob, inputs: Mapping[str, Path], *, measure: bool) -> Probes:
    """Read the rows of all uses once more.

    Args:
        job: a valid job.
        inputs: where its inputs lie, each fit for its uses; uses of others are left out.
        measure: whether texts are measured, or only twins are looked for.
    """
    selections = _selections(job, inputs, measure)
    probes = Probes()
    if any(selection.training for selection in selections):
        evaluated = [reference for selection in selections for reference in selection.evaluated()]
        for overlap, name in _overlaps(evaluated, selections):
            probes.twins.setdefault(name, []).append(overlap)
    if measure:
        for selection in selections:
            probes.quality.setdefault(selection.entry.name, []).append(selection.measured())
    return probes


def _overlaps(evaluated: list[Evaluated], selections: list[_Selection]) -> Iterator[tuple[dict[str, Any], str]]:
    """What training reads of evaluations' prompts, with the name of the input that these are of."""
    if not evaluated:
        return
    twins = Twins(evaluated)
    for selection in selections:
        if selection.training:
            rows = selection.rows()
            twins.look_up(selection.training, (prompt for row in rows for prompt in prompts(row)))
    for reference, overlap in zip(evaluated, twins.overlaps(), strict=True):
        yield overlap, reference.input


@dataclass
class _Selection:
    """Rows that the same references get, read for the same kind of use."""

    entry: Input
    path: Path
    use: DataUse
    """The first of them."""
    measure: bool
    wheres: list[str] = field(default_factory=list)
    judged: list[str] = field(default_factory=list)
    """Those of `wheres` that evaluate."""
    training: list[str] = field(default_factory=list)
    """Stages that otherwise read the rows."""
    quality: Quality | None = None

    def rows(self) -> Iterator[Row]:
        """The rows, measured as they pass the first time."""
        quality = Quality() if self.measure and self.quality is None else None
        ref = self.use.ref
        rows = Conversion(self.entry.name, self.entry, self.use.rows).rows(self.path)
        for row in itertools.islice(rows, ref.limit):
            if ref.split == "all" or in_heldout(row, self.entry.heldout) == (ref.split == "heldout"):
                if quality is not None:
                    quality.add(row)
                yield row
        self.quality = quality or self.quality

    def evaluated(self) -> list[Evaluated]:
        """What is evaluated with the rows, by reference."""
        references = [Evaluated(self.entry.name, where) for where in self.judged]
        for row in self.rows() if references else ():
            for prompt in prompts(row)[-1:]:
                for reference in references:
                    reference.add(prompt)
        return references

    def measured(self) -> dict[str, Any]:
        """What the texts are like, with the uses of the rows."""
        if self.quality is None:
            for _ in self.rows():
                pass
        return {"uses": self.wheres, **(self.quality or Quality()).as_dict()}


def _selections(job: RLHFJob, inputs: Mapping[str, Path], measure: bool) -> list[_Selection]:
    entries = {entry.name: entry for entry in job.spec.inputs}
    selections: dict[tuple[str, str, int | None, str], _Selection] = {}
    for use in uses(job):
        if not isinstance(use, DataUse) or use.input not in inputs:
            continue
        selection = selections.setdefault(
            (use.input, use.rows, use.ref.limit, use.ref.split),
            _Selection(entries[use.input], inputs[use.input], use, measure),
        )
        selection.wheres.append(use.where)
        stage = stage_of(use.where)
        kind, _, path = use.where.partition(", ")[2].partition(".")
        field_name = path.partition("[")[0]
        if STAGE_TYPES[kind].product == "evaluation" or field_name == JUDGED:
            selection.judged.append(use.where)
        elif field_name != LABELLED and stage not in selection.training:
            selection.training.append(stage)
    return list(selections.values())
