"""Rows of every format become typed examples; malformed ones are named, useless ones counted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.data.columns import Malformed, Rejected
from rlhf_trainer.data.dialogues import parse_dialogue
from rlhf_trainer.data.formats import FORMATS, detect, renamed
from rlhf_trainer.data.rows import Where

HERE = Where("rows.jsonl", 1)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SAFE = {
    "prompt": "How do I light a fire?",
    "response_0": "Petrol.",
    "response_1": "With care.",
    "better_response_id": 0,
    "safer_response_id": 1,
    "is_response_0_safe": False,
    "is_response_1_safe": True,
}
HH = {
    "chosen": "\n\nHuman: Hi there\n\nAssistant: Hello.\n\nHuman: Who?\n\nAssistant: A helper.",
    "rejected": "\n\nHuman: Hi there\n\nAssistant: Hello.\n\nHuman: Who?\n\nAssistant: Nobody.",
}


def make(kind, use, row):
    return FORMATS[kind].maker(use)(row, HERE)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (SAFE, "safe-rlhf"),
        (HH, "hh-rlhf"),
        ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "preference"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "preference"),
        ({"prompt": "p", "chosen": "\n\nHuman: a", "rejected": "b"}, "preference"),
        ({"chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]}, "preference"),
        ({"prompt": "p", "completion": "c"}, "prompt-completion"),
        ({"prompt": "p", "category": "x"}, "prompt-only"),
        ({"messages": [user("p"), assistant("a")]}, "messages"),
        ({"question": "p"}, None),
    ],
)
def test_format_is_told_from_columns(row, expected):
    assert detect(row) == expected


def test_columns_are_renamed_to_the_formats_own():
    row = {"question": "p", "prompt": "another", "answer": "c"}
    assert renamed(row, {"prompt": "question", "completion": "answer"}) == {"prompt": "p", "completion": "c"}


def test_a_string_prompt_is_one_users_message():
    assert make("prompt-only", "prompts", {"prompt": "p"}).messages == (user("p"),)


def test_a_category_comes_with_the_prompt():
    assert make("prompt-only", "prompts", {"prompt": "p", "category": "arms"}).category == "arms"


class TestSafeRlhf:
    def test_pair_follows_better_response_id(self):
        pair = make("safe-rlhf", "pairs", SAFE)
        assert (pair.prompt, pair.better, pair.worse) == ((user(SAFE["prompt"]),), "Petrol.", "With care.")

    def test_safety_pair_follows_safer_response_id_with_a_sign_an_answer(self):
        pair = make("safe-rlhf", "safety pairs", SAFE)
        assert (pair.harmful, pair.safer, pair.harmful_sign, pair.safer_sign) == ("Petrol.", "With care.", 1, -1)

    @pytest.mark.parametrize(("safe", "sign"), [(True, -1), (False, 1)])
    def test_both_answers_may_have_the_same_label(self, safe, sign):
        row = SAFE | {"is_response_0_safe": safe, "is_response_1_safe": safe}
        pair = make("safe-rlhf", "safety pairs", row)
        assert (pair.harmful_sign, pair.safer_sign) == (sign, sign)

    def test_a_safer_answer_marked_unsafe_beside_a_safe_one_is_inconsistent(self):
        row = SAFE | {"is_response_0_safe": True, "is_response_1_safe": False}
        with pytest.raises(Rejected, match="inconsistent safety labels"):
            make("safe-rlhf", "safety pairs", row)

    def test_an_empty_answer_is_an_answer(self):
        assert make("safe-rlhf", "pairs", SAFE | {"response_0": ""}).better == ""

    @pytest.mark.parametrize("value", [2, True, "0", None, 0.5])
    def test_response_ids_are_0_or_1(self, value):
        with pytest.raises(Malformed, match=r"better_response_id: found .*, expected 0 or 1"):
            make("safe-rlhf", "pairs", SAFE | {"better_response_id": value})

    @pytest.mark.parametrize("value", [1, "true", None])
    def test_safety_labels_are_booleans(self, value):
        with pytest.raises(Malformed, match=r"is_response_0_safe: found .*, expected true or false"):
            make("safe-rlhf", "safety pairs", SAFE | {"is_response_0_safe": value})


class TestPreference:
    def test_an_explicit_prompt(self):
        pair = make("preference", "pairs", {"prompt": "p", "chosen": "a", "rejected": "b"})
        assert (pair.prompt, pair.better, pair.worse, pair.weight) == ((user("p"),), "a", "b", 1.0)

    def test_an_implicit_prompt_is_the_common_prefix_without_its_last_space(self):
        pair = make("preference", "pairs", {"chosen": "The sky is blue.", "rejected": "The sky is green."})
        assert (pair.prompt, pair.better, pair.worse) == ((user("The sky is"),), " blue.", " green.")

    def test_conversations_with_an_explicit_prompt(self):
        row = {"prompt": [user("p")], "chosen": [assistant("a")], "rejected": [assistant("b")]}
        pair = make("preference", "pairs", row)
        assert (pair.prompt, pair.better, pair.worse) == ((user("p"),), "a", "b")

    def test_conversations_with_an_implicit_prompt(self):
        start = [user("p"), assistant("q"), user("r")]
        pair = make("preference", "pairs", {"chosen": [*start, assistant("a")], "rejected": [*start, assistant("b")]})
        assert (pair.prompt, pair.better, pair.worse) == (tuple(start), "a", "b")

    def test_a_weight_is_a_soft_label(self):
        assert make("preference", "pairs", {"prompt": "p", "chosen": "a", "rejected": "b", "weight": 0.7}).weight == 0.7

    @pytest.mark.parametrize("weight", [1.5, -0.1, float("nan"), True, "1"])
    def test_a_weight_is_a_probability(self, weight):
        with pytest.raises(Malformed, match=r"weight: .*expected a probability"):
            make("preference", "pairs", {"prompt": "p", "chosen": "a", "rejected": "b", "weight": weight})

    def test_the_chosen_answer_can_be_imitated(self):
        conversation = make("preference", "conversations", {"prompt": "p", "chosen": "a", "rejected": "b"})
        assert conversation.messages == (user("p"), assistant("a"))

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"prompt": "p", "chosen": "a", "rejected": "a"}, "identical answers"),
            ({"chosen": "a", "rejected": "b"}, "no common prompt"),
            ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "no common prompt"),
            ({"prompt": " ", "chosen": "a", "rejected": "b"}, "empty prompt"),
            (
                {"chosen": [user("p"), assistant("a")], "rejected": [user("q"), assistant("b")]},
                "dialogues differ before the last answer",
            ),
            ({"chosen": [user("p")], "rejected": [user("q")]}, "dialogue does not end with an answer"),
        ],
    )
    def test_rows_that_teach_nothing_are_rejected(self, row, reason):
        with pytest.raises(Rejected, match=reason):
            make("preference", "pairs", row)

    def test_answers_of_two_kinds_are_malformed(self):
        with pytest.raises(Malformed, match="rejected: found 'b', expected the same kind"):
            make("preference", "pairs", {"prompt": "p", "chosen": [assistant("a")], "rejected": "b"})


class TestDialogues:
    def test_turns_come_without_the_blanks_around_them(self):
        pair = make("hh-rlhf", "pairs", HH)
        assert pair.prompt == (user("Hi there"), assistant("Hello."), user("Who?"))
        assert (pair.better, pair.worse) == ("A helper.", "Nobody.")

    def test_the_chosen_dialogue_is_the_conversation_and_its_start_the_prompt(self):
        assert make("hh-rlhf", "conversations", HH).messages[-1] == assistant("A helper.")
        assert make("hh-rlhf", "prompts", HH).messages[-1] == user("Who?")

    @pytest.mark.parametrize(
        ("chosen", "rejected", "reason"),
        [
            ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: c\n\nAssistant: d", "dialogues differ before"),
            ("\n\nHuman: a\n\nAssistant:", "\n\nHuman: a\n\nAssistant: d", "empty answer"),
            ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "\n\nHuman: a\n\nAssistant: d", "does not end with an answer"),
            ("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", "\n\nHuman: a\n\nAssistant: d", "two answers in a row"),
            ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: b ", "identical answers"),
        ],
    )
    def test_rows_that_teach_nothing_are_rejected(self, chosen, rejected, reason):
        with pytest.raises(Rejected, match=reason):
            make("hh-rlhf", "pairs", {"chosen": chosen, "rejected": rejected})

    def test_text_without_turns_is_malformed(self):
        with pytest.raises(Malformed, match=r"chosen: .*expected a dialogue"):
            make("hh-rlhf", "pairs", {"chosen": "a plain text", "rejected": HH["rejected"]})

    def test_a_name_inside_a_line_starts_no_turn(self):
        turns = parse_dialogue("\n\nHuman: the Human: said\nAssistant: no\n\nAssistant: I see", "chosen")
        assert turns == (user("the Human: said\nAssistant: no"), assistant("I see"))

    @given(st.lists(st.text("ab \n.", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=6))
    def test_written_turns_are_read_back(self, texts):
        names = ["Human", "Assistant"]
        text = "".join(f"\n\n{names[i % 2]}: {turn}" for i, turn in enumerate(texts))
        roles = ["user", "assistant"]
        assert parse_dialogue(text, "x") == tuple(
            {"role": roles[i % 2], "content": turn} for i, turn in enumerate(texts)
        )


class TestMessages:
    def test_turns_after_the_last_answer_are_left_out(self):
        row = {"messages": [user("a"), assistant("b"), user("c")]}
        assert make("messages", "conversations", row).messages == (user("a"), assistant("b"))

    def test_the_prompt_is_all_before_the_last_answer(self):
        row = {"messages": [user("a"), assistant("b"), user("c"), assistant("d")]}
        assert make("messages", "prompts", row).messages == (user("a"), assistant("b"), user("c"))

    def test_text_parts_are_joined(self):
        row = {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
        }
        assert make("messages", "prompts", row).messages == (user("ab"),)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([], "messages: found a list of 0"),
            ("text", "messages: found 'text'"),
            (["text"], r"messages\[0\]: found 'text', expected an object"),
            ([{"content": "a"}], r"messages\[0\].role: found null"),
            ([{"role": "user", "content": 3}], r"messages\[0\].content: found 3, expected a string"),
            ([{"role": "user", "content": [{"type": "image"}]}], r"messages\[0\].content: found a list of 1"),
            ([user("a")], "messages: found no assistant's message"),
        ],
    )
    def test_malformed_messages_are_named_by_place(self, value, message):
        with pytest.raises(Malformed, match=message):
            make("messages", "conversations", {"messages": value})

    def test_an_empty_last_answer_is_nothing_to_imitate(self):
        with pytest.raises(Rejected, match="empty answer"):
            make("messages", "conversations", {"messages": [user("a"), assistant(" ")]})


def test_prompt_and_completion_make_a_conversation():
    standard = make("prompt-completion", "conversations", {"prompt": "p", "completion": "c"})
    conversational = make("prompt-completion", "conversations", {"prompt": [user("p")], "completion": [assistant("c")]})
    assert standard.messages == conversational.messages == (user("p"), assistant("c"))


def test_of_graded_completions_only_the_best_are_imitated():
    row = {"prompt": "p", "completion": "c", "response_type": "comply", "rank": 0}
    assert make("prompt-completion", "conversations", row).messages[-1] == assistant("c")
    with pytest.raises(Rejected, match="completion of a lower rank"):
        make("prompt-completion", "conversations", row | {"rank": 2})


def test_answers_within_a_prompt_are_given_and_not_learned():
    dialogue = [user("a"), assistant("b"), user("c")]
    completed = make("prompt-completion", "conversations", {"prompt": dialogue, "completion": [assistant("d")]})
    chosen = {"prompt": dialogue, "chosen": [assistant("d")], "rejected": [assistant("e")]}
    assert completed.prompt_turns == make("preference", "conversations", chosen).prompt_turns == 3
    assert make("messages", "conversations", {"messages": [*dialogue, assistant("d")]}).prompt_turns == 0


def test_a_completion_without_an_answer_leaves_nothing_to_learn():
    dialogue = [user("a"), assistant("b"), user("c")]
    with pytest.raises(Malformed, match="completion: found no assistant's message"):
        make("prompt-completion", "conversations", {"prompt": dialogue, "completion": [user("d")]})


def test_a_prompt_does_not_end_with_an_answer():
    with pytest.raises(Malformed, match="prompt: found an assistant's message at its end"):
        make("prompt-only", "prompts", {"prompt": [user("a"), assistant("b")]})


@pytest.mark.parametrize("kind", ["prompt-only", "messages", "prompt-completion"])
def test_formats_without_two_answers_give_no_pairs(kind):
    assert FORMATS[kind].maker("pairs") is None


def test_only_safe_rlhf_rows_give_safety_pairs():
    assert [name for name, kind in FORMATS.items() if kind.maker("safety pairs")] == ["safe-rlhf"]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
    max_leaves=8,
)


@given(
    st.sampled_from(sorted(FORMATS)),
    st.sampled_from(["prompts", "conversations", "pairs", "safety pairs", "dialogues"]),
    st.dictionaries(
        st.sampled_from(
            [
                *(*SAFE, "chosen", "rejected", "messages", "completion", "category", "weight", "conversations"),
                *("instruction", "input", "output", "history", "system", "response", "is_safe"),
                *("response_0_severity_level", "response_0_harm_category", "rank", "turns"),
            ]
        ),
        ANY,
    ),
)
def test_whatever_a_row_holds_it_is_taken_malformed_or_rejected(kind, use, row):
    maker = FORMATS[kind].maker(use)
    if maker is None:
        return
    try:
        converted = maker(row, HERE)
    except (Malformed, Rejected) as reason:
        assert str(reason)
    else:
        assert converted.row == HERE


DOCUMENT = Path(__file__).parents[3] / "docs/data-formats.md"
EXAMPLES = [
    (heading, json.loads(line))
    for heading, block in re.findall(
        r"### `([a-z-]+)`\n(?:(?!###).)*?```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL
    )
    for line in block.splitlines()
]
USES = {
    "safe-rlhf": ["prompts", "pairs", "safety pairs"],
    "preference": ["prompts", "pairs", "conversations"],
    "hh-rlhf": ["prompts", "pairs", "conversations"],
    "prompt-completion": ["prompts", "conversations"],
    "messages": ["prompts", "conversations"],
    "alpaca": ["prompts", "conversations"],
    "prompt-only": ["prompts"],
    "turns": ["dialogues"],
}


def test_every_format_is_documented():
    assert {heading for heading, _ in EXAMPLES} == set(FORMATS) == set(USES)


@pytest.mark.parametrize(("heading", "row"), EXAMPLES)
def test_the_manuals_examples_are_what_it_says(heading, row):
    assert detect(row) == heading
    for use in USES[heading]:
        assert make(heading, use, row).row == HERE
    assert [use for use in ("conversations", "pairs", "safety pairs") if FORMATS[heading].maker(use)] == [
        use for use in ("conversations", "pairs", "safety pairs") if use in USES[heading]
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("comply", "comply"), (" Refuse ", "refuse"), ("safe", "comply"), ("unsafe", "refuse"), ("", None), (None, None)],
)
def test_what_a_prompt_expects(value, expected):
    assert make("prompt-only", "prompts", {"prompt": "p", "expect": value}).expect == expected
    assert make("messages", "prompts", {"messages": [user("p")], "expect": value}).expect == expected


@pytest.mark.parametrize("value", ["maybe", 1, True, ["refuse"]])
def test_an_expectation_that_is_neither_is_a_bad_row(value):
    with pytest.raises(Malformed, match=r"expect: found .*, expected comply or refuse"):
        make("prompt-only", "prompts", {"prompt": "p", "expect": value})
