"""The one boundary to a terminal: what data, pods and logs say is shown, and never obeyed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text
from typer.testing import CliRunner

from rlhf_sdk import output
from rlhf_sdk.cli import app
from rlhf_sdk.text import HARMFUL, visible

ESCAPES = {
    "\x1b[31mred": "\\x1b[31mred",
    "\x1b]8;;http://x\x07link": "\\x1b]8;;http://x\\x07link",
    "\x9b2J": "\\x9b2J",
    "a\u202eb\u2066c": "a\\u202eb\\u2066c",
    "a\rb\x08\x7f\x00": "a\\rb\\x08\\x7f\\x00",
    "a\u200bb\ufeff\u2028": "a\\u200bb\\ufeff\\u2028",
    "\U000e0041": "\\U000e0041",
    "\udc80": "\\udc80",
    "[link=http://x]a[/link] :smile:": "[link=http://x]a[/link] :smile:",
    "tab\tline\nünï 中文 العربية 🙂": "tab\tline\nünï 中文 العربية 🙂",
}


@pytest.mark.parametrize(("text", "shown"), ESCAPES.items())
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert visible(text) == shown
    output.show(text)
    output.complain(text)
    assert capsys.readouterr() == (f"{shown}\n", f"{shown}\n")


@pytest.mark.parametrize("text", ["\x1b[31mred", "\x1b]8;;http://x", "a\u202eb", "[link=http://x]a[/link]"])
def test_in_tables_and_pictures_too(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = output.columns("NAME")
    table.add_row(text)
    table.add_row(Text(text))
    output.show(table)
    out = capsys.readouterr().out
    assert out.count(visible(text)) == 2
    assert not HARMFUL.search(out)


def test_in_json_they_are_what_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a\u202e": ["\x1b[31m", "\x9b\x7f", "\U000e0041"]}
    output.emit(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert not HARMFUL.search(out)


def test_a_log_that_comes_in_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    log = output.Log()
    for byte in "one \x1b[2J\r\n é\u202e\n".encode():
        log.write(bytes([byte]))
    log.write(b"\r\n\xff\n")
    assert capsys.readouterr().out == "one \\x1b[2J\\r\n é\\u202e\n\n\ufffd\n"


def test_errors_that_quote_a_job_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text('"\\e[2J\\u202ekey": {"\\e]0;title\\a": 1}\nkind: "\\e[31m"\n')
    result = CliRunner().invoke(app, ["validate", str(path)])
    assert result.exit_code == 2
    assert "\\x1b[2J" in result.output
    assert not HARMFUL.search(result.output)


def test_nothing_else_writes_to_the_terminal() -> None:
    """Each module prints through rlhf_sdk.output, or makes its text visible itself."""
    root = Path(output.__file__).parent
    allowed = {"output.py", "cluster/remote.py", "reference.py"}
    for path in root.rglob("*.py"):
        text = path.read_text()
        if path.relative_to(root).as_posix() not in allowed:
            assert "Console(" not in text, path
            assert "stdout.write(" not in text.replace("stdout.write(visible(", ""), path
            assert "stderr.write(" not in text and "typer.echo(" not in text, path


def test_the_command_still_starts_without_rich() -> None:
    code = "import sys, rlhf_sdk.output; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
