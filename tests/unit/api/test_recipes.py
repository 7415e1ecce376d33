"""Defaults are not part of a product's digest, so a changed default has to be another recipe version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_api.stages import STAGE_TYPES

KNOWN = Path(__file__).parent / "recipes.json"
"""Defaults by type, as they were when its recipe got its number. A new field is added here; a changed default raises
`recipe` in rlhf_api/stages/__init__.py as well."""


def defaults(kind: str) -> dict[str, Any]:
    """Default of every field of a type's spec, by class and field."""
    schema = STAGE_TYPES[kind].spec.model_json_schema(by_alias=True)
    classes = {kind: schema, **schema.get("$defs", {})}
    return {
        f"{name}.{field}": field_schema["default"]
        for name, definition in sorted(classes.items())
        for field, field_schema in sorted(definition.get("properties", {}).items())
        if "default" in field_schema
    }


@pytest.mark.parametrize("kind", STAGE_TYPES)
def test_a_changed_default_is_another_recipe(kind: str) -> None:
    recorded = json.loads(KNOWN.read_text())[kind]
    now = {"recipe": STAGE_TYPES[kind].recipe, "defaults": defaults(kind)}
    if recorded["recipe"] == now["recipe"]:
        changed = {name for name, value in recorded["defaults"].items() if now["defaults"].get(name, value) != value}
        assert not changed, f"raise the recipe of {kind}: other defaults of {', '.join(sorted(changed))}"
    assert now == recorded, f"{KNOWN.name} should say of {kind}: {json.dumps(now)}"
