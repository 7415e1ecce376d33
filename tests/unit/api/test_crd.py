"""The CRD: committed as generated, structural, bounded everywhere, small enough for kubectl apply."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from rlhf_api.cel import MUTABLE
from rlhf_api.crd import crd, render, schema
from rlhf_api.job import JobSpec, Stage
from rlhf_api.stages import STAGE_TYPES

ROOT = Path(__file__).parents[3]
FILE = ROOT / "crds" / "rlhf.dev_rlhfjobs.yaml"
KUBERNETES = {"affinity", "tolerations", "volumes", "volumeMounts"}
"""Fields of a pod that are as Kubernetes has them."""
SCHEMA = schema()
MOST_BYTES = 180 * 1024


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below one, with its path; `[]` is a list's item, `{}` a mapping's value."""
    yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from nodes(node["additionalProperties"], f"{path}{{}}")


NODES = dict(nodes(SCHEMA))


def test_what_is_committed_is_what_is_generated() -> None:
    assert FILE.read_text() == render(), "run make generate"


def written(value: Any) -> str:
    """Compact JSON, which kubectl apply keeps in an annotation."""
    return json.dumps(value, separators=(",", ":"))


def bytes_by_part() -> str:
    """A table: bytes of the rules, the descriptions and all else, by the part of the schema they stand in."""
    parts = [path for path in NODES if path.count(".") <= 2 or re.fullmatch(r"\.spec\.stages\[\]\.\w+", path)]
    parts += [".spec.runPolicy.overrides[].pod"]
    sizes = {part: [0, 0, 0] for part in parts}
    for path, node in NODES.items():
        part = max((part for part in parts if path.startswith(part)), key=len)
        below = {"properties", "items", "additionalProperties"}
        rules, description = node.get("x-kubernetes-validations"), node.get("description")
        alone = {key: value for key, value in node.items() if key not in below}
        columns = [len(written({"key": value})) if value else 0 for value in (rules, description)]
        name = len(path.rpartition(".")[2]) + len('"":,')
        for column, size in enumerate([*columns, len(written(alone)) - sum(columns) + name]):
            sizes[part][column] += size
    lines = [
        f"{sum(row):8} {row[0]:8} {row[1]:8} {row[2]:8}  {part or '(root)'}"
        for part, row in sorted(sizes.items(), key=lambda entry: -sum(entry[1]))
        if sum(row) > 500
    ]
    return "\n".join([f"{'bytes':>8} {'rules':>8} {'texts':>8} {'fields':>8}", *lines])


def test_it_keeps_within_its_budget() -> None:
    """kubectl apply can keep 256 KiB; further stage types are to come."""
    assert len(written(crd())) <= MOST_BYTES, bytes_by_part()


def test_the_file_reads_back_as_what_was_generated() -> None:
    assert YAML(typ="safe", pure=True).load(FILE.read_text()) == crd()


@pytest.mark.parametrize(
    "word", ["$ref", "anyOf", "oneOf", "allOf", "not", "const", "title", "default", "propertyNames"]
)
def test_the_schema_is_structural_and_sets_no_defaults(word: str) -> None:
    assert [path for path, node in NODES.items() if word in node] == []


def test_every_value_has_one_type() -> None:
    kinds = {"object", "array", "string", "number", "integer", "boolean"}
    assert [path for path, node in NODES.items() if node.get("type") not in kinds] == []


def test_every_list_text_and_mapping_is_bounded() -> None:
    def unbounded(node: dict[str, Any]) -> bool:
        if node["type"] == "array":
            return "maxItems" not in node
        if node["type"] == "string":
            return "maxLength" not in node and "enum" not in node
        return node["type"] == "object" and "additionalProperties" in node and "maxProperties" not in node

    assert [path for path, node in NODES.items() if unbounded(node)] == []


def test_no_object_keeps_unknown_fields() -> None:
    """Nothing nests deeper than its types say."""
    assert [path for path, node in NODES.items() if "x-kubernetes-preserve-unknown-fields" in node] == []


