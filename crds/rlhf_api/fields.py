"""Building blocks of the job's schema: the base model, names, references to inputs and stages."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

T = TypeVar("T")

MAX_ITEMS = 32
"""The most entries of any list in a job; the plan that `prepare` reports must fit 2 KiB at this size."""


class ApiModel(BaseModel):
    """Strict as the API server is: camelCase names only, no unknown fields, no coercion, no NaN."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=False,
        serialize_by_alias=True,
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


Name = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS-1035 label: lower case letters, digits and dashes, a letter first."""

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Function = Annotated[
    str, Field(max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$")
]
"""`module:function`, importable in the trainer image (or beside the job, locally)."""


def some(values: list[T]) -> list[T]:
    """At least one entry (a separate check, so that the message is ours)."""
    if not values:
        raise ValueError("needs at least one entry")
    return values


def exactly_one(model: BaseModel, names: tuple[str, ...]) -> str:
    """The one field of `names` that is set.

    Raises:
        ValueError: none or several are set.
    """
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        aliases = [type(model).model_fields[name].alias or name for name in names]
        found = ", ".join(type(model).model_fields[name].alias or name for name in given) or "none"
        raise ValueError(f"needs exactly one of {', '.join(aliases)}; found {found}")
    return given[0]


class Reference(ApiModel):
    """Something named once in the job: an input, or the product of an earlier stage."""

    input: Name | None = None
    """Name of an entry of `spec.inputs`."""
    stage: Name | None = None
    """Name of an earlier stage."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self, self.choices())
        return self

    @classmethod
    def choices(cls) -> tuple[str, ...]:
        return ("input", "stage")

    @property
    def key(self) -> str:
        """`input:NAME`, `stage:NAME`: how plan and stage file name what this points at."""
        return f"input:{self.input}" if self.input is not None else f"stage:{self.stage}"


class ModelRef(Reference):
    """A model: an input, or the product of an earlier stage."""


class DataRef(Reference):
    """Rows of data: an input, or the product of an earlier stage that makes data."""

    limit: Count | None = None
    """Take only the first rows, in file order, before the split."""
    split: Literal["train", "heldout", "all"] = "all"
    """Which part of the input's rows: `heldout` is the share set by the input's `heldout`; `train` the rest."""


class Scorer(Reference):
    """What judges an answer: a reward or cost model, or a function `module:function`."""

    function: Function | None = None
    """`module:function(prompts, responses) -> list[float]`, one score an answer, exact and without a model."""
    name: Name | None = None
    """Name in metrics and tables; by default the stage's, the input's or the function's own."""

    @classmethod
    def choices(cls) -> tuple[str, ...]:
        return ("input", "stage", "function")

    @property
    def key(self) -> str:
        return f"function:{self.function}" if self.function is not None else super().key

    @property
    def label(self) -> str:
        """The name it goes by in metrics and tables."""
        if self.name is not None:
            return self.name
        return self.input or self.stage or str(self.function).rpartition(":")[2]


def references(model: Any) -> list[Reference]:
    """Every reference inside a spec, depth first, in field order."""
    if isinstance(model, Reference):
        return [model]
    if isinstance(model, BaseModel):
        return [found for name in type(model).model_fields for found in references(getattr(model, name))]
    if isinstance(model, list):
        return [found for item in model for found in references(item)]
    return []


ModelRefs = Annotated[list[ModelRef], Field(max_length=MAX_ITEMS), AfterValidator(some)]
DataRefs = Annotated[list[DataRef], Field(max_length=MAX_ITEMS), AfterValidator(some)]
