"""Building blocks of the job's schema: types of fields, names, references to inputs and stages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from rlhf_api import quantities
from rlhf_api.base import ApiModel, Cel, T, distinct, exactly_one, one_of
from rlhf_api.errors import Finding, Loc, refuse

MAX_ITEMS = 32
"""The most entries of any list in a job; the plan that `prepare` reports must fit 2 KiB at this size."""
MEANING: dict[str, str] = {}
"""What each pattern of the schema asks for, in words."""


def shaped(pattern: str, meaning: str, *, max_length: int) -> Any:
    """A field of text of a certain shape; `meaning` is what messages say was expected."""
    MEANING[pattern] = meaning
    return Field(min_length=1, max_length=max_length, pattern=pattern)


Name = Annotated[
    str,
    shaped(
        r"^[a-z](-*[a-z0-9])*$",
        "lower case letters, digits and dashes, a letter first and no dash last",
        max_length=40,
    ),
]
"""A DNS-1035 label: lower case letters, digits and dashes, a letter first."""
ObjectName = Annotated[
    str,
    shaped(
        r"^[a-z0-9]((-*|[.])[a-z0-9])*$",
        "the name of a Kubernetes object: lower case letters, digits, dashes and dots",
        max_length=253,
    ),
]
"""A DNS-1123 subdomain."""


def _bounded(quantity: str) -> str:
    if quantities.above(quantity, quantities.MOST):
        refuse([Finding((), f"found {quantity}; a quantity is at most {quantities.MOST}")])
    return quantity


Quantity = Annotated[str, shaped(quantities.PATTERN, quantities.MEANING, max_length=32), AfterValidator(_bounded)]
ShortString = Annotated[str, Field(min_length=1, max_length=253)]
StringMap = Annotated[dict[ShortString, Annotated[str, Field(max_length=1024)]], Field(max_length=64)]
FreeObject = Annotated[dict[str, Any], Field(max_length=32)]
Label = Annotated[str, Field(min_length=1, max_length=80)]
"""A label of a moderation model."""
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Function = Annotated[
    str,
    shaped(
        r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$",
        "module:function, such as judges.care:score",
        max_length=200,
    ),
]
"""`module:function`, importable in the trainer image (or beside the job, locally)."""


class _Some:
    """At least one entry (a check of our own, so that the message is ours)."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema) | {"minItems": 1}

    @staticmethod
    def _check(values: list[T]) -> list[T]:
        if not values:
            refuse([Finding((), "found an empty list; expected at least one entry")])
        return values


SOME = _Some()


class Reference(ApiModel):
    """Something named once in the job: an input, or the product of an earlier stage."""

    input: Name | None = None
    """Name of an input; an entry of `spec.inputs`."""
    stage: Name | None = None
    """Name of an earlier stage."""

    cel: ClassVar[tuple[Cel, ...]] = (one_of("input", "stage"),)
    takes: ClassVar[frozenset[str]] = frozenset()
    """Kinds of product (`StageType.product`) a stage referred to may make."""
    labelled: ClassVar[bool] = False
    """Whether its label stands in the product, so that the product's digest covers it."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from exactly_one(self, self.choices())

    @classmethod
    def choices(cls) -> tuple[str, ...]:
        """The fields of which exactly one says what is referred to."""
        return ("input", "stage")

    @property
    def key(self) -> str:
        """`input:NAME`, `stage:NAME`: how plan and stage file name what this points at."""
        return f"input:{self.input}" if self.input is not None else f"stage:{self.stage}"

    @property
    def label(self) -> str:
        """The name it goes by in metrics and tables."""
        return self.key.partition(":")[2]


class ModelRef(Reference):
    """A model: an input, or the product of an earlier stage."""

    takes = frozenset({"policy"})


class Contender(ModelRef):
    """A model that is judged: an input, or the product of an earlier stage. Tables call it by that name."""

    labelled = True


class TrunkRef(ModelRef):
    """A model whose layers are used, whatever its head: an input, a policy, a reward or cost model."""

    takes = frozenset({"policy", "reward", "cost"})


class DataRef(Reference):
    """Rows of data: an input, or the product of an earlier stage that makes data."""

    takes = frozenset({"data"})

    limit: Count | None = None
    """Take only the first rows; in file order, before the split."""
    split: Literal["train", "heldout", "all"] = "all"
    """Which of the input's rows; `heldout` is the share set by the input's `heldout`, `train` the rest."""


class FileRef(Reference):
    """A file among the inputs, taken as it is."""

    cel = (*Reference.cel, Cel("!has(self.stage)", "no stage makes such a file; give it as an input", ".stage"))

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.stage is not None:
            yield Finding(("stage",), f"found {self.stage}; no stage makes such a file", "give it as an input")


class TaskFileRef(FileRef):
    """A task file of lm-eval among the inputs; it names no code."""


class DocumentsRef(FileRef):
    """Rows of an input, column by column as a task of lm-eval reads them."""


class RulesRef(Reference):
    """Rules, as a `rules` stage makes them."""

    cel = (
        *Reference.cel,
        Cel("has(self.stage) || has(self.grader)", "rules from an input need their grader", ".grader"),
    )
    takes = frozenset({"rules"})

    grader: ModelRef | None = None
    """The grader they were fitted with; by default that of the stage. Another model is refused."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.stage is None and self.grader is None:
            yield Finding(("grader",), "is missing; rules from an input need their grader", "set grader")