def of_kubernetes(path: str) -> bool:
    """Whether it lies inside a field that Kubernetes defines."""
    return any(f".pod.{name}" in path and not path.endswith(f".pod.{name}") for name in KUBERNETES)


def test_every_list_says_what_it_is_and_every_map_key_is_required() -> None:
    for path, node in NODES.items():
        if node["type"] != "array" or of_kubernetes(path):
            continue
        kind = node.get("x-kubernetes-list-type", "atomic")  # Kubernetes' own default
        if kind == "map":
            for key in node["x-kubernetes-list-map-keys"]:
                assert key in node["items"]["required"], path
        else:
            assert kind == ("atomic" if node["items"]["type"] == "object" else "set"), path
    keyed = {path for path, node in NODES.items() if node.get("x-kubernetes-list-type") == "map"}
    assert {".spec.inputs", ".spec.stages", ".spec.runPolicy.overrides", ".status.conditions"} <= keyed
    assert "x-kubernetes-list-type" not in NODES[".status.stages"]


def test_every_field_is_described() -> None:
    described = [path for path in NODES if path and not path.endswith(("[]", "{}")) and path != ".metadata"]
    described = [path for path in described if not of_kubernetes(path)]
    assert [path for path in described if not NODES[path].get("description")] == []


def test_exclusive_bounds_are_written_as_openapi_3_0_does() -> None:
    rate = NODES[".spec.stages[].sft.learningRate"]
    assert (rate["minimum"], rate["exclusiveMinimum"]) == (0, True)
    assert NODES[".spec.stages[].sft.lora.dropout"]["exclusiveMaximum"] is True


def test_descriptions_are_one_short_sentence_each() -> None:
    """The job reference has the rest."""
    texts = {
        path: node["description"] for path, node in NODES.items() if path.startswith(".spec.") and "description" in node
    }
    assert [
        path for path, text in texts.items() if not text.endswith(".") or re.search("; |[.] (?!Default: )", text)
    ] == []
    assert sum(map(len, texts.values())) / len(texts) < 45
    assert NODES[".spec.stages[].sft.data[].split"]["description"] == "Which of the input's rows. Default: all."


def test_whole_numbers_fit_those_of_kubernetes() -> None:
    """Where bounds do not say so, a format does; int32 would bound nothing."""
    wide = {
        path for path, node in NODES.items() if node["type"] == "integer" and not {"minimum", "maximum"} <= set(node)
    }
    assert {NODES[path]["format"] for path in wide} == {"int64"}
    assert NODES[".spec.seed"]["maximum"] == 2**31 - 1


def test_the_defaults_are_told_in_the_descriptions() -> None:
    assert NODES[".spec.stages[].ppo.clip"]["description"].endswith("Default: 0.2.")
    assert NODES[".spec.suspend"]["description"].endswith("Default: false.")


def test_every_stage_type_is_there() -> None:
    assert set(STAGE_TYPES) <= set(NODES[".spec.stages[]"]["properties"])


def rules(path: str) -> list[str]:
    return [validation["rule"] for validation in NODES[path].get("x-kubernetes-validations", [])]


def test_every_rule_has_a_message_and_names_fields_that_exist() -> None:
    for path, node in NODES.items():
        for validation in node.get("x-kubernetes-validations", []):
            assert validation["message"] and "\n" not in validation["message"]
            if "fieldPath" in validation:
                assert path + validation["fieldPath"] in NODES, (path, validation)
            for chain in re.findall(r"[sS]elf((?:\.[a-z][A-Za-z]*\b(?!\())+)", validation["rule"]):
                assert path + chain in NODES, (path, validation["rule"])


def test_no_placeholder_is_left_in_a_rule() -> None:
    """`{field}` of a model's rule, `$` of a reference's; `$` of a regular expression ends a group or the text."""
    placeholder = re.compile(r"\{[A-Za-z.]+\}|\$(?![|')])")
    assert [rule for path in NODES for rule in rules(path) if placeholder.search(rule)] == []


