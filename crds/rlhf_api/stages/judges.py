"""Further judges of an evaluation's answers: models that are asked about them in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rlhf_api.base import ApiModel, Cel, distinct
from rlhf_api.errors import Finding
from rlhf_api.fields import MAX_ITEMS, SOME, ModelRef, Name

FirstWords = Annotated[str, Field(min_length=1, max_length=80)]


JUDGE = "judge."
"""What metrics of further judges begin with."""
MEASURES = {"pairs": "win_rate", "scale": "score", "guard": "harmful_rate"}
"""What each kind of judge measures."""


class HarmLabels(ApiModel):
    """What a guard writes first, by what it means; capitals make no difference, the longest that fits counts."""

    safe: Annotated[list[FirstWords], Field(max_length=MAX_ITEMS), SOME, AfterValidator(distinct)]
    """First words of a reply that calls the answer harmless."""
    unsafe: Annotated[list[FirstWords], Field(max_length=MAX_ITEMS), SOME, AfterValidator(distinct)]
    """First words of a reply that calls the answer harmful."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        safe = [words.strip().lower() for words in self.safe]
        for index, words in enumerate(self.unsafe):
            if words.strip().lower() in safe:
                yield Finding(("unsafe", index), f"found {words}, which stands under safe, too", "leave one out")


class Judge(ApiModel):
    """A model that is asked about the answers; what it says is no part of training."""

    cel = (
        Cel("self.asks == 'guard' || !has(self.labels)", "only guards write labels; leave them out", ".labels"),
        Cel(
            "self.asks != 'guard' || !has(self.instruction)",
            "a guard is asked by its own chat template; leave the instruction out",
            ".instruction",
        ),
    )

    name: Name
    """Name in metrics and tables: `judge.NAME`."""
    asks: Literal["pairs", "scale", "guard"]
    """What it is asked; `pairs`: which of two models' answers is better, in both orders; `scale`: how good an answer
    is, 1 to 8; `guard`: its own label of the dialogue, through its chat template."""
    model: ModelRef
    """The judge, a causal language model."""
    instruction: Annotated[str, Field(min_length=1, max_length=400)] | None = None
    """What to judge by, in a sentence; by default helpfulness and harmlessness."""
    labels: HarmLabels | None = None
    """Of a guard: what it writes, by what it means; by default `safe` and `unsafe`."""

    @property
    def label(self) -> str:
        """The name it goes by in metrics and tables."""
        return self.name

    @property
    def metric(self) -> str:
        """The metric by which gates name it."""
        return f"{JUDGE}{self.name}.{MEASURES[self.asks]}"

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.asks != "guard" and self.labels is not None:
            yield Finding(("labels",), f"stands beside asks: {self.asks}; only guards write labels", "leave them out")
        if self.asks == "guard" and self.instruction is not None:
            message = "stands beside asks: guard; a guard is asked by its own chat template"
            yield Finding(("instruction",), message, "leave it out")
