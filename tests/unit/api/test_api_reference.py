"""docs/job-reference.md: as generated, complete, with links that lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from rlhf_api.base import models_in
from rlhf_api.job import JobSpec
from rlhf_api.kubernetes import KubernetesModel
from rlhf_api.reference import render
from rlhf_api.stages import STAGE_TYPES

PAGE = render()
FILE = Path(__file__).parents[3] / "docs" / "job-reference.md"


def test_what_is_committed_is_what_is_generated() -> None:
    assert FILE.read_text(encoding="utf-8") == PAGE, "run make generate"


def test_every_field_of_every_model_stands_there_with_words() -> None:
    for model in models_in(JobSpec):
        if issubclass(model, KubernetesModel):  # documented there
            continue
        for field in model.model_fields.values():
            assert re.search(rf"^\| `{field.alias}` \| [^|]+ \| [^|]* \| .*\w.* \|$", PAGE, re.MULTILINE), field.alias


def test_every_stage_type_has_a_section() -> None:
    for name in STAGE_TYPES:
        assert f"\n## {name} (a stage type)\n" in PAGE


def test_every_link_leads_to_a_heading() -> None:
    headings = {
        "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_").replace(" ", "-")
        for heading in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert links and links <= headings


def test_defaults_and_bounds_are_told() -> None:
    assert "| `clip` | number | `0.2` | Clip range of the probability ratio. (more than 0) |" in PAGE
    assert "| `members` | whole number | `1` |" in PAGE
    assert re.search(r"\| `model` \| \[TrunkRef\]\(#trunkref\) \| required \|", PAGE)
