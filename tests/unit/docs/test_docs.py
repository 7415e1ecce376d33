"""What the documents tell a reader to type exists, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from rlhf_sdk.cli import app

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(document: Path) -> list[list[str]]:
    """The words of every command line in the document's shell blocks, comments left out."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", document.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line.removeprefix("$ "), comments=True))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_named_in_a_document_exist(document: Path) -> None:
    named = {words[1] for words in commands(document) if words[0] == "make" and len(words) > 1}
    assert named <= TARGETS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_rlhf_commands_and_options_in_a_document_exist(document: Path) -> None:
    known_commands = get_command(app).commands  # type: ignore[attr-defined]  # a typer app of several commands is a group
    for words in commands(document):
        if Path(words[0]).name != "rlhf" or len(words) == 1 or words[1].startswith("-"):
            continue
        assert words[1] in known_commands, f"{document.name}: rlhf {words[1]}"
        options = {option for parameter in known_commands[words[1]].params for option in parameter.opts}
        given_options = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        assert given_options - {"--help"} <= options, f"{document.name}: {' '.join(words)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_in_a_document_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_named_in_a_document_exist(document: Path) -> None:
    for words in commands(document):
        for word in words[1:] if Path(words[0]).name == "pytest" else ():
            path, _, name = word.partition("::")
            if path.startswith("tests/"):
                text = (ROOT / path).read_text()
                chosen = words[words.index("-k") + 1] if "-k" in words else name
                assert f"def {name}(" in text if name else chosen in text, f"{document.name}: {word}"


def test_files_named_for_a_reader_to_start_with_exist() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where to start reading")[2].partition("\n## ")[0]
    folder = ROOT / "trainer_image" / "rlhf_trainer"
    files = [name for name in re.findall(r"`([\w./-]+)`", table) if "/" in name or "." in name]
    assert files and [name for name in files if not any((at / name).exists() for at in (ROOT, folder))] == []


def test_the_changelog_has_one_short_line_for_each_entry() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    for version in versions:
        title, *lines = version.splitlines()
        assert re.fullmatch(r"Unreleased|\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", title)
        kinds = [line for line in lines if line.startswith("### ")]
        assert len(kinds) == len(set(kinds)), f"{title}: a heading comes twice"
        entries = [line for line in lines if line and not line.startswith("### ")]
        assert len(entries) == len(set(entries))
        long = [entry for entry in entries if not entry.startswith("- ") or len(entry) > 200]
        assert long == [], "one line an entry, of at most 200 characters: what a user notices"
