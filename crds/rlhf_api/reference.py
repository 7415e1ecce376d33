"""The job reference, generated from the models: `python -m rlhf_api.reference` prints docs/job-reference.md."""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlhf_api.base import bare
from rlhf_api.fields import MEANING
from rlhf_api.job import API_VERSION, KIND, Input, JobSpec, Metadata, Stage
from rlhf_api.kubernetes import KubernetesModel
from rlhf_api.stages import STAGE_TYPES

HEADER = f"""<!-- Generated from crds/rlhf_api by `python -m rlhf_api.reference`; do not edit. -->
# The job, field by field

A job is one YAML document (YAML 1.2) with `apiVersion: {API_VERSION}`, `kind: {KIND}`, `metadata.name` and `spec`.
`rlhf validate job.yaml` checks it and names every problem with its line and column. Fields are camelCase, unknown ones
are refused, and no value is coerced: `"3"` is not 3. What YAML 1.1 and 1.2 read differently (`no`, `010`, `1_000`,
`12:30:45`, dates) must be quoted or written otherwise.

"required" stands where a field has no default. Bounds are given as the API server checks them.
"""
_OWN_SECTIONS: tuple[type[BaseModel], ...] = (Metadata, JobSpec, Input, Stage)
_WORDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}


def render() -> str:
    """The page."""
    return HEADER + "".join(f"\n{_section(model)}" for model in _models())


def _models() -> list[type[BaseModel]]:
    """The models in reading order: the spec, inputs, stages, then what each refers to, depth first, each once."""
    models: dict[type[BaseModel], None] = dict.fromkeys(_OWN_SECTIONS)
    for stage_type in STAGE_TYPES.values():
        models[stage_type.spec] = None
    waiting = list(models)
    while waiting:
        for inner in _inner(waiting.pop(0)):
            if inner not in models:
                models[inner] = None
                waiting.append(inner)
    return list(models)


def _inner(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in model.model_fields.values():
        inner = _held(field.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel) and not issubclass(inner, KubernetesModel):
            yield inner


def _held(annotation: Any) -> Any:
    """What a field holds, lists opened."""
    inner = bare(annotation)
    return bare(typing.get_args(inner)[0]) if typing.get_origin(inner) is list else inner


def _section(model: type[BaseModel]) -> str:
    schema = model.model_json_schema(by_alias=True)
    lines = [
        f"## {_title(model)}",
        "",
        _text(model.__doc__),
        "",
        "| field | type | default | what it is |",
        "|---|---|---|---|",
    ]
    required = set(schema.get("required", ()))
    for field in model.model_fields.values():
        node = schema["properties"][str(field.alias)]
        default = "required" if field.alias in required else _default(field)
        lines.append(f"| `{field.alias}` | {_type(field.annotation, node)} | {default} | {_described(field, node)} |")
    return "\n".join(lines) + "\n"


def _title(model: type[BaseModel]) -> str:
    names = {JobSpec: "spec", Input: "spec.inputs[]", Stage: "spec.stages[]", Metadata: "metadata"}
    names |= {stage_type.spec: f"{name} (a stage type)" for name, stage_type in STAGE_TYPES.items()}
    return names.get(model, model.__name__)


def _anchor(model: type[BaseModel]) -> str:
    """As GitHub makes it from a heading."""
    anchor = "".join(character for character in _title(model).lower() if character.isalnum() or character in " -_")
    return anchor.replace(" ", "-")


def _type(annotation: Any, node: dict[str, Any]) -> str:
    inner = bare(annotation)
    if typing.get_origin(inner) is list:
        (item,) = typing.get_args(inner)
        return f"list of {_type(item, _schema(node).get('items', {}))}"
    if isinstance(inner, type) and issubclass(inner, KubernetesModel):
        return "Kubernetes object"
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return f"[{_title(inner).removesuffix(' (a stage type)')}](#{_anchor(inner)})"
    schema = _schema(node)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "object":
        return f"mapping of {_WORDS[schema['additionalProperties']['type']]}"
    return _WORDS[schema["type"]]


def _schema(node: dict[str, Any]) -> dict[str, Any]:
    """A node without its alternative null."""
    for alternative in node.get("anyOf", ()):
        if alternative.get("type") != "null":
            return dict(alternative)
    return node


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value in ([], {}):
        return ""
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def _described(field: FieldInfo, node: dict[str, Any]) -> str:
    text = _text(field.description)
    bounds = _bounds(_schema(node))
    return f"{text} {bounds}".strip().replace("|", "\\|")


def _bounds(schema: dict[str, Any]) -> str:
    words = {
        "minimum": "at least {}",
        "exclusiveMinimum": "more than {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "less than {}",
        "maxLength": "at most {} characters",
        "maxItems": "at most {} entries",
        "maxProperties": "at most {} entries",
    }
    bounds = [text.format(schema[key]) for key, text in words.items() if key in schema and schema[key] != 2**31 - 1]
    if schema.get("minItems") == 1:
        bounds.insert(0, "at least one entry")
    if "pattern" in schema:
        bounds.insert(0, MEANING[schema["pattern"]])
    return f"({'; '.join(bounds)})" if bounds else ""


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    sys.stdout.write(render())
