"""docs/decisions: one short file each, in one form, all in the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "docs" / "decisions"
FILES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
INDEX = re.findall(r"^- \[([^\]]+)\]\(([\w-]+\.md)\)$", (FOLDER / "README.md").read_text(), re.MULTILINE)


def test_the_index_has_each_decision_once() -> None:
    assert sorted(name for _, name in INDEX) == [path.name for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_decision_has_context_decision_and_consequence(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert dict(INDEX)[lines[0].removeprefix("# ")] == path.name, "the index calls it so"
    assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequence"]
    assert 10 <= len(lines) <= 25
