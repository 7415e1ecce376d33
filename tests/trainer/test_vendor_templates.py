"""Chat templates of current vendors (the wheel `trl` ships about 70): what a row learns is what they render."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
from transformers import AddedToken

from rlhf_trainer.data.chat import encode_conversation, encode_prompt, encode_row, prepare_tokenizer
from rlhf_trainer.data.template import TemplateProblem

FOLDER = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
TOKENS = re.compile(r"<\|?[｜A-Za-z_/▁0-9]+\|?>|<｜[^｜]+｜>|\[/?[A-Z_]+\]|</?s>")
PLAIN = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Tokens that vendors add to the vocabulary, but not as special ones."""
ENDS = {
    "gptoss": "<|return|>",
    "glm4moe": "<|endoftext|>",
    "gemma4": "<turn|>",
    "diffusion_gemma": "<turn|>",
    "gemma": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "phi3": "<|end|>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "muse": "<|eot|>",
}
THINKS_FIRST = {name for name in NAMES if name.startswith(("deepseek", "nemotron"))}
"""Their generation prompt opens a thought that their rendering of an answer without one does not have."""
PARTS_ONLY = {name for name in NAMES if name.startswith(("idefics3", "llava", "smolvlm"))}
"""They take lists of parts, not texts: of models for pictures."""
NO_SYSTEM = {"gemma", "gemma_training"}


def vendor_tokenizer(name):
    """A byte-level tokenizer that knows the tokens of a template, with the vendor's EOS."""
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    end = next((end for start, end in ENDS.items() if name.startswith(start)), "<|im_end|>")
    special = [*sorted(set(TOKENS.findall(tokenizer.chat_template)) - set(PLAIN)), end, "<bos>"]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN])
    tokenizer.eos_token, tokenizer.bos_token = end, "<bos>"
    return tokenizer


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


ONE = [user("how are you"), assistant("I am good")]
TWO = [*ONE, user("why"), assistant("yes so")]
SYSTEM = [{"role": "system", "content": "be brief"}, *TWO]


def learned(tokenizer, row):
    return tokenizer.decode([token for token, on in zip(row.ids, row.mask, strict=True) if on])


def holds(tokenizer, messages):
    """The rule, for one dialogue."""
    row = encode_conversation(tokenizer, messages, 9999)
    rendered = tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]
    assert row.ids in (rendered[: len(row.ids)], [*rendered[: len(row.ids) - 1], tokenizer.eos_token_id])
    prompt = encode_prompt(tokenizer, messages[:-1])
    assert row.ids[: len(prompt)] == prompt  # as a rollout begins
    pair = encode_row(tokenizer, messages[:-1], messages[-1]["content"], 9999)
    assert (pair.ids, pair.mask) == (row.ids, [0] * len(prompt) + [1] * (len(row.ids) - len(prompt)))
    assert row.mask[len(prompt) :] == pair.mask[len(prompt) :]
    return row


@pytest.mark.parametrize("name", sorted(set(NAMES) - THINKS_FIRST - PARTS_ONLY))
def test_rows_are_the_templates_own_rendering_and_answers_are_found_in_it(name):
    tokenizer = vendor_tokenizer(name)
    prepare_tokenizer(tokenizer)
    short_row, long_row = holds(tokenizer, ONE), holds(tokenizer, TWO)
    end = tokenizer.eos_token
    first, last = learned(tokenizer, short_row), learned(tokenizer, long_row)
    assert "I am good" in first
    assert first.endswith(end)
    alone = first.replace("I am good", "yes so")  # whatever the template writes around it
    if long_row.skipped_turns:
        assert last == alone
    else:
        assert last in (first + alone, first.removesuffix(end) + alone)
    if name not in NO_SYSTEM:
        assert learned(tokenizer, holds(tokenizer, SYSTEM)) == last


