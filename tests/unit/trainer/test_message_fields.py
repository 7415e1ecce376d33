"""Fields of messages, and tools: carried to the template, or a bad row that names them; never dropped."""

from __future__ import annotations

import json

import pytest

from rlhf_api.job import Input
from rlhf_trainer.data.columns import Malformed, Rejected
from rlhf_trainer.data.conversion import Conversion
from rlhf_trainer.data.formats import FORMATS
from rlhf_trainer.data.rows import Where
from rlhf_trainer.data.splits import canonical

HERE = Where("rows.jsonl", 1)
CALL = {"type": "function", "function": {"name": "look", "arguments": {"q": "rain"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "dry"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": None}]}
RESULT = {"role": "tool", "content": "no rain", "name": "look", "tool_call_id": "1"}


def make(kind, use, row):
    return FORMATS[kind].maker(use)(row, HERE)


def conversation(*messages, **columns):
    return make("messages", "conversations", {"messages": list(messages), **columns})


def test_calls_their_results_and_tools_are_carried_without_nulls():
    row = conversation(USER, CALLING, RESULT, ANSWER, tools=[{**TOOL, "strict": None}])
    assert row.messages == (USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, RESULT, ANSWER)
    assert row.tools == (TOOL,)


def test_tools_and_calls_may_be_json_texts():
    calling = {**CALLING, "tool_calls": json.dumps([CALL])}
    row = conversation(USER, calling, tools=json.dumps([TOOL]))
    assert (row.messages[1]["tool_calls"], row.tools) == ([CALL], (TOOL,))


def test_an_answer_that_only_calls_is_learned():
    old = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}, "tool_calls": []}
    assert conversation(USER, CALLING).messages[-1]["tool_calls"] == [CALL]
    assert conversation(USER, old).messages[-1]["function_call"] == {"name": "look", "arguments": "{}"}


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_are_carried(key):
    assert conversation(USER, {**ANSWER, key: "so"}).messages[-1] == {**ANSWER, key: "so"}
    assert conversation(USER, {**ANSWER, key: None}).messages[-1] == ANSWER


def test_a_call_of_sharegpt_is_a_call():
    turns = [
        {"from": "human", "value": "hi"},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": "no rain"},
        {"from": "gpt", "value": "dry"},
    ]
    messages = make("messages", "conversations", {"conversations": turns, "tools": json.dumps([TOOL])}).messages
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1]["tool_calls"] == [CALL]


@pytest.mark.parametrize("off", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"weight": 1, "train": False}])
def test_an_answer_that_is_not_to_be_learned_is_read_only(off):
    messages = conversation(USER, {**ANSWER, **off}, USER, ANSWER, USER, {**ANSWER, **off}).messages
    assert messages == (USER, {**ANSWER, "learned": False}, USER, ANSWER)
    with pytest.raises(Rejected, match="no learned answer"):
        conversation(USER, {**ANSWER, **off})


def test_prompts_do_not_show_what_is_learned():
    row = {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]}
    assert make("messages", "prompts", row).messages == (USER, ANSWER, USER)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({**ANSWER, "weight": 0.5}, r"messages\[1\].weight: found 0.5, expected 1 or 0"),
        ({**ANSWER, "train": "no"}, r"messages\[1\].train"),
        ({**USER, "train": True}, r"messages\[1\].train: .* expected an assistant's message"),
        ({**ANSWER, "tool_calls": "look"}, r"messages\[1\].tool_calls: .* expected a list of objects"),
        ({**ANSWER, "tool_calls": [1]}, r"messages\[1\].tool_calls"),
        ({**ANSWER, "function_call": "look"}, r"messages\[1\].function_call"),
        ({**ANSWER, "reasoning_content": ["so"]}, r"messages\[1\].reasoning_content: .* expected a string"),
        ({**USER, "thinking": "so"}, r"messages\[1\].thinking: found one of the user's"),
        ({**ANSWER, "content": None, "tool_calls": []}, r"messages\[1\].content"),
        ({"from": "function_call", "value": "look"}, r"messages\[1\].value"),
    ],
)
def test_a_field_that_cannot_be_carried_is_a_bad_row(message, problem):
    with pytest.raises(Malformed, match=problem):
        conversation(USER, message, ANSWER)


def test_tools_of_another_type_are_a_bad_row():
    with pytest.raises(Malformed, match=r"tools: .* expected a list of objects"):
        conversation(USER, ANSWER, tools="look")


PAIR = {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "wet"}]}


@pytest.mark.parametrize("more", [{"tool_calls": [CALL]}, {"reasoning": "so"}, {"weight": 0}])
@pytest.mark.parametrize("prompt", [{}, {"prompt": "hi"}])
def test_an_answer_of_a_pair_is_text_alone(more, prompt):
    answers = [{**ANSWER, **more}] if prompt else [USER, {**ANSWER, **more}]
    rejected = [{**ANSWER, "content": "wet"}] if prompt else PAIR["rejected"]
    with pytest.raises(
        Malformed, match=r"chosen\.(tool_calls|reasoning|weight or train): .* expected an answer of text alone"
    ):
        make("preference", "pairs", {**prompt, "chosen": answers, "rejected": rejected})


@pytest.mark.parametrize(
    ("kind", "use", "row"),
    [
        ("preference", "pairs", PAIR),
        ("preference", "prompts", PAIR),
        ("preference", "conversations", PAIR),
        ("prompt-only", "prompts", {"prompt": "hi"}),
        ("prompt-completion", "conversations", {"prompt": "hi", "completion": "dry"}),
        ("alpaca", "conversations", {"instruction": "hi", "output": "dry"}),
    ],
)
def test_every_use_but_completions_has_the_tools(kind, use, row):
    assert make(kind, use, {**row, "tools": [TOOL]}).tools == (TOOL,)


def test_completions_for_rules_have_no_tools():
    row = {"prompt": "hi", "completion": "dry", "response_type": "comply", "rank": 0}
    assert make("prompt-completion", "completions", {**row, "tools": []}).answer == "dry"
    with pytest.raises(Malformed, match="tools: "):
        make("prompt-completion", "completions", {**row, "tools": [TOOL]})


def test_prompts_that_differ_in_a_field_or_in_tools_are_two():
    calling = {**ANSWER, "tool_calls": [CALL]}
    assert len({canonical((USER,)), canonical((USER,), (TOOL,)), canonical((ANSWER,)), canonical((calling,))}) == 4
    assert canonical((USER,)) == b'[["user","hi"]]'  # as ever: digests of rules hold it


def test_other_fields_of_messages_are_told_as_unused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [{**USER, "id": 7}, {**ANSWER, "id": 8, "lang": None}], "source": "x"}))
    conversion = Conversion("rows", Input(name="rows", source="rows.jsonl"), "conversations")
    assert len(list(conversion.rows(path))) == 1
    assert conversion.unused == {"source": 1, "messages[].id": 1}
