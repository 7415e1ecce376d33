"""The corpus of bad and good specs: texts with the place and the words of what is wrong.

A case is an edit of base.yaml (`find`, which stands there once, replaced by `put`) or a `text` of its own. The mark
§ stands where the problem is expected and is taken out before the text is used: real YAML, with its position known
without the code under test.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

FOLDER = Path(__file__).parent
BASE = (FOLDER / "base.yaml").read_text(encoding="utf-8")
MARK = "§"


@dataclass(frozen=True)
class BadSpec:
    """A job that must be refused for one reason."""

    id: str
    text: str
    path: str
    says: str
    line: int
    column: int
    unseen: bool
    """The API server accepts it: its schema and CEL do not reach so far, or its YAML reader sees another value."""


def bad_specs() -> list[BadSpec]:
    """Every bad spec, each with exactly one problem."""
    return [_bad(case) for case in _read("bad-specs.yaml")]


def good_specs() -> dict[str, str]:
    """Every good spec's text by its id: near the edge of what is refused, but valid."""
    return {case["id"]: _text(case) for case in _read("good-specs.yaml")} | {"base": BASE}


def _read(name: str) -> list[dict[str, str]]:
    cases = YAML(typ="safe", pure=True).load((FOLDER / name).read_text(encoding="utf-8"))
    ids = [case["id"] for case in cases]
    assert len(ids) == len(set(ids)), f"{name}: ids are not unique: {sorted(i for i in ids if ids.count(i) > 1)}"
    return list(cases)


def _text(case: dict[str, str]) -> str:
    if "text" in case:
        return case["text"]
    assert BASE.count(case["find"]) == 1, f"{case['id']}: {case['find']!r} stands {BASE.count(case['find'])} times"
    return BASE.replace(case["find"], case["put"])


def _bad(case: dict[str, str]) -> BadSpec:
    marked = _text(case)
    assert marked.count(MARK) == 1, f"{case['id']}: needs one {MARK} where the problem stands"
    before = marked.partition(MARK)[0]
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return BadSpec(case["id"], marked.replace(MARK, ""), case["path"], case["says"], line, column, "unseen" in case)
