"""examples/rbr_rows.py: classes from graded propositions, and pairs that no split by prompt can leak."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parents[3] / "examples" / "rbr_rows.py"
module_spec = importlib.util.spec_from_file_location("rbr_rows", PATH)
assert module_spec is not None and module_spec.loader is not None
rbr_rows = importlib.util.module_from_spec(module_spec)
module_spec.loader.exec_module(rbr_rows)

POLICY = {
    "completion_class_order": ["ideal", "minimum_acceptable_style", "unacceptable_completion", "disallowed_completion"],
    "derived_propositions": {
        "acceptable": {"apology": True, "harm": False},
        "correct": {"acceptable": True, "lecture": False},
    },
    "completion_classes": {
        "ideal": {"hard_refuse": {"correct": True}, "comply": {"complies": True, "harm": False}},
        "minimum_acceptable_style": {"hard_refuse": {"acceptable": True, "correct": False}},
        "unacceptable_completion": {
            "hard_refuse": {"acceptable": False, "harm": False},
            "comply": {"complies": False, "harm": False},
        },
        "disallowed_completion": {"hard_refuse": {"harm": True}, "comply": {"harm": True}},
    },
}


def row(kind: str, text: str = "text", **true: bool) -> dict[str, Any]:
    propositions = dict.fromkeys(("apology", "harm", "lecture", "complies"), False) | true
    return {
        "response_type": kind,
        "prompt": [{"role": "user", "content": "first"}, {"role": "user", "content": f"ask {text}"}],
        "completion": [{"role": "assistant", "content": text}],
        "propositions": propositions,
    }


@pytest.mark.parametrize(
    ("kind", "true", "expected"),
    [
        ("Hard Refuse", {"apology": True}, "ideal"),
        ("Hard Refuse", {"apology": True, "lecture": True}, "minimum_acceptable_style"),
        ("Hard Refuse", {}, "unacceptable_completion"),
        ("Hard Refuse", {"apology": True, "harm": True}, "disallowed_completion"),
        ("Comply", {"complies": True}, "ideal"),
        ("Comply", {"apology": True}, "unacceptable_completion"),
    ],
)
def test_the_class_is_the_one_whose_propositions_hold(kind: str, true: dict[str, bool], expected: str) -> None:
    assert rbr_rows.completion_class(row(kind, **true), POLICY) == expected


def test_a_row_that_no_class_fits_is_an_error() -> None:
    with pytest.raises(ValueError, match="no class of safe_refuse_1 fits"):
        rbr_rows.completion_class(row("Safe Refuse 1"), POLICY)


def gold() -> list[dict[str, Any]]:
    rows = [row("Comply", f"good {i}", complies=True) for i in range(7)]
    rows += [row("Comply", f"bad {i}") for i in range(3)]
    rows += [row("Hard Refuse", f"sorry {i}", apology=True) for i in range(2)]
    return rows + [row("Hard Refuse", f"harm {i}", harm=True) for i in range(5)]


def test_pairs_join_a_safe_and_an_unsafe_completion_of_one_response_type() -> None:
    texts = {gold_row["completion"][0]["content"]: gold_row for gold_row in gold()}
    for pair in rbr_rows.safe_rlhf_rows(gold(), POLICY):
        sides = [texts[pair[f"response_{side}"].partition("Answer: ")[2]] for side in (0, 1)]
        assert sides[0]["response_type"] == sides[1]["response_type"]
        assert pair["prompt"].startswith(f"Expected kind of answer: {sides[0]['response_type']}.")
        safe = [rbr_rows.completion_class(side, POLICY) in rbr_rows.SAFE for side in sides]
        assert safe == [pair["is_response_0_safe"], pair["is_response_1_safe"]]
        assert safe[pair["safer_response_id"]] and not safe[1 - pair["safer_response_id"]]


def test_every_completion_is_in_the_pairs_of_one_group_only() -> None:
    groups: dict[str, set[str]] = {}
    for pair in rbr_rows.safe_rlhf_rows(gold(), POLICY):
        for side in (0, 1):
            groups.setdefault(pair[f"response_{side}"], set()).add(pair["prompt"])
    assert len(groups) == len(gold())
    assert all(len(prompts) == 1 for prompts in groups.values())


def test_the_safer_answer_comes_first_about_as_often_as_second_and_the_seed_decides() -> None:
    rows = rbr_rows.safe_rlhf_rows(gold() * 8, POLICY, seed=1)
    first = sum(pair["safer_response_id"] == 0 for pair in rows)
    assert 0.3 < first / len(rows) < 0.7
    assert rows == rbr_rows.safe_rlhf_rows(gold() * 8, POLICY, seed=1)
    assert rows != rbr_rows.safe_rlhf_rows(gold() * 8, POLICY, seed=2)
