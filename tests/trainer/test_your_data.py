"""docs/your-data.md, word for word: its files are written, its commands are run, its report says what the page points at."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import warm
from tiny import tiny_policy

PAGE = (Path(__file__).parents[2] / "docs" / "your-data.md").read_text()
BLOCK = re.compile(r"(?:^`([\w.]+)`:\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RLHF = """\
#!/bin/sh
case "$1" in run|validate) set -- "$@" --input base={model} ;; esac
exec {python} -m rlhf_sdk.cli "$@"
"""
"""The command, with a tiny model in place of the page's."""


def script() -> str:
    """The page as a shell script: files and commands in the page's order."""
    parts = []
    for name, language, text in BLOCK.findall(PAGE):
        assert name or language == "sh", f"neither a file nor commands: {text}"
        parts.append(f"cat > {name} <<'END OF FILE'\n{text}END OF FILE\n" if name else text)
    return "".join(parts)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The page, followed to its end."""
    checkout = tmp_path_factory.mktemp("checkout")
    model = tiny_policy(checkout / "tiny", layers=6)
    command = checkout / ".venv" / "bin" / "rlhf"
    command.parent.mkdir(parents=True)
    command.write_text(RLHF.format(python=shlex.quote(warm.python()), model=shlex.quote(str(model))))
    command.chmod(0o755)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script()], cwd=checkout, capture_output=True, text=True, check=False
    )


def test_the_page_ends_in_a_report_that_has_what_it_points_at(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (report,) = re.findall(r"^/.*/report\.html$", ended.stdout, re.MULTILINE)
    text = Path(report).read_text()
    looked_at = re.findall(r'^\| "([^"]+)" \|', PAGE, re.MULTILINE)
    assert len(looked_at) == 5
    assert [label for label in looked_at if label not in text] == []
    assert "safety" in text and "shop" in text, "the topics of the questions"
    (reward,) = Path(report).parents[1].glob("rewardModel-*/manifest.json")
    assert json.loads(reward.read_text())["metrics"]["accuracy"]["n"] == 3, "three held-out pairs, as the page says"


def test_the_runs_and_what_validate_opened_are_told(ended: subprocess.CompletedProcess[str]) -> None:
    assert "mine: done" in ended.stdout, ended.stdout + ended.stderr
    assert ended.stdout.count("job.yaml: valid") == 2, ended.stdout
