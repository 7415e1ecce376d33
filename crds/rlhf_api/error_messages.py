"""Pydantic's errors, turned into sentences: what was found, what was expected, how to mend it."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from rlhf_api.base import bare
from rlhf_api.errors import FINDINGS, Finding, Loc, format_path
from rlhf_api.fields import MEANING
from rlhf_api.scalars import resolve

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def findings_of(error: ValidationError, root: type[BaseModel]) -> list[Finding]:
    """Everything a failed validation of `root` found, one finding a place and rule."""
    return [finding for details in error.errors(include_url=False) for finding in _findings(details, root)]


def describe(value: Any) -> str:
    """A value as a reader would call it: `the text 'abc'`, `the number 3`, `a list of 2`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 60 else f"the text {value[:57]!r}... of {len(value)} characters"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        names = ", ".join(str(key) for key in list(value)[:6])
        return f"a mapping of {names}{', ...' if len(value) > 6 else ''}" if value else "an empty mapping"
    return f"a {type(value).__name__}"


def nearest(word: str, choices: typing.Iterable[str]) -> str | None:
    """The known word most like this one, if any is alike."""
    options = {option.replace("_", "").lower(): option for option in choices}
    matches = difflib.get_close_matches(word.replace("_", "").replace("-", "").lower(), list(options), n=1, cutoff=0.6)
    return options[matches[0]] if matches else None


def model_at(root: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """The model that stands at a path of another, if one does."""
    annotation: Any = root
    for part in loc:
        annotation = _inside(annotation, part)
    annotation = bare(annotation)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def hint_for_nothing(root: type[BaseModel], loc: Loc) -> str:
    """What to do where a value of `root` is left empty."""
    if loc and isinstance(loc[-1], int):
        return "fill the entry in, or remove its dash"
    field = _field_at(root, loc)
    if field is None or not field.is_required():
        return "leave the field out to get its default"
    return "it has no default" + (f": {words[0].lower()}{words[1:]}" if (words := _description(field)) else "")


def _field_at(root: type[BaseModel], loc: Loc) -> FieldInfo | None:
    model = model_at(root, loc[:-1])
    fields = model.model_fields.values() if model is not None else ()
    return next((field for field in fields if loc and field.alias == loc[-1]), None)


def _description(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _inside(annotation: Any, part: str | int) -> Any:
    annotation = bare(annotation)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list and args:
        return args[0]
    if origin is dict and args:
        return args[1]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for field in annotation.model_fields.values():
            if field.alias == part:
                return field.annotation
    return None


def _findings(details: ErrorDetails, root: type[BaseModel]) -> Iterator[Finding]:
    loc: Loc = tuple(part for part in details["loc"])
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == FINDINGS:
        yield from (finding.below(loc) for finding in context["findings"])
        return
    if loc and loc[-1] == "[key]":
        yield Finding(loc[:-1], f"as a key: {_sentence(kind, loc[-2], context)}", None, on_key=True)
    elif kind == "missing":
        yield Finding(loc, "is missing", _documented(root, loc))
    elif kind == "extra_forbidden":
        words = getattr(model_at(root, loc[:-1]), "unknown", None)
        message = "there is no such field" if words is None else f"{loc[-1]} {words}"
        yield Finding(loc, message, _suggestion(root, loc), on_key=True)
    else:
        yield Finding(loc, _sentence(kind, value, context), _mend(kind, value, context))


def _sentence(kind: str, value: Any, context: dict[str, Any]) -> str:
    actual = f"found {describe(value)}"
    if kind in _KINDS:
        return f"{actual}; expected {_KINDS[kind]}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{actual}; expected {words} {context[name]}"
    if kind == "literal_error":
        return f"{actual}; expected {context['expected']}"
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return f"{actual}; expected {MEANING.get(pattern, f'text that matches {pattern}')}"
    if kind == "string_unicode":
        return f"{actual}; expected text without halves of surrogate pairs"
    if kind == "string_too_short":
        return f"{actual}; expected at least {context['min_length']} characters"
    if kind == "string_too_long":
        return f"{actual}; expected at most {context['max_length']} characters"
    if kind == "too_long":
        return f"found {context['actual_length']} entries; expected at most {context['max_length']}"
    if kind == "too_short":
        return f"found {context['actual_length']} entries; expected at least {context['min_length']}"
    return f"{actual}; {kind.replace('_', ' ')}"


def _mend(kind: str, value: Any, context: dict[str, Any]) -> str | None:
    if kind == "string_type" and isinstance(value, bool | int | float):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return f"quote it: '{text}'"
    if kind in ("int_type", "float_type", "bool_type") and isinstance(value, str):
        return "write it without quotes" if isinstance(resolve(value), bool | int | float) else None
    if kind in ("list_type",) and isinstance(value, dict | str):
        return "put it in a list: [...]"
    if kind == "literal_error" and isinstance(value, str):
        options = [option.strip().strip("'") for option in context["expected"].replace(" or ", ",").split(",")]
        close = nearest(value, options)
        return f"did you mean {close}?" if close else None
    if kind in ("string_type", "float_type", "int_type", "bool_type") and value is None:
        return "leave the field out to get its default"
    return None


def _documented(root: type[BaseModel], loc: Loc) -> str | None:
    field = _field_at(root, loc)
    return None if field is None else _description(field) or None


def _suggestion(root: type[BaseModel], loc: Loc) -> str | None:
    """The field that was meant: one of a like name here, or one of that name further in or out."""
    name = str(loc[-1])
    holder = model_at(root, loc[:-1])
    if holder is None:
        return None
    names = [str(field.alias) for field in holder.model_fields.values()]
    close = nearest(name, names)
    if close is not None:
        return f"did you mean {close}?"
    for depth in range(len(loc) - 1, 0, -1):
        model = model_at(root, loc[:depth])
        path = next(_named(model, name, 2), None) if model is not None else None
        if path is not None:
            return f"did you mean {format_path((*loc[:depth], *path))}?"
    return f"known here: {', '.join(names)}" if len(names) <= 12 else None


def _named(model: type[BaseModel], name: str, depth: int) -> Iterator[Loc]:
    """Paths of the fields of that name in a model and the models directly inside it (lists left out)."""
    for field in model.model_fields.values():
        if field.alias == name:
            yield (name,)
    if depth == 0:
        return
    for field in model.model_fields.values():
        inner = bare(field.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from ((str(field.alias), *path) for path in _named(inner, name, depth - 1))
