"""The base model of the job's schema, the CEL beside its rules, and checks that several models share."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

from rlhf_api.errors import Finding, refuse

T = TypeVar("T")


@dataclass(frozen=True)
class Cel:
    """A rule as the API server checks it; says the same as a model's `rules()`."""

    rule: str
    """CEL; `{field}` stands for the field's value or its default."""
    message: str
    """What was expected."""
    field: str | None = None
    """`.field` the message is about, if one."""
    tells: str | None = None
    """CEL of a message that says more than `message`."""


def one_of(*fields: str) -> Cel:
    """Exactly one of the fields is set."""
    conditions = [f"has(self.{field})" for field in fields]
    rule = " != ".join(conditions) if len(fields) == 2 else f"[{', '.join(conditions)}].exists_one(g, g)"
    return Cel(rule, f"expected exactly one of {', '.join(fields)}")


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

    cel: ClassVar[tuple[Cel, ...]] = ()
    """What the API server checks of this model beyond its schema."""

    def rules(self) -> Iterator[Finding]:
        """What is wrong with this model that no single field shows; all of it is reported at once."""
        yield from ()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        findings = tuple(self.rules())
        if findings:
            refuse(findings)
        return self


def exactly_one(model: BaseModel, names: tuple[str, ...]) -> Iterator[Finding]:
    """A finding unless exactly one of the fields is set."""
    aliases = {name: type(model).model_fields[name].alias or name for name in names}
    present = [alias for name, alias in aliases.items() if getattr(model, name) is not None]
    if len(present) != 1:
        yield Finding(
            (), f"found {' and '.join(present) or 'none'}; expected exactly one of {', '.join(aliases.values())}"
        )


def ordered(model: BaseModel, low: str, high: str) -> Iterator[Finding]:
    """A finding where a lower bound lies above its upper one; a bound that is not set fits any."""
    least, most = getattr(model, low), getattr(model, high)
    if least is not None and most is not None and least > most:
        yield Finding((low,), f"found {low} {least} above {high} {most}", f"exchange them, or leave {low} out")


def bare(annotation: Any) -> Any:
    """An annotation without Annotated and Optional."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            annotation = next(arg for arg in typing.get_args(annotation) if arg is not type(None))
        else:
            return annotation


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The model an annotation holds and all models below it, each once."""
    visited: set[type[BaseModel]] = set()
    waiting = [annotation]
    while waiting:
        inner = bare(waiting.pop())
        waiting.extend(typing.get_args(inner))
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in visited:
            visited.add(inner)
            yield inner
            waiting.extend(field.annotation for field in inner.model_fields.values())


def distinct(values: list[T]) -> list[T]:
    """No entry twice."""
    twice = [
        Finding((index,), f"found {value} twice", "leave one out")
        for index, value in enumerate(values)
        if value in values[:index]
    ]
    if twice:
        refuse(twice)
    return values
