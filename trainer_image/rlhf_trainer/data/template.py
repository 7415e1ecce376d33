"""Chat templates, rendered and tokenised: what stands around messages is the template's, what is in them is text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_trainer.data.rows import Message, Tool
from rlhf_trainer.data.trial import problem_of
from rlhf_trainer.exits import InputError

Tokenizer = Any
"""A fast tokenizer of transformers (`PreTrainedTokenizerFast` and its kin)."""

OPEN, CLOSE = "\ue000", "\ue001"
STAND_IN = re.compile(f"{OPEN}(\\d+){CLOSE}")
"""Private-use characters around a number."""
SHOWN = 40
"""Characters of a first message by which its row can be found."""
REASON = 200
"""Characters of a template's own complaint that are shown."""
OURS = "learned"
"""The key of a message that is for training, not for the template."""


class TemplateProblem(InputError):
    """The chat template cannot write a dialogue, or not as it would be rolled out."""


class Token(NamedTuple):
    """A token and the characters of a rendering that it covers."""

    id: int
    start: int
    end: int


@dataclass(frozen=True)
class Guarded:
    """A dialogue in which texts that spell out a special token are stood in for while the template is rendered."""

    messages: list[Message]
    contents: list[str]
    """What `OPEN i CLOSE` stands for."""
    tools: tuple[Tool, ...] = ()

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Tool] = (), *, every: bool = False
    ) -> Guarded:
        """Stand in for what spells out a special token, or a stand-in: in contents, thoughts, calls and tools alike.

        Args:
            tokenizer: whose special tokens count.
            messages: of the dialogue.
            tools: its tools.
            every: stand in for every content, so that a template can refuse none.
        """
        specials = special_tokens(tokenizer)
        contents: list[str] = []

        def guard(value: Any, always: bool = False) -> Any:
            if isinstance(value, dict):
                return {
                    key: item if key == "role" else guard(item, every and key == "content")
                    for key, item in value.items()
                }
            if isinstance(value, list):
                return [guard(item) for item in value]
            if isinstance(value, str) and (
                always or STAND_IN.search(value) or any(token in value for token in specials)
            ):
                contents.append(value)
                return f"{OPEN}{len(contents) - 1}{CLOSE}"
            return value

        return cls([guard(message) for message in messages], contents, tuple(guard(tool) for tool in tools))

    def text(self, rendered: str) -> str:
        """A rendering with the contents back in place."""
        return STAND_IN.sub(lambda number: self.contents[int(number[1])], rendered) if self.contents else rendered

    def ids(self, tokenizer: Tokenizer, rendered: str, after: str = "") -> list[int]:
        """Ids of a rendering that follows `after`: the template's special tokens parsed, those in contents not."""
        parts = STAND_IN.split(rendered) if self.contents else [rendered]  # template, number, template, ...
        ids = ids_of(tokenizer, parts[0], after=after)
        for number, text in zip(parts[1::2], parts[2::2], strict=True):
            ids += ids_of(tokenizer, self.contents[int(number)], after="\n", plain=True)
            ids += ids_of(tokenizer, text, after="\n")
        return ids

    def tokens(self, tokenizer: Tokenizer, rendered: str) -> list[Token]:
        """The tokens of `ids`, each with its characters in `rendered`; a stand-in's tokens cover all of it."""
        if not self.contents:
            return tokens_of(tokenizer, rendered)
        tokens: list[Token] = []
        done = 0
        for stand_in in STAND_IN.finditer(rendered):
            first, end = stand_in.span()
            tokens += _moved(tokens_of(tokenizer, rendered[done:first], after="\n" if done else ""), done)
            content = ids_of(tokenizer, self.contents[int(stand_in[1])], after="\n", plain=True)
            tokens += [Token(token, first, end) for token in content]
            done = end
        return tokens + _moved(tokens_of(tokenizer, rendered[done:], after="\n" if done else ""), done)


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], generation: bool = False, tools: Sequence[Tool] = ()
) -> str:
    """The template's text of a dialogue, with the generation prompt where asked.

    Raises:
        TemplateProblem: the template refuses it (it takes no system turn, say, or the same role twice), or fails.
    """
    plain = [{key: value for key, value in message.items() if key != OURS} for message in messages]
    try:
        text = tokenizer.apply_chat_template(
            plain, tools=list(tools) or None, tokenize=False, add_generation_prompt=generation
        )
    except MemoryError as error:
        begins = messages[0]["content"][:SHOWN] if messages else ""
        raise TemplateProblem(
            f"the chat template{template_file(tokenizer)} takes too much memory to write what begins with {begins!r}"
        ) from error
    except Exception as error:  # a template is somebody else's program: it raises what it likes
        roles = ", ".join(message["role"] for message in messages) or "nobody"
        begins = messages[0]["content"][:SHOWN] if messages else ""
        raise TemplateProblem(
            f"the chat template{template_file(tokenizer)} cannot write messages of {roles} ({begins!r}): "
            f"{reason_of(error)}. Give rows that it takes, or a model whose template takes them{_hint(roles, error)}"
        ) from error
    if not str(text).isascii() and any("\ud800" <= letter <= "\udfff" for letter in str(text)):
        raise TemplateProblem(f"the chat template{template_file(tokenizer)} writes what is no text (half a character)")
    return str(text)


def try_template(tokenizer: Tokenizer) -> None:
    """Render the tokenizer's templates once where they can do no harm.

    Raises:
        TemplateProblem: one takes too much time or memory.
    """
    templates = tokenizer.chat_template
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        problem = problem_of(str(template), {name: str(token) for name, token in tokenizer.special_tokens_map.items()})
        if problem is not None:
            raise TemplateProblem(f"the chat template{template_file(tokenizer)} {problem}; expected one that ends soon")


def template_file(tokenizer: Tokenizer) -> str:
    """` (chat_template.jinja)`: the file of the model that holds its template; nothing where there is none."""
    folder = Path(str(getattr(tokenizer, "name_or_path", "") or ""))
    names = ("chat_template.jinja", "tokenizer_config.json")
    return next((f" ({name})" for name in names if str(folder) != "." and (folder / name).is_file()), "")


def reason_of(error: Exception) -> str:
    """An exception's first words, printable and short."""
    text = str(error) or type(error).__name__
    return "".join(letter if letter.isprintable() else " " for letter in text[:REASON]).strip()


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


def tokens_of(tokenizer: Tokenizer, text: str, *, after: str = "") -> list[Token]:
    """The tokens of `ids_of`, special tokens parsed, each with its characters in `text`."""
    if not text:
        return []
    options = {"add_special_tokens": False, "return_offsets_mapping": True}
    if after and _prefixes(tokenizer):
        first = tokenizer(after, add_special_tokens=False)["input_ids"]
        both = tokenizer(after + text, **options)
        if both["input_ids"][: len(first)] == first:
            return _moved(_tokens(both)[len(first) :], -len(after))
    return _tokens(tokenizer(text, **options))


def _tokens(encoding: Any) -> list[Token]:
    pairs = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
    return [Token(token, start, end) for token, (start, end) in pairs]


def _moved(tokens: Sequence[Token], by: int) -> list[Token]:
    return [Token(token.id, token.start + by, token.end + by) for token in tokens]


def _hint(roles: str, error: Exception) -> str:
    """What often helps."""
    system = roles.startswith("system") and re.search(r"system|alternate", str(error), re.IGNORECASE)
    return "; inputs[].template.systemRole: fold writes a system's text into the user's turn" if system else ""


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