@pytest.mark.parametrize("name", sorted(THINKS_FIRST | PARTS_ONLY))
def test_a_template_that_would_be_learned_otherwise_than_rolled_out_is_refused(name):
    tokenizer = vendor_tokenizer(name)
    with pytest.raises(TemplateProblem, match=r"is rolled out|does not write all|has no attribute 'text'"):
        prepare_tokenizer(tokenizer)
        encode_conversation(tokenizer, ONE, 9999)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gptoss", "<|channel|>final<|message|>I am good<|return|>"),
        ("qwen3", "<think>\n\n</think>\n\nI am good<|im_end|>"),
        ("qwen3_6", "\n</think>\n\nI am good<|im_end|>"),
        ("glm4moe", "\n<think></think>\nI am good<|endoftext|>"),
        ("muse_glimmer", " to=user<|message|>I am good<|eot|>"),
        ("cohere2", "I am good<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    ],
)
def test_what_stands_between_generation_prompt_and_answer_is_learned(name, text):
    tokenizer = vendor_tokenizer(name)
    prepare_tokenizer(tokenizer)
    assert learned(tokenizer, encode_conversation(tokenizer, ONE, 9999)) == text


def test_a_turn_without_an_end_gets_eos_at_the_rows_end_alone():
    tokenizer = vendor_tokenizer("glm4moe")
    prepare_tokenizer(tokenizer)
    row = encode_conversation(tokenizer, TWO, 9999)
    assert [index for index, token in enumerate(row.ids) if token == tokenizer.eos_token_id] == [len(row.ids) - 1]


TOOL = {"type": "function", "function": {"name": "look", "description": "looks", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"q": "rain"}}}
CALLING = [user("how is it"), assistant("", tool_calls=[CALL])]
CALLED = [*CALLING, {"role": "tool", "content": "no rain"}, assistant("it is dry")]


@pytest.mark.parametrize("name", ["qwen3", "qwen3_6", "glm4moe"])
def test_calls_of_tools_are_learned_and_tools_are_read(name):
    tokenizer = vendor_tokenizer(name)
    prepare_tokenizer(tokenizer)
    row = encode_conversation(tokenizer, CALLED, 9999, tools=[TOOL])
    text = tokenizer.decode(row.ids)
    assert "looks" in text
    assert "no rain" in text
    prompt = encode_prompt(tokenizer, CALLED[:-1], tools=[TOOL])
    assert row.ids[: len(prompt)] == prompt
    assert "it is dry" in learned(tokenizer, row)
    calling = learned(tokenizer, encode_conversation(tokenizer, CALLING, 9999, tools=[TOOL]))
    assert "look" in calling
    assert "rain" in calling


@pytest.mark.parametrize("name", ["qwen3", "qwen3_6", "glm4moe"])
def test_thoughts_are_learned(name):
    tokenizer = vendor_tokenizer(name)
    prepare_tokenizer(tokenizer)
    row = encode_conversation(tokenizer, [user("how"), assistant("I am good", reasoning_content="use water")], 9999)
    text = learned(tokenizer, row)
    assert text.index("use water") < text.index("</think>") < text.index("I am good")


@pytest.mark.parametrize(
    ("messages", "tools", "field"),
    [
        (CALLED, [], r"messages\[1\].tool_calls"),
        ([user("how"), assistant("dry", reasoning_content="so"), user("why")], [], r"messages\[1\].reasoning_content"),
        ([user("how")], [TOOL], "tools"),
    ],
)
def test_a_prompt_of_which_the_template_drops_a_field_is_refused(messages, tools, field):
    tokenizer = tiny.tiny_tokenizer()  # its template writes roles and contents alone
    prepare_tokenizer(tokenizer)
    with pytest.raises(TemplateProblem, match=field):
        encode_prompt(tokenizer, messages, tools=tools)


def test_a_tools_answer_that_the_template_drops_is_refused():
    tokenizer = tiny.tiny_tokenizer()
    prepare_tokenizer(tokenizer)
    tokenizer.chat_template = (
        "{% for message in messages if message['role'] != 'tool' %}{{ message['content'] + eos_token }}{% endfor %}"
    )
    with pytest.raises(TemplateProblem, match=r"messages\[1\].content"):
        encode_prompt(tokenizer, [user("how"), {"role": "tool", "content": "no rain"}])
