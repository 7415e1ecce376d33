"""Loading rows for a stage: bad rows counted or refused, splits that never leak a prompt."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_api.fields import DataRef
from rlhf_api.job import Input
from rlhf_api.stage_file import StageInput
from rlhf_trainer.data.load import load_conversations, load_pairs, load_prompts, load_safety_pairs
from rlhf_trainer.data.rows import Conversation, Counts, Pair, Prompt, Where
from rlhf_trainer.data.splits import opening, split_by_prompt
from rlhf_trainer.exits import InputError
from rlhf_trainer.sources.cache import InputCache


class Files:
    """Inputs as stage.json lists them."""

    def __init__(self, folder):
        self.folder = folder
        self.entries = {}

    def add(self, name, rows, **fields):
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        entry = Input(name=name, source=path.name, **fields)
        self.entries[f"input:{name}"] = StageInput(path=str(path), digest="0" * 64, input=entry)
        return self

    def input(self, reference):
        return self.entries[reference.key]


def ref(name="rows", **fields):
    return [DataRef(input=name, **fields)]


def prompts(count):
    return [{"prompt": f"question {number}"} for number in range(count)]


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_rows_keep_their_order_and_place(files):
    rows, counts = load_prompts(files.add("rows", prompts(3)), ref())
    assert [row.messages[0]["content"] for row in rows] == ["question 0", "question 1", "question 2"]
    assert rows[2].row == Where("rows.jsonl", 3)
    assert counts.as_dict() == {"rows.read": 3, "rows.used": 3, "rows.bad": 0}


def test_several_inputs_follow_one_another(files):
    files.add("a", prompts(2)).add("b", [{"prompt": "other"}])
    rows, counts = load_prompts(files, [*ref("a"), *ref("b")])
    assert [row.row.file for row in rows] == ["a.jsonl", "a.jsonl", "b.jsonl"]
    assert counts.read == 3


def test_a_repeated_prompt_comes_once_and_is_counted(files):
    rows, counts = load_prompts(files.add("rows", [*prompts(2), {"prompt": "question 0 "}]), ref())
    assert [row.row.row for row in rows] == [1, 2]
    assert counts.as_dict() == {
        "rows.read": 3,
        "rows.used": 2,
        "rows.bad": 0,
        "rows.rejected.repeated_prompt": 1,
    }


class TestBadRows:
    def test_one_is_too_many_by_default(self, files):
        files.add("rows", [*prompts(3), {"prompt": 7}])
        with pytest.raises(InputError) as caught:
            load_prompts(files, ref())
        assert "rows: 1 of 4 rows are bad, more than maxBadRows 0 allows" in str(caught.value)
        assert "rows.jsonl:4: prompt: found 7, expected a string" in str(caught.value)

    @pytest.mark.parametrize(("share", "refused"), [(0.25, False), (0.24, True)])
    def test_up_to_the_share_they_are_counted(self, files, share, refused):
        files.add("rows", [*prompts(3), {"prompt": 7}], maxBadRows=share)
        if refused:
            with pytest.raises(InputError, match="1 of 4 rows are bad"):
                load_prompts(files, ref())
        else:
            rows, counts = load_prompts(files, ref())
            assert (len(rows), counts.bad, counts.used) == (3, 1, 3)

    def test_the_first_few_are_named(self, files):
        files.add("rows", [*prompts(1), *({"prompt": number} for number in range(9))])
        with pytest.raises(InputError) as caught:
            load_prompts(files, ref())
        assert [f"rows.jsonl:{row}:" in str(caught.value) for row in range(2, 11)] == [True] * 5 + [False] * 4

    def test_a_truncated_last_line_is_one(self, files):
        files.add("rows", [*prompts(1), '{"prompt": "cut of'])
        with pytest.raises(InputError, match=r"rows.jsonl:2: the last line is no whole JSON object"):
            load_prompts(files, ref())

    def test_rejected_rows_are_no_bad_rows(self, files):
        pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
        rows, counts = load_pairs(files.add("rows", [pair, pair | {"chosen": "b"}]), ref())
        assert len(rows) == 1
        assert counts.as_dict() == {
            "rows.read": 2,
            "rows.used": 1,
            "rows.bad": 0,
            "rows.rejected.identical_answers": 1,
        }

    def test_no_usable_row_is_an_error(self, files):
        files.add("rows", [{"prompt": "p", "chosen": "a", "rejected": "a"}])
        with pytest.raises(InputError, match="none of 1 rows can be used as pairs"):
            load_pairs(files, ref())

    def test_an_empty_file_is_an_error(self, files):
        with pytest.raises(InputError, match="holds no rows"):
            load_prompts(files.add("rows", []), ref())


SAFE = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0}


class TestColumns:
    def test_a_cost_model_needs_the_safety_columns(self, files):
        with pytest.raises(InputError) as caught:
            load_safety_pairs(files.add("rows", [SAFE | {"is_response_0_safe": True}]), ref())
        assert caught.value.code == 2
        assert "safety pairs of format safe-rlhf need the columns safer_response_id, is_response_1_safe" in str(
            caught.value
        )
        assert "rows.jsonl:1" in str(caught.value)

    def test_a_reward_model_does_not(self, files):
        rows, _ = load_pairs(files.add("rows", [SAFE]), ref())
        assert rows[0].better == "a"

    def test_other_formats_give_no_safety_pairs(self, files):
        with pytest.raises(
            InputError, match="rows of format preference give no safety pairs; expected one of: safe-rlhf"
        ):
            load_safety_pairs(files.add("rows", [{"prompt": "p", "chosen": "a", "rejected": "b"}]), ref())

    def test_unknown_columns_are_listed(self, files):
        with pytest.raises(
            InputError, match="no format has the columns answer, question; expected those of one of safe-rlhf"
        ):
            load_prompts(files.add("rows", [{"question": "q", "answer": "a"}]), ref())

    def test_renamed_columns_serve(self, files):
        files.add("rows", [{"question": "q", "answer": "a"}], columns={"prompt": "question", "completion": "answer"})
        rows, _ = load_conversations(files, ref())
        assert [message["content"] for message in rows[0].messages] == ["q", "a"]

    def test_a_given_format_is_held_to(self, files):
        files.add("rows", [{"prompt": "p", "completion": "c"}], format="preference")
        with pytest.raises(InputError, match="pairs of format preference need the columns chosen, rejected"):
            load_pairs(files, ref())


def test_limit_takes_the_first_rows_before_the_split(files):
    files.add("rows", prompts(50), heldout=0.5)
    first = {f"question {number}" for number in range(10)}
    train, _ = load_prompts(files, ref(limit=10, split="train"))
    heldout, _ = load_prompts(files, ref(limit=10, split="heldout"))
    assert {row.messages[0]["content"] for row in [*train, *heldout]} == first


def test_an_input_changed_since_prepare_is_refused(files, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/rows.jsonl").write_text('{"prompt": "a"}\n')
    cached = InputCache(tmp_path / "storage").take({"rows.jsonl": tmp_path / "source/rows.jsonl"})
    files.entries["input:rows"] = StageInput(path=str(cached.path), digest=cached.digest)
    assert len(load_prompts(files, ref())[0]) == 1
    (cached.path / "rows.jsonl").write_text('{"prompt": "another"}\n')
    with pytest.raises(InputError, match=r"input:rows: .*rows.jsonl was changed since prepare looked at it"):
        load_prompts(files, ref())


def test_an_empty_split_is_an_error(files):
    with pytest.raises(InputError, match=r"split 'heldout' is empty: 0 of 3 rows \(heldout is 0\)"):
        load_prompts(files.add("rows", prompts(3)), ref(split="heldout"))


def test_heldout_is_near_its_share_and_never_shares_a_prompt(files):
    files.add("rows", prompts(1000), heldout=0.2)
    train, _ = load_prompts(files, ref(split="train"))
    heldout, _ = load_prompts(files, ref(split="heldout"))
    everything, _ = load_prompts(files, ref())
    assert len(train) + len(heldout) == len(everything) == 1000
    assert 150 < len(heldout) < 250
    assert not {opening(row) for row in train} & {opening(row) for row in heldout}


def test_heldout_of_a_prompt_is_the_same_in_every_file_and_format(files):
    files.add("a", prompts(200), heldout=0.3)
    pairs = [{"prompt": f"question {n}", "chosen": "x", "rejected": "y"} for n in reversed(range(100))]
    files.add("b", pairs, heldout=0.3)
    heldout = {opening(row) for row in load_prompts(files, ref("a", split="heldout"))[0]}
    train = {opening(row) for row in load_pairs(files, ref("b", split="train"))[0]}
    assert not heldout & train


TEXTS = st.lists(st.sampled_from([f"q{number}" for number in range(12)]), max_size=40)


@given(TEXTS, st.floats(0, 1), st.integers(0, 5))
def test_split_by_prompt(texts, fraction, seed):
    rows = [
        Pair(({"role": "user", "content": text},), "a", "b", Where("f", number)) for number, text in enumerate(texts)
    ]
    train, heldout = split_by_prompt(rows, fraction, seed)
    assert Counter(row.row for row in [*train, *heldout]) == Counter(row.row for row in rows)
    assert [row.row.row for row in train] == sorted(row.row.row for row in train)
    assert not {opening(row) for row in train} & {opening(row) for row in heldout}
    distinct = len(set(texts))
    expected = min(math.ceil(fraction * distinct), distinct - 1) if fraction > 0 and distinct else 0
    assert len({opening(row) for row in heldout}) == expected


def test_split_by_prompt_follows_its_seed():
    rows = [Prompt(({"role": "user", "content": str(number)},), None, Where("f", number)) for number in range(100)]
    sides = [frozenset(row.row.row for row in split_by_prompt(rows, 0.2, seed)[1]) for seed in (0, 0, 1, 2)]
    assert sides[0] == sides[1]
    assert len(set(sides)) == 3


def test_a_dialogue_and_its_continuation_stay_on_one_side():
    start = ({"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"})
    longer = (*start, {"role": "user", "content": "more"}, {"role": "assistant", "content": "yes"})
    assert opening(Conversation(start, Where("f", 1))) == opening(Conversation(longer, Where("f", 2)))


def test_counts_add_up():
    first, second = Counts(3, 2, 1), Counts(5, 4, 0)
    second.rejected["empty answer"] = 1
    first.add(second)
    assert first.as_dict() == {"rows.read": 8, "rows.used": 6, "rows.bad": 1, "rows.rejected.empty_answer": 1}
