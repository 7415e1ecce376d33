"""Objects that earlier releases stored still load, and nothing of them is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_api.crd import schema
from rlhf_api.load import parse_job
from rlhf_api.plan import plan
from rlhf_api.status import MAX_STAGES, JobStatus
from rlhf_api.yaml import load_yaml

STORED = sorted((Path(__file__).parents[2] / "corpus" / "stored").glob("*.yaml"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_object_still_loads(path: Path) -> None:
    value = load_yaml(path.read_bytes()).value
    job = parse_job(value)
    assert plan(job).stages[0].name == "prepare"
    status = JobStatus.model_validate(value["status"])
    assert [stage.name for stage in status.stages] == ["prepare", "sft", "reward"]
    assert status.model_dump(mode="json", exclude_defaults=True).keys() == value["status"].keys()


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_nothing_of_a_stored_object_would_be_pruned(path: Path) -> None:
    """Every field of it is in the CRD's schema."""

    def pruned(value: Any, node: dict[str, Any], at: str) -> list[str]:
        if node.get("x-kubernetes-preserve-unknown-fields") or at == ".metadata":
            return []
        if isinstance(value, list):
            return [field for item in value for field in pruned(item, node["items"], f"{at}[]")]
        if not isinstance(value, dict):
            return []
        inner = {key: node.get("properties", {}).get(key, node.get("additionalProperties")) for key in value}
        lost = [f"{at}.{key}" for key, field_schema in inner.items() if field_schema is None]
        return lost + [
            field
            for key, field_schema in inner.items()
            if field_schema is not None
            for field in pruned(value[key], field_schema, f"{at}.{key}")
        ]

    assert pruned(load_yaml(path.read_bytes()).value, schema(), "") == []


def test_a_status_of_a_newer_operator_is_read_as_far_as_it_is_known() -> None:
    status = JobStatus.model_validate({"phase": "Running", "newField": 1, "stages": []})
    assert status.phase == "Running"


def test_status_has_room_for_every_stage_with_prepare_and_the_report() -> None:
    assert schema()["properties"]["status"]["properties"]["stages"]["maxItems"] == MAX_STAGES == 34
