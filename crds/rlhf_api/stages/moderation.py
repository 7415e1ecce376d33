"""`moderation`: which of several labels an answer to a prompt has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rlhf_api.base import Cel, distinct
from rlhf_api.errors import Finding
from rlhf_api.fields import MAX_ITEMS, DataRefs, Label, TrunkRef
from rlhf_api.stages.common import Batches, Optimizer


class Moderation(Optimizer, Batches):
    """A classifier of answers with any number of labels, each of them true or false of an answer."""

    cel = (
        *Optimizer.cel,
        Cel(
            "{thresholds} != 'bestF1' || {holdout} > 0.0",
            "thresholds bestF1 need held-out rows: expected a holdout above 0",
            ".thresholds",
        ),
    )

    model: TrunkRef
    """The model whose trunk is trained; the head is new unless the model has one of the same labels in this order."""
    data: DataRefs
    """Answers to prompts, with their labels."""
    labels: Annotated[list[Label], Field(max_length=MAX_ITEMS), AfterValidator(distinct)] = []
    """Labels to learn, in this order; empty: those of the data, sorted."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: a label's positive rows weigh as much as its negative ones, by the training rows' negatives / positives."""
    thresholds: Literal["fixed", "bestF1"] = "fixed"
    """`fixed`: `threshold` for every label. `bestF1`: of each label the one with the best F1 on the held-out rows."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which an answer has a label; with `bestF1` of labels that only some or all held-out rows lack."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.thresholds == "bestF1" and self.holdout == 0:
            message = "found bestF1 with holdout 0; thresholds are chosen on held-out rows"
            yield Finding(("thresholds",), message, "set holdout above 0, or leave thresholds out")
