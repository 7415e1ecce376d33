"""Chat templates, rendered and tokenised: what stands around messages is the template's, what is in them is text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from rlhf_trainer.data.rows import Message
from rlhf_trainer.exits import InputError

Tokenizer = Any
"""A fast tokenizer of transformers (`PreTrainedTokenizerFast` and its kin)."""

OPEN, CLOSE = "\ue000", "\ue001"
STAND_IN = re.compile(f"{OPEN}(\\d+){CLOSE}")
"""Private-use characters around a number."""
SHOWN = 40
"""Characters of a first message by which its row can be found."""


class Turn(NamedTuple):
    """An assistant's turn as the template renders it, contents stood in for."""

    before: str
    """All before the answer, the generation prompt included."""
    answer: str
    """The answer's text up to its EOS; nothing where the message is empty."""
    done: str
    """All up to and with its EOS."""


def turn_of(tokenizer: Tokenizer, guarded: Guarded, index: int) -> Turn | None:
    """The turn of message `index`; None where the template writes what is before it otherwise once it is there."""
    content = guarded.messages[index]["content"]
    before = render(tokenizer, guarded.messages[:index], generation=True)
    after = render(tokenizer, guarded.messages[: index + 1])
    if not after.startswith(before):
        return None
    text, eos, _ = after[len(before) :].partition(tokenizer.eos_token)
    if not eos and not content.endswith("\n"):
        text = text.rstrip("\n")
    return Turn(before, text if content else "", before + text + eos)


@dataclass(frozen=True)
class Guarded:
    """Messages in which contents that spell out a special token are stood in for while the template is rendered."""

    messages: list[Message]
    contents: list[str]
    """What `OPEN i CLOSE` stands for."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, messages: Sequence[Message]) -> Guarded:
        """Stand in for what spells out a special token, or a stand-in."""
        specials = special_tokens(tokenizer)
        contents: list[str] = []
        guarded: list[Message] = []
        for message in messages:
            content = message["content"]
            if STAND_IN.search(content) or any(token in content for token in specials):
                contents.append(content)
                content = f"{OPEN}{len(contents) - 1}{CLOSE}"
            guarded.append({"role": message["role"], "content": content})
        return cls(guarded, contents)

    def text(self, rendered: str) -> str:
        """A rendering with the contents back in place."""
        return STAND_IN.sub(lambda found: self.contents[int(found[1])], rendered) if self.contents else rendered

    def ids(self, tokenizer: Tokenizer, rendered: str, after: str = "") -> list[int]:
        """Ids of a rendering that follows `after`: the template's special tokens parsed, those in contents not."""
        parts = STAND_IN.split(rendered) if self.contents else [rendered]  # template, number, template, ...
        ids = ids_of(tokenizer, parts[0], after=after)
        for number, text in zip(parts[1::2], parts[2::2], strict=True):
            ids += ids_of(tokenizer, self.contents[int(number)], after="\n", plain=True)
            ids += ids_of(tokenizer, text, after="\n")
        return ids


def render(tokenizer: Tokenizer, messages: Sequence[Message], generation: bool = False) -> str:
    """The template's text of messages, with the generation prompt where asked.

    Raises:
        InputError: the template refuses them: it takes no system turn, say, or the same role twice.
    """
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=generation
        )
    except (TemplateError, LookupError, TypeError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages) or "nobody"
        begins = messages[0]["content"][:SHOWN] if messages else ""
        raise InputError(
            f"the chat template cannot write messages of {roles} ({begins!r}): {error}. Give rows that it takes, or a "
            "model whose template takes them"
        ) from error
    return str(text)


def ids_of(tokenizer: Tokenizer, text: str, *, after: str = "", plain: bool = False) -> list[int]:
    """Ids of a text that follows another; `plain`: special tokens in it are not parsed.

    Some tokenizers put a space before every text (SentencePiece's dummy prefix): what follows has none, so there the
    ids are those of both texts less those of the first.
    """
    if not text:
        return []
    options = {"add_special_tokens": False, "split_special_tokens": plain}
    if after and _prefixes(tokenizer):
        first = tokenizer(after, add_special_tokens=False)["input_ids"]
        both = tokenizer(after + text, **options)["input_ids"]
        if both[: len(first)] == first:
            return list(both[len(first) :])
    return list(tokenizer(text, **options)["input_ids"])


@lru_cache(maxsize=8)
def _prefixes(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer puts something before a text's start."""
    line, both, alone = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("\n", "\na", "a"))
    return bool(both[: len(line)] == line and both[len(line) :] != alone)


def special_tokens(tokenizer: Tokenizer) -> frozenset[str]:
    """Every special token, as text."""
    return _special_tokens_of(tokenizer, len(tokenizer))


@lru_cache(maxsize=8)
def _special_tokens_of(tokenizer: Tokenizer, _size: int) -> frozenset[str]:
    """Every special token; asked again when one was added."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return frozenset(token for token in added | {str(token) for token in tokenizer.all_special_tokens} if token)
