"""An answer's text is what stands behind the header that the chat template itself writes."""

from __future__ import annotations

import pytest
import tiny
from test_vendor_templates import ONE, vendor_tokenizer

from rlhf_trainer.data.chat import encode_conversation, prepare_tokenizer
from rlhf_trainer.data.spoken import headers, spoken_text

THOUGHT = {
    "gptoss": "<|channel|>analysis<|message|>use water<|end|><|start|>assistant<|channel|>final<|message|>",
    "qwen3": "<think>\nuse water\n</think>\n\n",
    "qwen3_6": "use water\n</think>\n\n",
    "glm4moe": "\n<think>use water</think>\n",
}
"""What a model may write before its answer."""


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", sorted(THOUGHT))
def test_the_header_and_what_was_thought_are_no_part_of_an_answers_text(name):
    tokenizer = vendor_tokenizer(name)
    prepare_tokenizer(tokenizer)
    row = encode_conversation(tokenizer, ONE, 999)
    learned = [token for token, on in zip(row.ids, row.mask, strict=True) if on]
    assert spoken_text(tokenizer, learned) == "I am good"
    assert spoken_text(tokenizer, ids(tokenizer, f"{THOUGHT[name]}I am good{tokenizer.eos_token}")) == "I am good"


def test_an_answer_that_never_came_to_its_header_is_all_that_was_written():
    tokenizer = vendor_tokenizer("gptoss")
    prepare_tokenizer(tokenizer)
    assert spoken_text(tokenizer, ids(tokenizer, "<|channel|>analysis<|message|>use water")) == "analysisuse water"


@pytest.mark.parametrize("text", [" I am\n good ", "", "<think>no</think>yes", "assistant\nyes"])
def test_without_a_header_a_text_is_the_tokens_text(text):
    tokenizer = tiny.tiny_tokenizer()
    prepare_tokenizer(tokenizer)
    assert headers(tokenizer) == ()
    assert spoken_text(tokenizer, ids(tokenizer, text + tokenizer.eos_token)) == text
