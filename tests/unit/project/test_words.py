"""A name says what it holds: in each package few names are words without content."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EMPTY = frozenset(
    {
        *("found", "one", "told", "kept", "said", "own", "there", "place", "known", "thing", "asked", "given", "made"),
        *("other", "whole", "here", "left", "held", "taken", "seen", "begin", "wanted"),
    }
)
"""As names; within a longer name (`own_writes`) they say something."""
MOST_SHARE = 0.01
"""Of the names that a package binds. `other` in `__eq__` is as it should be."""
PACKAGES = (
    "crds/rlhf_api",
    "trainer_image/rlhf_trainer",
    "operator/rlhf_operator",
    "sdk/rlhf_sdk",
    "benchmarks",
    "tests",
)
LISTED = 20


def bound_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each variable, field, argument, function and class that the code binds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def survey(folder: Path) -> tuple[int, list[str]]:
    """How many names a package binds, and where the empty ones are: files that were changed last first."""
    total, empty = 0, list[str]()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.stat().st_mtime, reverse=True):
        names = list(bound_names(ast.parse(path.read_text(encoding="utf-8"))))
        total += len(names)
        empty += [f"{path.relative_to(folder)}:{line}: {name}" for line, name in sorted(names) if name in EMPTY]
    return total, empty


def test_every_way_to_bind_a_name_counts(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(
        "def told(given, *, own_writes):\n"
        "    for one, row in given:\n"
        "        found: int = row.seen\n"
        "    return [made for made in row if (left := made)], lambda other: own_writes\n"
    )
    total, empty = survey(tmp_path)
    lines = [(1, "given"), (1, "told"), (2, "one"), (3, "found"), (4, "left"), (4, "made"), (4, "other")]
    assert empty == [f"code.py:{line}: {name}" for line, name in lines]
    assert total == len(lines) + len(["own_writes", "row"])


@pytest.mark.parametrize("package", PACKAGES)
def test_names_of_a_package_say_what_they_hold(package: str) -> None:
    total, empty = survey(ROOT / package)
    listed = "\n".join(empty[:LISTED])
    assert len(empty) < MOST_SHARE * total, f"{package}: name each for what it is:\n{listed}"