class Scorer(Reference):
    """What judges an answer: a reward or cost model, or a function `module:function`."""

    cel: ClassVar[tuple[Cel, ...]] = (one_of("input", "stage", "function"),)
    takes = frozenset({"reward", "cost"})
    labelled = True

    function: Function | None = None
    """`module:function(prompts, responses) -> list[float]`; one score an answer, exact and without a model."""
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


class RewardJudge(Scorer):
    """What judges helpfulness: a reward model, or a function `module:function`."""

    takes = frozenset({"reward"})


class CostScorer(Scorer):
    """A cost model, a moderation model, or a function; a score above 0 is harmful."""

    cel = (
        *Scorer.cel,
        Cel("!has(self.function) || !has(self.labels)", "a function has no labels; leave them out", ".labels"),
    )
    takes = frozenset({"cost", "moderation"})

    labels: Annotated[list[Label], Field(max_length=MAX_ITEMS), AfterValidator(distinct)] = []
    """Of a moderation model: the labels that are harmful; empty: all. The cost is the largest logit above its threshold."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.function is not None and self.labels:
            yield Finding(("labels",), "stands beside a function, which has no labels", "leave them out")


class CostJudge(CostScorer):
    """What judges harm: a cost model, a moderation model, or a function `module:function`; above 0 is harmful."""


def references(model: Any) -> list[Reference]:
    """Every reference inside a spec, depth first, in field order."""
    return [reference for _, reference in located_references(model)]


def located_references(model: Any, loc: Loc = ()) -> list[tuple[Loc, Reference]]:
    """Every reference inside a spec with its path, depth first, in field order."""
    if isinstance(model, BaseModel):
        itself = [(loc, model)] if isinstance(model, Reference) else []
        return itself + [
            located
            for name, field in type(model).model_fields.items()
            for located in located_references(getattr(model, name), (*loc, field.alias or name))
        ]
    if isinstance(model, list):
        return [located for index, item in enumerate(model) for located in located_references(item, (*loc, index))]
    return []


def same_labels(scorers: list[Any], field: str) -> Iterator[Finding]:
    """A finding for each scorer that goes by the name of one before it."""
    first_index: dict[str, int] = {}
    for index, scorer in enumerate(scorers):
        first = first_index.setdefault(scorer.label, index)
        if first != index:
            message = f"goes by the name {scorer.label} in metrics, as {field}[{first}] does"
            yield Finding((field, index), message, "give it a name of its own: name: ...")


Contenders = Annotated[list[Contender], Field(max_length=MAX_ITEMS), SOME]
DataRefs = Annotated[list[DataRef], Field(max_length=MAX_ITEMS), SOME]
