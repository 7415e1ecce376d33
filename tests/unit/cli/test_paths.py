"""Paths that are not there: what they may have been meant for."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_sdk.paths import meant


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("chta.jsonl", "perhaps chat.jsonl"),
        ("data/promts.csv", "perhaps prompts.csv"),
        ("$HOME/chat.jsonl", "variables of the shell are not replaced"),
        ("data/*.jsonl", "patterns are not looked up: name the file, or the folder that holds the files"),
        ("data\\prompts.csv", "write the path with /"),
        ("org/model-1B", "a repository of a model hub is hf://org/model-1B@main"),
        ("hub.example/org/model-1B", "a repository of a model hub is hf://org/model-1B@main"),
        ("hub.example/datasets/org/rows", "a repository of a model hub is hf://datasets/org/rows@main"),
        ("elsewhere.jsonl", "a relative path starts at the job's file, in "),
        ("org/rows.jsonl", None),
        ("nothing-alike", None),
    ],
)
def test_a_hint(tmp_path: Path, location: str, words: str | None) -> None:
    folder, working = tmp_path / "job", tmp_path / "working"
    for file in (folder / "chat.jsonl", folder / "data" / "prompts.csv", working / "elsewhere.jsonl"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    hint = meant(location, folder, working)
    assert hint is None if words is None else hint is not None and hint.startswith(words)


@pytest.mark.parametrize("location", ["é" * 200, "é" * 200 + "/a", "a\x00b", "a\x00b/c"])
def test_a_path_that_no_file_can_have_gets_no_hint(tmp_path, location):
    assert meant(location, tmp_path, tmp_path) is None
