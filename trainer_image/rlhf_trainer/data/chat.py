"""From messages to token ids, exactly as answers are rolled out: template, answer, EOS.

Four rules hold everywhere:

- ids are those of the chat template's own rendering, and the answers are found in them (`turns`);
- an answer ends with the template's end of turn, else with EOS; an empty one is EOS alone;
- PAD differs from EOS (`prepare_tokenizer`);
- text is text: a special token spelled out in a message is not parsed, so that no row can forge a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_api.template import Template
from rlhf_trainer.data.preamble import fix_template
from rlhf_trainer.data.rows import Message, Tool
from rlhf_trainer.data.template import Guarded, TemplateProblem, Tokenizer, ids_of, render, special_tokens, try_template
from rlhf_trainer.data.turns import Turns, check_fields, check_seam, turns_of

FALLBACK_TEMPLATE = (
    "{{ bos_token if bos_token else '' }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
"""Given to a tokenizer without a chat template (`User:`, its text, a blank line, `Assistant:`); saved with the product."""

PAD_CANDIDATES = (
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|vision_pad|>",
    "<|fim_pad|>",
    "<unk>",
    "[UNK]",
)
"""Tokens that may serve as PAD, in order; the first that exists and is neither EOS nor BOS is taken."""
ADDED_PAD = "<|rlhf_pad|>"
"""Added where none of them exists. The name tells that no base knew it: such a token is never predicted."""


@dataclass(frozen=True)
class Encoded:
    """A row of tokens."""

    ids: list[int]
    """Token ids, no padding."""
    mask: list[int]
    """1 where the loss (or the score's answer) is: assistant tokens with their EOS; 0 elsewhere."""
    cut_prompt: int = 0
    """Tokens cut from the start."""
    cut_answer: int = 0
    """Tokens cut from the end of the last answer; its EOS is kept, with mask 0 in a conversation."""
    skipped_turns: int = 0
    """Earlier assistant turns that carry no loss, as the template renders them differently once they are history."""
    silent_turns: int = 0
    """Earlier assistant turns that carry no loss, as they say nothing."""

    def __len__(self) -> int:
        return len(self.ids)


def prepare_tokenizer(tokenizer: Tokenizer, template: Template | None = None) -> list[str]:
    """Give a tokenizer a chat template, an EOS that ends its template's answers, and a PAD of its own. In place.

    Args:
        tokenizer: as loaded.
        template: what the job fixes of its chat template (`Input.template`).

    Returns:
        What was changed, in sentences; empty where nothing was.

    Raises:
        ValueError: there is no EOS token.
        TemplateProblem: the template takes too much time or memory, or cannot write a question and its answer.
    """
    notes = []
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no eos_token; expected one that ends an answer (tokenizer_config.json)")
    if not tokenizer.chat_template:
        tokenizer.chat_template = FALLBACK_TEMPLATE
        notes.append("the tokenizer has no chat template; one of 'User:' and 'Assistant:' lines is used")
    notes += fix_template(tokenizer, template)
    try_template(tokenizer)
    end = turn_end(tokenizer)
    if end is not None and end != tokenizer.eos_token:
        notes.append(f"the chat template ends an answer with {end!r}, which replaces {tokenizer.eos_token!r} as EOS")
        tokenizer.eos_token = end
    if ensure_pad(tokenizer):
        notes.append(f"no token could serve as PAD; {ADDED_PAD!r} was added to the vocabulary")
    tokenizer.padding_side = "right"
    return notes


def turn_end(tokenizer: Tokenizer) -> str | None:
    """The special token that the chat template puts after an answer; None where it puts no special token.

    Of several in a row (Cohere's `<|END_RESPONSE|><|END_OF_TURN_TOKEN|>`) EOS, where it is among them.
    """
    sentinel = "5f0e"
    rendered = render(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": sentinel}])
    rest = rendered.rpartition(sentinel)[2].lstrip()
    specials = sorted(special_tokens(tokenizer), key=len, reverse=True)
    ends = []
    while (end := next((token for token in specials if rest.startswith(token)), None)) is not None:
        ends.append(end)
        rest = rest.removeprefix(end)
    return tokenizer.eos_token if tokenizer.eos_token in ends else next(iter(ends), None)


def ensure_pad(tokenizer: Tokenizer) -> bool:
    """Make PAD differ from EOS: an existing special token where possible, else a new one. In place.

    Returns:
        Whether a token was added: the model's embeddings may then need a row more (`len(tokenizer)`).
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return False
    vocabulary = tokenizer.get_vocab()
    eos_and_bos = {tokenizer.eos_token, tokenizer.bos_token}
    for token in PAD_CANDIDATES:
        if token in vocabulary and token not in eos_and_bos:
            tokenizer.pad_token = token
            return False
    return bool(tokenizer.add_special_tokens({"pad_token": ADDED_PAD}))


def encode_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    max_tokens: int | None = None,
    tools: Sequence[Tool] = (),
    *,
    written: bool = False,
) -> list[int]:
    """Ids of a prompt through the chat template with the generation prompt; beyond `max_tokens` its start is cut.

    Raises:
        TemplateProblem: the template refuses the messages, or drops calls, thoughts or tools.
    """
    guarded, text = write_prompt(tokenizer, messages, tools, written=written)
    ids = guarded.ids(tokenizer, text)
    return ids if max_tokens is None else ids[-max_tokens:]


def write_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Tool] = (), *, written: bool = False
) -> tuple[Guarded, str]:
    """What the chat template makes of a prompt, with the generation prompt: all of `encode_prompt` that can be refused.

    Args:
        tokenizer: prepared.
        messages: of the prompt.
        tools: its tools.
        written: a model wrote some of the contents. Where the template refuses them it is shown stand-ins instead, and
            the ids are those of the contents in their place: hours of work do not end with one odd answer.

    Raises:
        TemplateProblem: as `encode_prompt`.
    """
    guarded = Guarded.of(tokenizer, messages, tools)
    check_fields(tokenizer, guarded, len(messages))
    try:
        return guarded, render(tokenizer, guarded.messages, generation=True, tools=guarded.tools)
    except TemplateProblem:
        if not written:
            raise
    guarded = Guarded.of(tokenizer, messages, tools, every=True)
    return guarded, render(tokenizer, guarded.messages, generation=True, tools=guarded.tools)


def write_turns(
    tokenizer: Tokenizer, messages: Sequence[Message], prompt_turns: int = 0, tools: Sequence[Tool] = ()
) -> tuple[Guarded, Turns]:
    """What the chat template makes of a dialogue: all of `encode_row` and `encode_conversation` that can be refused.

    Raises:
        TemplateProblem: as `turns_of`; or the ids of prompt and answer are not those of the whole rendering.
    """
    guarded = Guarded.of(tokenizer, messages, tools)
    turns = turns_of(tokenizer, guarded, prompt_turns)
    check_seam(tokenizer, turns)
    return guarded, turns


def encode_answer(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of an answer's text and EOS, without its template; special tokens in the text are plain text."""
    return [*ids_of(tokenizer, text, after="\n", plain=True), tokenizer.eos_token_id]


def encode_row(
    tokenizer: Tokenizer, prompt: Sequence[Message], answer: str, max_length: int, tools: Sequence[Tool] = ()
) -> Encoded:
    """Prompt, answer and EOS, as a reward or cost model takes them; the score sits at the last id, always EOS.

    The answer is as the template writes it (some put a space before it, or strip it), so that a model trained on
    conversations rolls out the same ids. The mask is 1 on the answer and its EOS, whatever was cut.

    Raises:
        TemplateProblem: as `turns_of`.
    """
    guarded, turns = write_turns(tokenizer, [*prompt, {"role": "assistant", "content": answer}], len(prompt), tools)
    written = guarded.ids(tokenizer, turns.answer, after="\n")
    return fit(guarded.ids(tokenizer, turns.prompt), written, max_length)


def fit(prompt: list[int], answer: list[int], max_length: int) -> Encoded:
    """Prompt and answer (its last id: EOS) within `max_length` tokens.

    The prompt loses its start first, down to a quarter of `max_length` (or its own length, if shorter); then the
    answer loses its end, EOS kept.
    """
    keep = min(len(prompt), max(1, max_length // 4))
    room = max_length - keep
    cut_answer = max(0, len(answer) - room)
    if cut_answer:
        answer = [*answer[: room - 1], answer[-1]]
    cut_prompt = max(0, len(prompt) + len(answer) - max_length)
    prompt = prompt[cut_prompt:]
    return Encoded([*prompt, *answer], [0] * len(prompt) + [1] * len(answer), cut_prompt, cut_answer)


def encode_conversation(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    max_length: int,
    prompt_turns: int = 0,
    tools: Sequence[Tool] = (),
) -> Encoded:
    """A dialogue with mask 1 on the assistant's tokens and their ends, but for the first `prompt_turns` messages.

    The ids are the template's own: of the prompt that a rollout would be given, then of what the template writes as
    the last answer. Earlier answers are found among the prompt's (`turns_of` says which carry loss).
    What follows the last answer's EOS in the template (a newline, say) is left out: a rollout ends at EOS.

    Raises:
        ValueError: the last message is not the assistant's.
        TemplateProblem: as `turns_of`.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise ValueError("a conversation must end with an assistant's message")
    guarded, turns = write_turns(tokenizer, messages, prompt_turns, tools)
    answer = guarded.ids(tokenizer, turns.answer, after="\n")
    history = guarded.ids(tokenizer, turns.prompt)
    fitted = fit(history, answer, max_length)
    mask = [0] * len(history)
    if turns.earlier:
        for index, token in enumerate(guarded.tokens(tokenizer, turns.prompt)):
            mask[index] = int(any(start <= token.start and token.end <= end for start, end in turns.earlier))
    mask = [*mask[fitted.cut_prompt :], *[1] * (len(fitted) - len(history) + fitted.cut_prompt)]
    if fitted.cut_answer:
        mask[-1] = 0  # the writer did not end here: EOS closes the row, but is not learned
    return Encoded(fitted.ids, mask, fitted.cut_prompt, fitted.cut_answer, turns.rewritten, turns.silent)


def same_tokenizer(first: Tokenizer, second: Tokenizer) -> str | None:
    """Why ids of one tokenizer mean something else to the other, in words; None where they mean the same.

    Vocabularies (with added tokens), EOS and a probe text's ids must agree; PAD and the template may differ.
    """
    a, b = first.get_vocab(), second.get_vocab()
    if a != b:
        differing = sorted(token for token in a.keys() | b.keys() if a.get(token) != b.get(token))
        shown = ", ".join(f"{token!r} {a.get(token)} / {b.get(token)}" for token in differing[:3])
        if differing != [ADDED_PAD]:
            return f"{len(differing)} tokens have another id or are missing ({shown})"
    if first.eos_token_id != second.eos_token_id:
        return f"EOS is {first.eos_token!r} ({first.eos_token_id}) / {second.eos_token!r} ({second.eos_token_id})"
    probe = "Naïve 2+2=4, isn't it?\n\n\tÜber-résumé 東京 🙂 don't"
    if ids_of(first, probe) != ids_of(second, probe):
        return "the same text becomes other tokens (normalisation or merges differ)"
    return None
