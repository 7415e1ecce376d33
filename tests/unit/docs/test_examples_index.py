"""docs/examples.md lists every example, every file beside them and every recipe, each once."""

from __future__ import annotations

import re
from pathlib import Path

from rlhf_sdk.recipes import RECIPES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "examples.md").read_text()
ROWS = re.findall(r"^\| \[[^\]]+\]\(\.\./examples/([^)]+)\) \|(.*)\|$", PAGE, re.MULTILINE)


def test_every_job_and_file_of_the_examples_is_listed() -> None:
    files = [*(ROOT / "examples").glob("*"), *(ROOT / "examples" / "cluster").glob("*")]
    example_names = {
        path.relative_to(ROOT / "examples").as_posix() for path in files if path.suffix in (".yaml", ".py")
    }
    assert sorted(name for name, _ in ROWS if name != "data") == sorted(example_names)


def test_every_job_says_what_it_shows_what_it_needs_and_how_long_it_takes() -> None:
    jobs = [cells.split(" | ") for name, cells in ROWS if name.endswith(".yaml") and not name.endswith("storage.yaml")]
    assert jobs and all(len(cells) == 3 and all(cell.strip() for cell in cells) for cells in jobs)
    assert all(re.search(r"\d|hours|not measured", cells[2]) for cells in jobs)


def test_every_recipe_is_listed() -> None:
    _, _, part = PAGE.partition("## Jobs to start from")
    assert re.findall(r"^\| `([\w-]+)` \|", part.partition("\n## ")[0], re.MULTILINE) == list(RECIPES)


def test_the_jobs_that_no_test_runs_are_named() -> None:
    tested = (ROOT / "tests" / "trainer" / "test_examples.py").read_text().partition("RUN = (")[2].partition(")")[0]
    (sentence,) = re.findall(r"All of them but (.*?) are run", PAGE, re.DOTALL)
    untested = set(re.findall(r"`([\w-]+)\.yaml`", sentence))
    jobs = {path.stem for path in (ROOT / "examples").glob("*.yaml")}
    assert set(re.findall(r'"([\w-]+)"', tested)) == jobs - untested
