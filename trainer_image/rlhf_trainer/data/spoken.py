"""The text of an answer: what stands behind the last header that the chat template itself writes before one.

A template may write a channel or a thought between its generation prompt and the answer, and a model learns to write it
so (`turns`). Judges, functions and simulated rows get the answer alone; the template writes its header again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from rlhf_trainer.data.rows import Message
from rlhf_trainer.data.template import TemplateProblem, Tokenizer, render, special_tokens

TAG = re.compile(r"<[^<>\s]+>")
"""Markup: what is a header cannot be a word that an answer may have, too."""
ASKED: Message = {"role": "user", "content": "a"}
THOUGHT, ANSWER = "5f0d", "5f0e"


def spoken_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The answer's text without special tokens; without the header and what was thought before it, where it has one."""
    answer = str(tokenizer.decode(ids, skip_special_tokens=False))
    ends = [answer.rfind(header) + len(header) for header in headers(tokenizer) if header in answer]
    if not ends:
        return str(tokenizer.decode(ids, skip_special_tokens=True))
    text = answer[max(ends) :].lstrip("\n")
    for token in special_tokens(tokenizer):
        text = text.replace(token, "")
    return text


def headers(tokenizer: Tokenizer) -> tuple[str, ...]:
    """What the template writes right before an answer, behind the generation prompt or a thought; blanks aside."""
    return _headers(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _headers(tokenizer: Tokenizer, _template: str) -> tuple[str, ...]:
    silent: Message = {"role": "assistant", "content": ANSWER}
    thinking: Message = {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}
    try:
        prompt = render(tokenizer, [ASKED], generation=True)
        answered = render(tokenizer, [ASKED, silent])
        thought = render(tokenizer, [ASKED, thinking])
    except TemplateProblem:  # of pictures' models, which take no texts: their rows are refused elsewhere
        return ()
    before = [answered.removeprefix(prompt)] if answered.startswith(prompt) else []
    before += thought.split(THOUGHT)[1:]
    texts = (text.partition(ANSWER)[0].strip() for text in before if ANSWER in text)
    return tuple(dict.fromkeys(text for text in texts if TAG.search(text)))
