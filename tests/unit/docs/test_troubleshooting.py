"""The troubleshooting page quotes messages that exist, and names every reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import rlhf_trainer
from rlhf_trainer import exits
from rlhf_trainer.storage import products

PAGE = (Path(__file__).parents[3] / "docs" / "troubleshooting.md").read_text()
TREES = [ast.parse(path.read_text()) for path in sorted(Path(rlhf_trainer.__file__).parent.rglob("*.py"))]
HEADINGS = re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)


def text(node: ast.AST) -> str | None:
    """A string of the code; what is formatted into it becomes an ellipsis."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%\.?[0-9]*[sdfg]", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


MESSAGES = {message for tree in TREES for node in ast.walk(tree) if (message := text(node)) is not None}


def reasons() -> set[str]:
    """Every reason given by name, and those of the exceptions."""
    keywords = {
        reason
        for tree in TREES
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "reason" and (reason := text(node.value)) is not None
    }
    kinds = (exits.InputError, exits.Stopped, exits.StorageFull, products.Fenced)
    return keywords | {kind.reason for kind in kinds}


@pytest.mark.parametrize("heading", HEADINGS)
def test_every_message_quoted_is_one_of_the_trainers(heading):
    assert any(heading.rstrip("…").rstrip() in message for message in MESSAGES), heading


def test_every_reason_is_explained():
    explained = set(re.findall(r"`([A-Za-z]+)`", PAGE.partition("## Reasons")[2].partition("## Memory")[0]))
    assert reasons() - explained == set()
