"""Which characters of a chat template's rendering an assistant writes: the template's own, never put together here.

A turn is learned as the template renders it when it is the last: what follows the generation prompt, so that a row has
the ids that a rollout is given and then writes, whatever the template puts between the two (a channel, an empty
thought). An earlier turn is learned where the template still renders it so as history; where it does not (thoughts are
dropped, gpt-oss' `<|end|>`), it is context. SFT, preferences and PTX all ask here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_trainer.data.rows import CALLS, THOUGHTS, Message, Tool, says_something
from rlhf_trainer.data.template import (
    STAND_IN,
    Guarded,
    TemplateProblem,
    Tokenizer,
    ids_of,
    render,
    special_tokens,
    template_file,
)

TOOL_ROLES = ("tool", "function")
MARKUP = re.compile(r"</?[\w|]+>|\n")
"""What a template may parse out of a text, or write anew."""
SEAM = 64
"""Characters on each side of a seam that are looked at; tokens are shorter."""


@dataclass(frozen=True)
class Turns:
    """A dialogue that ends with an answer, as its template writes it; stand-ins are still in place."""

    prompt: str
    """All before the last answer, generation prompt included: what a rollout is given."""
    answer: str
    """What a rollout writes after it, its end token included."""
    earlier: list[tuple[int, int]]
    """Characters of `prompt` that are learned, too: earlier answers with their end tokens."""
    rewritten: int = 0
    """Earlier answers that are not learned, as the template renders them differently once they are history."""
    silent: int = 0
    """Earlier answers that are not learned, as they say nothing."""


def turns_of(tokenizer: Tokenizer, guarded: Guarded, prompt_turns: int = 0) -> Turns:
    """The turns of a dialogue whose last message is the assistant's; the first `prompt_turns` messages are not learned.

    Raises:
        TemplateProblem: the template refuses the dialogue, drops some of it, or does not render the answer behind
            its own generation prompt.
    """
    messages = guarded.messages
    last = len(messages) - 1
    prompt, answer = _turn(tokenizer, guarded, last)
    _check_texts(tokenizer, guarded, prompt)
    check_fields(tokenizer, guarded, last)
    earlier: list[tuple[int, int]] = []
    rewritten = silent = 0
    for index in range(prompt_turns, last):
        message = messages[index]
        if message["role"] != "assistant" or not message.get("learned", True):
            continue
        if not says_something(message):
            silent += 1
            continue
        span = _span(tokenizer, guarded, index, prompt)
        if span is None:
            rewritten += 1
        else:
            earlier.append(span)
    return Turns(prompt, answer, earlier, rewritten, silent)


def _turn(tokenizer: Tokenizer, guarded: Guarded, index: int) -> tuple[str, str]:
    """(all before message `index`, what the assistant writes), as if it were the last."""
    before = render(tokenizer, guarded.messages[:index], generation=True, tools=guarded.tools)
    upto = render(tokenizer, guarded.messages[: index + 1], tools=guarded.tools)
    if not upto.startswith(before):
        common = next((i for i, (a, b) in enumerate(zip(before, upto, strict=False)) if a != b), len(upto))
        raise TemplateProblem(
            f"messages[{index}]: the chat template{template_file(tokenizer)} asks for an answer with "
            f"{before[common:][-40:]!r}, but writes this one behind {upto[:common][-40:]!r} without it, so that it "
            "would be learned otherwise than it is rolled out. Set inputs[].template.variables (such as "
            'enable_thinking: "false"), or give answers with their reasoning_content'
        )
    return before, _ended(tokenizer, guarded.messages[index], upto[len(before) :])


def _ended(tokenizer: Tokenizer, message: Message, rest: str) -> str:
    """What is written of a turn up to its end token; one without gets EOS."""
    text, eos, _ = rest.partition(tokenizer.eos_token)
    _check_last(tokenizer, message, text)
    if eos:
        return eos if not message["content"] and not text.strip() else text + eos  # an empty answer is EOS alone
    if not message["content"].endswith("\n"):
        text = text.rstrip("\n")
    ends = not message["content"].strip() and any(text.endswith(token) for token in special_tokens(tokenizer))
    return text if ends else text + str(tokenizer.eos_token)


def _span(tokenizer: Tokenizer, guarded: Guarded, index: int, prompt: str) -> tuple[int, int] | None:
    """Where `prompt` has the answer of message `index` as it was when it was the last; None where it has not."""
    try:
        before, answer = _turn(tokenizer, guarded, index)
    except TemplateProblem:
        return None
    for written in (answer, answer.removesuffix(tokenizer.eos_token)):  # an end that the template writes, or does not
        if written and prompt.startswith(before + written):
            return len(before), len(before) + len(written)
    return None


def _check_last(tokenizer: Tokenizer, message: Message, text: str) -> None:
    """Refuse an answer whose end is not in its turn."""
    words = _last_words(message["content"])
    if words and words not in text:
        raise TemplateProblem(
            f"the chat template{template_file(tokenizer)} does not write all of an assistant's text "
            f"({words[-40:]!r} is not in its turn)"
        )


def _check_texts(tokenizer: Tokenizer, guarded: Guarded, prompt: str) -> None:
    """Refuse a dialogue of which the template drops what the system or a user says."""
    for index, message in enumerate(guarded.messages):
        words = _last_words(message["content"])
        if message["role"] in ("system", "user") and words and words not in prompt:
            raise _dropped(tokenizer, index, "content")


def check_seam(tokenizer: Tokenizer, turns: Turns) -> None:
    """Refuse an answer whose beginning becomes one token with the end of its prompt: no rollout could write it so.

    Prompt and answer are tokenised apart, as they are rolled out. Their ids are those of the template's whole rendering
    unless a token spans the seam, which the texts beside it tell.

    Raises:
        TemplateProblem: shows the texts.
    """
    before = STAND_IN.split(turns.prompt[-SEAM:])[-1]
    behind = STAND_IN.split(turns.answer[:SEAM])[0]
    if not before or not behind:
        return
    apart = [*ids_of(tokenizer, before, after="\n"), *ids_of(tokenizer, behind, after="\n")]
    if apart != ids_of(tokenizer, before + behind, after="\n"):
        raise TemplateProblem(
            f"the answer begins with {behind[:8]!r}, which is one token with the end of its prompt, {before[-8:]!r}: "
            "expected an answer that a rollout could begin so (without blanks at its start, say)"
        )


def check_fields(tokenizer: Tokenizer, guarded: Guarded, answer_index: int) -> None:
    """Refuse a dialogue of which the template drops thoughts, calls, what a tool answers, or the tools.

    Args:
        tokenizer: with its template.
        guarded: the dialogue.
        answer_index: messages before the answer that is asked for.

    Raises:
        TemplateProblem: names the message and its field.
    """
    messages, tools = guarded.messages, guarded.tools
    for index, message in enumerate(messages):
        for key in (*THOUGHTS, *CALLS, *(["content"] if message["role"] in TOOL_ROLES else [])):
            if message.get(key) and _same_without(tokenizer, messages[: index + 1], key, tools):
                raise _dropped(tokenizer, index, key)
    before = messages[:answer_index]
    if tools and render(tokenizer, before, generation=True) == render(tokenizer, before, True, tools):
        raise TemplateProblem(f"tools: the chat template{template_file(tokenizer)} does not write them")


def _same_without(tokenizer: Tokenizer, messages: Sequence[Message], key: str, tools: Sequence[Tool]) -> bool:
    bare = {name: value for name, value in messages[-1].items() if name != key}
    if key == "content":
        bare[key] = ""
    return render(tokenizer, messages, tools=tools) == render(tokenizer, [*messages[:-1], bare], tools=tools)  # type: ignore[list-item]


def _dropped(tokenizer: Tokenizer, index: int, key: str) -> TemplateProblem:
    return TemplateProblem(
        f"messages[{index}].{key}: the chat template{template_file(tokenizer)} does not write it; expected a template "
        "that does, or rows without it"
    )


def _last_words(content: str) -> str:
    """The end of a text that any template writes as it is."""
    pieces = [piece.strip() for piece in MARKUP.split(content)]
    return next((piece for piece in reversed(pieces) if piece), "")
