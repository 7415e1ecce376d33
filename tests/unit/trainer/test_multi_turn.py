"""Rows of users' turns: what becomes a dialogue, what is named as bad, what is left out and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_api.fields import DataRef, Reference
from rlhf_api.job import Input
from rlhf_api.stage_file import StageInput
from rlhf_trainer.data.columns import Malformed, Rejected
from rlhf_trainer.data.formats import FORMATS, detect
from rlhf_trainer.data.load import load_dialogues
from rlhf_trainer.data.readers import Cell
from rlhf_trainer.data.rows import Counts, Dialogue, Where
from rlhf_trainer.data.splits import in_heldout, opening
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.texts import answers, prompts

TURNS = ["Hello", "How are you?", "And now?"]
COSAFE = Path(__file__).parents[4] / "shared" / "data" / "cosafe_dialogues_100.jsonl.gz"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def dialogue(kind: str, **row: Any) -> Dialogue:
    maker = FORMATS[kind].maker("dialogues")
    assert maker is not None
    made_dialogue = maker(row, Where("rows.jsonl", 1))
    assert isinstance(made_dialogue, Dialogue)
    return made_dialogue


class Rows:
    """One input, as stage.json lists it."""

    def __init__(self, path: Path, **fields: Any) -> None:
        self.entry = StageInput(path=str(path), digest="0" * 64, input=Input(name="rows", source=path.name, **fields))

    def input(self, _: Reference) -> StageInput:
        return self.entry

    def load(self, **ref: Any) -> tuple[list[Dialogue], Counts]:
        return load_dialogues(self, [DataRef(input="rows", **ref)])


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_each_prompt_is_all_up_to_the_users_turn_with_the_answers_between() -> None:
    row = dialogue("turns", turns=TURNS, category="greeting")
    assert (row.turns, row.category) == (3, "greeting")
    assert list(row.after([])) == [user("Hello")]
    answered = [user("Hello"), {"role": "assistant", "content": "Hi."}, user("How are you?")]
    assert list(row.after(["Hi."])) == answered
    assert list(row.after(["Hi.", ""])) == [*answered, {"role": "assistant", "content": ""}, user("And now?")]
    assert list(row.last_alone) == [user("And now?")]


def test_a_systems_text_stands_before_every_prompt() -> None:
    system = {"role": "system", "content": "Be brief."}
    for row in (
        dialogue("turns", turns=TURNS, system="Be brief."),
        dialogue("messages", messages=[system, *map(user, TURNS)]),
    ):
        assert row.turns == 3
        assert list(row.after([])) == [system, user("Hello")]
        assert list(row.last_alone) == [system, user("And now?")]


def test_of_a_conversation_the_users_turns_are_taken_and_answers_are_not() -> None:
    talk = [user("Hello"), {"role": "assistant", "content": "Hi."}, user("How are you?"), user("And now?")]
    assert dialogue("messages", messages=talk) == dialogue("turns", turns=TURNS)


def test_a_cell_of_a_csv_file_holds_turns_as_json() -> None:
    assert dialogue("turns", turns=Cell(json.dumps(TURNS))).turns == 3


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("turns", {"turns": "Hello"}, r"turns: found 'Hello', expected a list of texts, one a user's turn"),
        ("turns", {"turns": []}, r"turns: found a list of 0, expected a list of texts"),
        ("turns", {"turns": None}, r"turns: found null"),
        ("turns", {"turns": ["Hello", " "]}, r"turns\[1\]: found ' ', expected a text that is not empty"),
        ("turns", {"turns": ["Hello", 3]}, r"turns\[1\]: found 3, expected a text"),
        ("turns", {"turns": TURNS, "tools": [{"name": "look"}]}, r"tools: found .*, expected none in dialogues"),
        ("messages", {"messages": [user("a"), {"role": "tool", "content": "b"}]}, r"messages\[1\].role: found 'tool'"),
        ("messages", {"messages": [user("a"), user("")]}, r"messages\[1\].content: found ''"),
    ],
)
def test_bad_rows_say_what_was_found(kind: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(Malformed, match=message):
        dialogue(kind, **row)


def test_a_row_of_one_turn_has_no_later_turn() -> None:
    with pytest.raises(Rejected, match="one turn"):
        dialogue("turns", turns=["Hello"])
    with pytest.raises(Rejected, match="one turn"):
        dialogue("messages", messages=[user("Hello"), {"role": "assistant", "content": "Hi."}])


def test_the_columns_tell_the_format_and_rows_of_before_keep_theirs() -> None:
    assert detect({"turns": TURNS, "category": "a"}) == "turns"
    assert detect({"turns": "Hello"}) == "turns"  # bad rows are named as such
    assert detect({"turns": [user("Hello")]}) is None  # messages under another name: `columns` maps them
    assert detect({"turns": 2, "prompt": "Hello"}) == "prompt-only"
    assert detect({"turns": 2, "messages": [user("Hello")]}) == "messages"


def test_rows_of_turns_are_no_prompts(tmp_path: Path) -> None:
    assert FORMATS["turns"].maker("prompts") is None


def test_one_turn_and_repeated_rows_are_counted(tmp_path: Path) -> None:
    rows = [{"turns": TURNS}, {"turns": ["Hello"]}, {"turns": TURNS}, {"turns": TURNS[:2]}]
    dialogues, counts = Rows(written(tmp_path, rows)).load()
    assert [row.turns for row in dialogues] == [3, 2]
    assert (counts.read, counts.used, counts.bad) == (4, 2, 0)
    assert counts.rejected == {"one turn": 1, "repeated dialogue": 1}


def test_a_file_of_single_turns_is_refused_by_its_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of 2 rows can be used as dialogues:\n  rows.jsonl:1: one turn"):
        Rows(written(tmp_path, [{"turns": ["Hello"]}, {"turns": ["You"]}])).load()


def test_a_bad_row_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 2 rows are bad.*\n  rows.jsonl:2: turns\[0\]: found ''"):
        Rows(written(tmp_path, [{"turns": TURNS}, {"turns": [""]}])).load()


def test_columns_of_other_names_are_mapped_or_proposed(tmp_path: Path) -> None:
    path = written(tmp_path, [{"questions": TURNS}])
    assert len(Rows(path, columns={"turns": "questions"}).load()[0]) == 1
    with pytest.raises(InputError, match=r"columns: \{turns: questions\}"):
        Rows(path).load()


def test_a_dialogue_goes_by_its_opening() -> None:
    row = dialogue("turns", turns=TURNS)
    assert opening(row) == "Hello" and in_heldout(row, 1.0) and not in_heldout(row, 0.0)
    assert prompts(row) == ["Hello"] and answers(row) == []


@pytest.mark.skipif(not COSAFE.exists(), reason="CoSafe's dialogues are not beside the repository")
def test_cosafes_hundred_dialogues_are_read() -> None:
    dialogues, counts = Rows(COSAFE).load()
    assert len(dialogues) == counts.read == 100 and counts.bad == 0
    assert {row.turns for row in dialogues} == {3}
    assert len({row.category for row in dialogues}) == 5
