"""The command's own words: help, the reference page, start-up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fakes.command import rlhf
from rlhf_sdk.reference import reference

COMMANDS = (
    *("init", "validate", "plan", "run", "submit", "status", "logs", "suspend", "resume", "retry", "pull", "export"),
    *("compare", "report", "check", "gc"),
)
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples_its_json_and_its_exit_codes(command: str) -> None:
    result = rlhf(command, "--help")
    assert result.code == 0
    for words in ("Examples:", f"rlhf {command}", "--output", "JSON", "Exit codes: 0"):
        assert words in result.out


def test_the_page_is_what_the_commands_say() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == reference(), "docs/cli.md is old: python -m rlhf_sdk.reference > docs/cli.md"
    assert all(f"## rlhf {command}\n" in page for command in COMMANDS)


def test_a_wrong_argument_is_exit_2() -> None:
    assert rlhf("run").code == 2
    assert rlhf("nonsense").code == 2


def test_help_starts_without_the_libraries_of_any_command() -> None:
    heavy = ("torch", "transformers", "pydantic", "rich", "ruamel", "rlhf_api.job", "orjson")
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom rlhf_sdk.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\nassert result.exit_code == 0, result\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(ROOT / "sdk") + ":" + str(ROOT / "crds")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