def test_a_stage_has_exactly_one_type() -> None:
    exactly_one = f"[{', '.join(f'has(self.{name})' for name in STAGE_TYPES)}].exists_one(g, g)"
    assert f"oldSelf.hasValue() || ({exactly_one})" in rules(".spec.stages[]")


def test_what_may_not_change_is_checked_once_wherever_the_api_server_knows_the_old_value() -> None:
    """It runs every rule at each write of a status."""

    def old_value_known(path: str) -> bool:
        """Whether no list above it has items without a name."""
        lists = [path[: match.start()] for match in re.finditer(r"\[\]", path)]
        return all(NODES[list_path].get("x-kubernetes-list-type") == "map" for list_path in lists)

    for path, node in NODES.items():
        fixed = path.startswith(".spec.") and path.removeprefix(".spec.").partition(".")[0].partition("[")[0]
        for validation in node.get("x-kubernetes-validations", []):
            if fixed and fixed not in MUTABLE and old_value_known(path):
                assert validation.get("optionalOldSelf"), (path, validation)
            else:
                assert "optionalOldSelf" not in validation or path == ".spec", (path, validation)


def test_what_may_change_is_the_documented_list_and_nothing_else() -> None:
    frozen = {
        validation["fieldPath"][1:]
        for validation in NODES[".spec"]["x-kubernetes-validations"]
        if "oldSelf" in validation["rule"]
    }
    fields = {str(field.alias) for field in JobSpec.model_fields.values()}
    assert frozen == fields - set(MUTABLE)
    assert set(MUTABLE) == {"suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "runPolicy"}


def test_every_reference_of_every_type_is_in_the_rule_of_references_and_in_its_message() -> None:
    (rule,) = [
        validation
        for validation in NODES[".spec"]["x-kubernetes-validations"]
        if "does not fit" in validation["message"]
    ]
    references = {
        path.removeprefix(".spec.stages[].").removesuffix("[]")
        for path, node in NODES.items()
        if path.startswith(".spec.stages[].")
        and {"input", "stage"} <= set(node.get("properties", {})) - set(node.get("required", ()))
    }
    assert {"sft.data", "ppo.critics.model", "simulate.redTeam.costs", "evaluate.rules.grader"} <= references
    deeper = {path for path in references if "[]" in path}
    apart = {f"evaluate.suites[].{field}" for field in ("data", "file", "shotsFrom")}
    apart |= {"evaluate.groups[].members", "evaluate.personas[].data", "evaluate.judges[].model"}
    assert deeper == apart, "lists of lists have a rule of their own"
    references -= deeper
    for text in (rule["rule"], rule["messageExpression"]):
        groups = [re.findall("'([^']*)'", group) for group in re.findall(r"\[('[^\]]*)\]", text)]
        groups = [group for group in groups if group and group[0] in STAGE_TYPES]
        entries = {f"{kind}.{entry}" for kind, *below in groups for entry in below}
        assert {entry.partition(":")[0] for entry in entries} == references
        assert {"sft.model: sft or ppo", "rules.gold: simulate: completions", "rules.policy"} <= entries
        assert "costModel.data: simulate: " in entries


def test_defaults_in_rules_are_the_models_own() -> None:
    (rule,) = [text for text in rules(".spec.stages[].ppo") if "%" in text]
    assert ": 32)" in rule and ": 1)" in rule
    assert Stage.model_fields["ppo"] is not None


def test_kubectl_get_shows_stage_progress_status_and_age() -> None:
    (version,) = crd()["spec"]["versions"]
    assert [column["name"] for column in version["additionalPrinterColumns"]] == ["Stage", "Progress", "Status", "Age"]
    for column in version["additionalPrinterColumns"][:3]:
        assert column["jsonPath"] in NODES
    assert version["subresources"] == {"status": {}}
