"""docs/glossary.md, concepts.md and tuning.md: short rows, and every field, metric, label and command in them exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
FIELD_ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \|", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
IDENTIFIER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
PAGES = ("concepts", "tuning")


def read(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


def sections() -> dict[str, dict[str, str]]:
    """Of the job reference: section's anchor, then field, then the anchor of the section that the field holds."""
    by_anchor: dict[str, dict[str, str]] = {}
    for part in re.split(r"^## ", read("job-reference"), flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        anchor = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_").replace(" ", "-")
        links = {field: re.search(r"\(#([^)]+)\)", kind) for field, kind in FIELD_ROW.findall(body)}
        by_anchor[anchor] = {field: link[1] if link else "" for field, link in links.items()}
    return by_anchor


SECTIONS = sections()
WORDS = {
    word.replace(".*", ".NAME")
    for page in ("metrics", "report", "troubleshooting", "job-reference")
    for word in CODE.findall(read(page))
}
"""Names of metrics, measures, phases, files, reasons and values, as the pages that define them write them."""
TRAINER = "\n".join(
    path.read_text() for suffix in ("py", "j2") for path in sorted((ROOT / "trainer_image").rglob(f"*.{suffix}"))
)


def is_field(path: str) -> bool:
    """Whether a path of fields, such as `kl.coefficient`, can be written somewhere in a job."""
    holders = list(SECTIONS)
    for field in path.split("."):
        if not any(field in SECTIONS.get(holder, {}) for holder in holders):
            return False
        holders = [SECTIONS[holder][field] for holder in holders if field in SECTIONS.get(holder, {})]
    return True


def test_a_path_of_fields_is_followed_through_the_reference() -> None:
    assert is_field("lagrange.maxStep") and is_field("ppo.rewards.weight")
    assert not is_field("lagrange.maxSteps") and not is_field("kl.maxStep")


@pytest.mark.parametrize("page", PAGES)
def test_every_name_on_a_page_is_a_field_or_defined_elsewhere(page: str) -> None:
    text = re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)
    names = {word.partition(":")[0].replace("[]", "") for word in CODE.findall(text)}
    unknown = {
        name for name in names if IDENTIFIER.fullmatch(name) and not is_field(name) and name not in WORDS | {"NAME"}
    }
    assert unknown == set()
    assert sum(map(is_field, names)) > 10


@pytest.mark.parametrize("page", PAGES)
def test_every_label_quoted_is_one_of_the_trainers(page: str) -> None:
    labels = re.findall(r'"([^"\n]+)"', re.sub(r"`[^`\n]*`", "", read(page)))
    assert labels
    assert [label for label in labels if label not in TRAINER] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_named_is_a_command(page: str) -> None:
    verbs = {word.split()[1] for word in CODE.findall(read(page)) if word.startswith("rlhf ")}
    assert {verb for verb in verbs if f"## rlhf {verb}\n" not in read("cli")} == set()


def test_the_glossary_is_in_order_and_its_rows_are_one_line() -> None:
    rows = [line.split(" | ") for line in read("glossary").splitlines() if line.startswith("| ")][1:]
    terms = [row[0].removeprefix("| ").lower() for row in rows]
    assert len(terms) >= 25 and terms == sorted(set(terms))
    assert all(len(row) == 2 and len(" | ".join(row)) <= 160 for row in rows), "a word and one line"


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "architecture.md"], ids=lambda path: path.name)
def test_the_glossary_is_linked(page: Path) -> None:
    assert "glossary.md)" in page.read_text()
