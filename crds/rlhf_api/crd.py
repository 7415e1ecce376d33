"""The CustomResourceDefinition, generated from the models: `python -m rlhf_api.crd` prints it.

A structural schema: no $ref, no unions, every list and text bounded, no defaults (inside lists they make permanent
differences for GitOps tools; the operator applies the models' own). It is kept small, as kubectl apply bounds it: of a
docstring the spec has what stands before the first semicolon or full stop (docs/job-reference.md has the rest), and
what another keyword or Kubernetes' own default says already is left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from rlhf_api.cel import check_once, rules_of, spec_rules
from rlhf_api.job import API_VERSION, KIND, JobSpec, RLHFJob
from rlhf_api.kubernetes import KubernetesModel
from rlhf_api.status import JobStatus
from rlhf_api.yaml import dump_yaml

GROUP, VERSION = API_VERSION.split("/")
PLURAL = "rlhfjobs"
HEADER = "# Generated from crds/rlhf_api by `python -m rlhf_api.crd`; do not edit.\n"

_COLUMNS = (
    ("Stage", "string", ".status.stage", "Stages that run now, or the last one."),
    ("Progress", "string", ".status.progress", "Steps done, and the time left."),
    ("Status", "string", ".status.phase", "What the job does now."),
    ("Age", "date", ".metadata.creationTimestamp", "Since the job was made."),
)
_LIST_KEYS = {
    ("JobSpec", "inputs"): "name",
    ("JobSpec", "stages"): "name",
    ("RunPolicy", "overrides"): "stage",
    ("Pod", "env"): "name",
    ("JobStatus", "conditions"): "type",
}
"""Lists whose entries several managers may own. Stages and attempts in status have one writer, who writes them whole: as
keyed lists they would make the API server keep an owner of each of their fields."""
_KEPT = ("type", "pattern", "enum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "format")


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition as Kubernetes takes it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["rlhf"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, "description": text}
                        for name, kind, path, text in _COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": schema()},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


def schema() -> dict[str, Any]:
    """The structural schema of an RLHFJob."""
    spec = _Schema(JobSpec, _summary).structural()
    check_once(spec)
    spec["x-kubernetes-validations"] = spec.get("x-kubernetes-validations", []) + spec_rules(JobSpec)
    return {
        "type": "object",
        "description": _text(RLHFJob.__doc__),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the schema.", "maxLength": 64},
            "kind": {"type": "string", "description": "Kind of the object.", "maxLength": 64},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _Schema(JobStatus, _text).structural(),
        },
    }


def render() -> str:
    """The CRD's file."""
    return HEADER + dump_yaml(crd())


class _Schema:
    """Turns the JSON schema of a model into a structural one.

    Args:
        describe: what a docstring says there.
    """

    def __init__(self, model: type[BaseModel], describe: Callable[[str | None], str]) -> None:
        self.describe = describe
        self.root = model.model_json_schema(by_alias=True)
        self.definitions: dict[str, Any] = self.root.get("$defs", {})
        self.models = {submodel.__name__: submodel for submodel in _models(model)}

    def structural(self) -> dict[str, Any]:
        return self._object(self.root)

    def _object(self, node: dict[str, Any]) -> dict[str, Any]:
        """A model: title is its class's name."""
        name = node["title"]
        model = self.models[name]
        foreign = issubclass(model, KubernetesModel)
        result: dict[str, Any] = {"type": "object"}
        if "description" in node and not foreign:
            result["description"] = self.describe(node["description"])
        if node.get("required"):
            result["required"] = node["required"]
        properties = {}
        for field, value in node.get("properties", {}).items():
            properties[field] = self._value(value)
            if properties[field]["type"] == "array" and not foreign:
                properties[field] |= _list_kind(name, field, properties[field]["items"])
                properties[field]["items"].pop("description", None)  # the list has its own
        result["properties"] = properties
        rules = rules_of(model)
        if rules:
            result["x-kubernetes-validations"] = rules
        return result

    def _value(self, node: dict[str, Any]) -> dict[str, Any]:
        """Any schema: an optional one is its only other alternative, a reference what it points at."""
        if "anyOf" in node:
            (inner,) = [alternative for alternative in node["anyOf"] if alternative.get("type") != "null"]
            node = {**inner, **{key: value for key, value in node.items() if key != "anyOf"}}
        if "$ref" in node:
            target = self.definitions[node["$ref"].rpartition("/")[2]]
            result = self._object(target)
            if "description" in node:
                result["description"] = self.describe(node["description"])
            return result
        result = {key: node[key] for key in _KEPT if key in node}
        if "const" in node:
            result["enum"] = [node["const"]]
        if "pattern" in node and not re.search(node["pattern"], ""):
            result.pop("minLength", None)
        result |= _bounds(node)
        if node["type"] == "integer" and not {"minimum", "maximum"} <= set(result):
            result["format"] = "int64"
        if "description" in node:
            result["description"] = self.describe(node["description"]) + _default(node)
        if node["type"] == "array":
            result["items"] = self._value(node["items"])
        elif node["type"] == "object":
            inside = node.get("additionalProperties")
            if not isinstance(inside, dict):
                raise TypeError(f"found {node}; expected a mapping whose values have a type")
            result["additionalProperties"] = self._value(inside)
        return result


def _models(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A model and all models below it."""
    from rlhf_api.base import models_in

    return set(models_in(model))


def _bounds(node: dict[str, Any]) -> dict[str, Any]:
    """Bounds as OpenAPI 3.0 writes them: an exclusive one is a bound and a flag."""
    result: dict[str, Any] = {}
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if bound in node:
            result[bound] = node[bound]
        elif exclusive in node:
            result |= {bound: node[exclusive], exclusive: True}
    return result


def _list_kind(model: str, field: str, items: dict[str, Any]) -> dict[str, Any]:
    """Lists are atomic where nothing else is said."""
    key = _LIST_KEYS.get((model, field))
    if key is not None:
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    return {} if items["type"] == "object" else {"x-kubernetes-list-type": "set"}


def _default(node: dict[str, Any]) -> str:
    default = node.get("default")
    if default is None or default in ("", [], {}) or isinstance(default, dict):
        return ""
    return f" Default: {str(default).lower() if isinstance(default, bool) else default}."


def _summary(text: str | None) -> str:
    """What stands before the first semicolon or full stop."""
    return re.split(r"[;.](?: |$)", _text(text), maxsplit=1)[0] + "."


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    sys.stdout.write(render())
