"""Labelled answers: what names a label, what says nothing of it, and rows that are refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_api.fields import DataRef, Reference
from rlhf_api.job import Input
from rlhf_api.stage_file import StageInput
from rlhf_trainer.data.columns import Malformed, Rejected
from rlhf_trainer.data.formats import FORMATS
from rlhf_trainer.data.load import load_labelled
from rlhf_trainer.data.readers import Cell
from rlhf_trainer.data.rows import LabelledAnswer, Where
from rlhf_trainer.exits import InputError

ANSWER = {"prompt": "How do I light a fire?", "response": "Pour petrol on it."}
BEAVERTAILS = {**ANSWER, "category": {"violence": False, "fire": True}, "is_safe": False}


def labelled(**columns: Any) -> LabelledAnswer:
    maker = FORMATS["prompt-completion"].maker("labelled answers")
    assert maker is not None
    answer = maker({**ANSWER, **columns}, Where("rows.jsonl", 1))
    assert isinstance(answer, LabelledAnswer)
    return answer


class Rows:
    """One input of rows, as stage.json lists it."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]] | str, suffix: str = ".jsonl", **fields: Any) -> None:
        path = folder / f"rows{suffix}"
        path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
        self.entry = StageInput(path=str(path), digest="0" * 64, input=Input(name="rows", source=path.name, **fields))

    def input(self, reference: Reference) -> StageInput:
        return self.entry

    def load(self) -> list[LabelledAnswer]:
        return load_labelled(self, [DataRef(input="rows")])[0]


def test_an_object_names_true_false_and_unknown_labels() -> None:
    answer = labelled(labels={"fire": True, "violence": False, "fraud": None, "rude": 1, "spam": 0})
    assert answer.labels == {"fire": True, "violence": False, "rude": True, "spam": False}
    assert not answer.complete
    assert answer.prompt == ({"role": "user", "content": ANSWER["prompt"]},)
    assert answer.answer == ANSWER["response"]


@pytest.mark.parametrize(
    ("labels", "names"), [(["fire", "rude"], {"fire", "rude"}), ([], set()), ("Unsafe", {"Unsafe"}), (" a ", {"a"})]
)
def test_a_list_names_the_true_labels_and_all_others_are_false(labels: Any, names: set[str]) -> None:
    answer = labelled(labels=labels)
    assert set(answer.labels) == names and all(answer.labels.values())
    assert answer.complete


def test_beavertails_category_gives_its_labels_and_is_safe_the_label_unsafe() -> None:
    assert labelled(**BEAVERTAILS).labels == {"violence": False, "fire": True, "unsafe": True}
    assert labelled(is_safe=True).labels == {"unsafe": False}


@pytest.mark.parametrize(
    ("cell", "labels", "complete"),
    [
        ('{"fire": true, "rude": null}', {"fire": True}, False),
        ('["fire"]', {"fire": True}, True),
        ("Unsafe", {"Unsafe": True}, True),
        ("true", {"true": True}, True),
    ],
)
def test_a_csv_cell_is_an_object_a_list_or_a_name(cell: str, labels: dict[str, bool], complete: bool) -> None:
    answer = labelled(labels=Cell(cell))
    assert (dict(answer.labels), answer.complete) == (labels, complete)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({}, "labels: found no such column, expected an object of true or false by label, or a list of labels"),
        ({"labels": 3}, "labels: found 3, expected an object of true or false by label, a list of the labels"),
        ({"labels": ["fire", 2]}, "labels: found a list of 2, expected"),
        ({"labels": ["fire", ""]}, "labels: found a list of 2, expected"),
        ({"labels": {"fire": "yes"}}, "labels.fire: found 'yes', expected true, false (1, 0) or null"),
        ({"labels": {"fire": 0.5}}, "labels.fire: found 0.5, expected"),
        ({"labels": {" ": True}}, "labels: found a label named ' ', expected a name that is not empty"),
        ({"category": "fire"}, "category: found 'fire', expected an object of true or false by label (map a column"),
        ({"labels": ["fire"], "is_safe": "no"}, "is_safe: found 'no', expected true or false"),
        ({"labels": ["fire"], "response": 3}, "response: found 3, expected a string"),
    ],
)
def test_a_row_that_is_no_labelled_answer_says_why(columns: dict[str, Any], says: str) -> None:
    with pytest.raises(Malformed) as caught:
        labelled(**columns)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"labels": {}}, "no label"),
        ({"labels": {"fire": None}}, "no label"),
        ({"labels": None, "is_safe": None}, "no label"),
        ({"labels": {"unsafe": True}, "is_safe": True}, "inconsistent safety labels"),
        ({"labels": ["fire"], "prompt": " "}, "empty prompt"),
    ],
)
def test_a_row_that_teaches_nothing_is_rejected(columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        labelled(**columns)


def test_an_empty_answer_counts() -> None:
    assert labelled(response="", labels=["fire"]).answer == ""


def test_columns_map_a_file_of_names(tmp_path: Path) -> None:
    """As DiaSafety has them: context, response, category and a label of two names."""
    rows = [
        {"context": "I feel low.", "response": "Nobody cares.", "category": "Risk Ignorance", "label": "Unsafe"},
        {"context": "I feel low.", "response": "I am sorry.", "category": "Risk Ignorance", "label": "Safe"},
    ]
    columns = {"prompt": "context", "completion": "response", "labels": "label"}
    answers = Rows(tmp_path, rows, columns=columns).load()
    assert [dict(answer.labels) for answer in answers] == [{"Unsafe": True}, {"Safe": True}]
    assert [answer.prompt[0]["content"] for answer in answers] == ["I feel low."] * 2


def test_a_csv_file_gives_the_same(tmp_path: Path) -> None:
    text = 'prompt,response,labels\nHi,Hello,"[""kind""]"\nHi,Go away,rude\n'
    answers = Rows(tmp_path, text, ".csv").load()
    assert [dict(answer.labels) for answer in answers] == [{"kind": True}, {"rude": True}]


def test_bad_rows_are_named_with_file_and_row(tmp_path: Path) -> None:
    rows = Rows(tmp_path, [BEAVERTAILS, {**BEAVERTAILS, "category": ["fire"]}])
    with pytest.raises(InputError, match=r"1 of 2 rows are bad.*\n.*rows.jsonl:2: category: found a list of 1"):
        rows.load()


def test_a_file_without_labels_is_told_which_column_may_be_meant(tmp_path: Path) -> None:
    rows = Rows(tmp_path, [{**ANSWER, "tags": ["fire"]}])
    with pytest.raises(InputError, match=r"need the columns labels or category or is_safe(.*\n)*.*labels: tags"):
        rows.load()


def test_rows_of_another_format_say_which_can_serve(tmp_path: Path) -> None:
    rows = Rows(tmp_path, [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    with pytest.raises(InputError, match="give no labelled answers; expected one of: prompt-completion"):
        rows.load()
