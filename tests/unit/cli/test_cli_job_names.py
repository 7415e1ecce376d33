"""What no job can be called, where a command expects one: an argument that is wrong (exit 2), in words, for every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.command import rlhf

NAMES = {
    "too long": "x" * 400,
    "too long, in bytes": "é" * 200,
    "too long a file": "x" * 400 + ".yaml",
    "too long, numbered": "x" * 400 + "@2",
    "too long a path": "x/" * 3000,
    "nothing": "",
    "blank": " ",
    "two lines": "a\nb",
    "a control character": "a\x1bb",
    "upper case": "Beaver",
    "a folder": ".",
    "never run": "beaver",
    "a number alone": "@2",
}
LOCAL = {
    "runs": ["{}"],
    "report": ["{}"],
    "status": ["{}"],
    "plan": ["{}"],
    "run": ["{}"],
    "validate": ["{}"],
    "logs": ["{}", "sft"],
    "export": ["{}", "sft", "exported"],
    "compare": ["{}", "{}"],
    "gc": ["--forget", "{}"],
}


@pytest.mark.parametrize("command", LOCAL)
def test_on_this_machine(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for what, name in NAMES.items():
        ended = rlhf(command, *(argument.format(name) for argument in LOCAL[command]))
        assert (what, ended.code) == (what, 2), ended.err
        assert ended.err.strip()
        assert "\x1b" not in ended.err
    assert [path.name for path in tmp_path.iterdir() if path.name != ".rlhf"] == []


@pytest.mark.parametrize("command", ["status", "suspend", "resume", "retry", "logs", "pull"])
def test_on_a_cluster(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before the cluster is asked: there is no kubectl here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for what, name in NAMES.items():
        if what == "never run":
            continue
        stage = ["sft"] if command in ("logs", "pull") else []
        ended = rlhf(command, "-n", "default", name, *stage)
        assert (what, ended.code) == (what, 2), ended.err
        assert ended.err.strip()
