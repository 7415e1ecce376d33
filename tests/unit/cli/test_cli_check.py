"""`rlhf check`: which rows it takes, without a model."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from fakes.command import rlhf
from rlhf_sdk import label_check
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.label_check import Row, read_rows, typed


def written(folder: Path, *lines: str) -> str:
    (folder / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
    return str(folder / "rows.jsonl")


def test_prompts_and_answers_come_in_several_columns(tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    rows = [
        {"prompt": "a", "answer": "b", "response": "c"},
        {"prompt": "a", "completion": ""},
        {"prompt": [user]},
        {"messages": [user, assistant]},
        {"messages": [assistant, user], "labels": 1},
    ]
    found = read_rows(written(tmp_path, *map(json.dumps, rows[:2]), "", *map(json.dumps, rows[2:])))
    assert [row.where for row in found] == [f"rows.jsonl:{number}" for number in (1, 2, 4, 5, 6)]
    assert [row.answer for row in found] == ["b", "", None, "b", None]
    assert [row.prompt for row in found] == [[user]] * 4 + [[assistant, user]]


def test_gzip_is_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.write('{"prompt": "a"}\n')
    assert len(read_rows(str(tmp_path / "rows.jsonl.gz"))) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[]", "rows.jsonl:1: found list; expected an object a line"),
        ("{", "rows.jsonl:1: is no JSON"),
        ('{"text": "a"}', r"rows.jsonl:1: found text; expected prompt \(and one of answer, response, completion\)"),
        ('{"prompt": "a", "answer": 3}', "rows.jsonl:1: answer: found int; expected a text"),
        ('{"prompt": []}', "rows.jsonl:1: prompt: expected a text, or a list of messages"),
        ('{"messages": [{"role": "user"}]}', "rows.jsonl:1: messages: expected messages of role and content"),
        ("", "rows.jsonl: found no row"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, line: str, expected: str) -> None:
    with pytest.raises(CommandError, match=expected) as error:
        read_rows(written(tmp_path, line))
    assert error.value.code is Exit.INVALID


@pytest.mark.parametrize(("name", "most"), [("MOST_ROWS", 2), ("MOST_BYTES", 40)])
def test_rows_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> None:
    path = written(tmp_path, *['{"prompt": "a"}'] * 3)
    monkeypatch.setattr(label_check, name, most)
    with pytest.raises(CommandError, match=r"rows.jsonl: expected at most \d+ rows of .*; check them in parts"):
        read_rows(path)


def test_either_a_prompt_or_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, '{"prompt": "a"}')
    for arguments in (
        (),
        ("--prompt", "a", "--types", tmp_path / "out"),
        (path, "--prompt", "a"),
        (path, "--answer", "a"),
        (tmp_path / "none.jsonl",),
    ):
        assert rlhf("check", tmp_path, *arguments).code == 2


def test_a_response_type_is_the_label_with_the_largest_margin_and_none_below_every_threshold() -> None:
    rows = [Row("rows.jsonl:1", [], None, {"prompt": "a"})] * 4
    checks = [
        {"row": 0, "probabilities": [0.6, 0.3]},  # 0.6 is 0.41 above 0.5, 0.3 is 1.35 above 0.1
        {"row": 1, "probabilities": [0.6, 0.09]},
        {"row": 2, "probabilities": [0.4, 0.09]},
        {"row": 3, "probabilities": [1.0, 0.0]},
        {"row": 3, "probabilities": [0.4, 1.0]},  # the answer's, after the prompt's
    ]
    labelled = {"labels": ["comply", "hard_refuse"], "thresholds": [0.5, 0.1], "checks": checks}
    kinds = [row.get("response_type") for row in typed(rows, labelled)]
    assert kinds == ["hard_refuse", "comply", None, "hard_refuse"]
