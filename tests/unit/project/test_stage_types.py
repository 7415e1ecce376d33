"""Few files name a stage type, and docs/stage-types.md lists them: whoever adds a type knows where to look."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from rlhf_api.stages import SINGLE_PROCESS_STAGES, STAGE_TYPES

ROOT = Path(__file__).parents[3]
PRODUCT = ("crds", "operator", "sdk", "trainer_image")
NAMES = frozenset(STAGE_TYPES) - SINGLE_PROCESS_STAGES - {"rules", "moderation"}
"""As texts; `rules` is the name of many things, `moderation` that of a product, too."""
CLASSES = frozenset({*(kind.spec.__name__ for kind in STAGE_TYPES.values()), "Preference"}) - {"Report"}
ROW = re.compile(r"^\| `([\w/.*]+)` \|", re.MULTILINE)


def names_a_type(text: str) -> bool:
    """Whether code holds a type's name as a text, or imports a type's spec."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and node.value in NAMES:
            return True
        of_types = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlhf_api.stages")
        if of_types and any(alias.name in CLASSES for alias in node.names):
            return True
    return False


def test_a_text_and_an_import_name_a_type() -> None:
    assert names_a_type('if stage.type == "ppo": pass')
    assert names_a_type("from rlhf_api.stages.preference import CostModel")
    assert not names_a_type("from rlhf_api.stages import STAGE_TYPES\nSTAGE_TYPES[stage.type].product")


def test_the_page_lists_the_files_that_name_a_type() -> None:
    listed = ROW.findall((ROOT / "docs" / "stage-types.md").read_text())
    naming = {
        path.relative_to(ROOT).as_posix()
        for folder in PRODUCT
        for path in (ROOT / folder).rglob("*.py")
        if names_a_type(path.read_text(encoding="utf-8"))
    }
    of_row = {row: {path for path in naming if Path(path).match(row)} for row in listed}
    unlisted = naming - set().union(*of_row.values())
    assert not unlisted, (
        f"found {sorted(unlisted)}; expected what they ask of a type as a field of StageType, or a row in docs/stage-types.md"
    )
    assert not [row for row, paths in of_row.items() if not paths], "rows of docs/stage-types.md that no file needs"
