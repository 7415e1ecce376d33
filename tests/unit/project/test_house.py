"""A file of the product has one reason to change, and a length that a reader takes in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PRODUCT = ("crds", "operator", "sdk", "trainer_image")
MOST_LINES = 300
REASON = "One file because "
"""A paragraph of a longer file's docstring begins so, and says which one reason to change holds the file together."""


def gives_reason(text: str) -> bool:
    """Whether the docstring of a module says why it is one file."""
    paragraphs = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")
    return any(paragraph.startswith(REASON) for paragraph in paragraphs)


def long_files(root: Path) -> Iterator[tuple[str, int]]:
    """Path and lines of each file of the product that is too long and does not say why."""
    for path in sorted(path for folder in PRODUCT for path in (root / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > MOST_LINES and not gives_reason(text):
            yield path.relative_to(root).as_posix(), lines


@pytest.mark.parametrize(
    ("docstring", "lines", "listed"),
    [
        ("What it holds.", MOST_LINES, False),
        ("What it holds.", MOST_LINES + 1, True),
        (f"What it holds.\n\n{REASON}a table and what reads it change together.", MOST_LINES + 1, False),
        (f"What it holds. {REASON}this is no paragraph.", MOST_LINES + 1, True),
    ],
)
def test_a_long_file_says_why(tmp_path: Path, docstring: str, lines: int, listed: bool) -> None:
    text = f'"""{docstring}"""\n'
    (tmp_path / "sdk").mkdir()
    (tmp_path / "sdk" / "code.py").write_text(text + "\n" * (lines - text.count("\n")))
    assert list(long_files(tmp_path)) == ([("sdk/code.py", lines)] if listed else [])


def test_no_file_is_too_long() -> None:
    too_long = dict(long_files(ROOT))
    assert not too_long, (
        f"found {too_long}; expected at most {MOST_LINES} lines a file: split it where a reader would look for a part, "
        f"or say in a paragraph of its docstring that begins '{REASON}...' what holds it together"
    )
