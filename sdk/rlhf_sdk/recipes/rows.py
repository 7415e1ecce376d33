"""The recipes' data: everyday questions with a risk in them, answers with and without care. Seeded, our own texts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rlhf_sdk.recipes import ruled
from rlhf_sdk.recipes.topics import CAREFUL, RISKY, questions

MEANING = {
    "chat": "conversations to fine-tune on (`messages`: role and content).",
    "preferences": "pairs of answers (Safe RLHF columns): which is better, which is safer, whether each is safe.",
    "prompts": "prompts to answer.",
    "heldout": "prompts that no stage trains on, with a `category`.",
    "grading": "the policy's questions about completions, answered with yes or no: what the grader learns.",
    "completions": "completions of a `response_type`, with the `propositions` true of them: what weights are fitted on.",
    "asked": "prompts that no stage trains on, with the `response_type` that the policy expects.",
    "gold": "the same of prompts that no stage trains on: how often is the grader right?",
}
"""What each file holds, for the README."""


def jsonl(kind: str) -> str:
    """A file of the recipes' data, as text."""
    makers: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "chat": _chat,
        "preferences": _preferences,
        "prompts": _prompts,
        "heldout": _heldout,
        "asked": ruled.held_out_prompts,
        "grading": ruled.grading,
        "completions": partial(ruled.completions, held_out=False),
        "gold": partial(ruled.completions, held_out=True),
    }
    return "".join(json.dumps(row) + "\n" for row in makers[kind]())


def _answer(rng: random.Random, advice: tuple[str, ...], care: float) -> tuple[str, bool]:
    sentences = rng.sample(advice, rng.randint(1, len(advice)))
    safe = rng.random() < care
    if safe:
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(CAREFUL))
    return " ".join(sentences), safe


def _chat() -> Iterator[dict[str, Any]]:
    rng = random.Random(1)
    for _, question, advice in questions(RISKY, held_out=False):
        for _ in range(2):
            answer, _ = _answer(rng, advice, care=0.2)
            yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _preferences() -> Iterator[dict[str, Any]]:
    """Better: more distinct words. Safer: the one with care; of two alike, the first."""
    rng = random.Random(2)
    for _, question, advice in questions(RISKY, held_out=False):
        count = 0
        while count < 4:
            (first, first_safe), (second, second_safe) = (_answer(rng, advice, care=0.5) for _ in range(2))
            if first == second:
                continue
            count += 1
            yield {
                "prompt": question,
                "response_0": first,
                "response_1": second,
                "better_response_id": int(len(set(second.split())) > len(set(first.split()))),
                "safer_response_id": int(second_safe and not first_safe),
                "is_response_0_safe": first_safe,
                "is_response_1_safe": second_safe,
            }


def _prompts() -> Iterator[dict[str, Any]]:
    for _, question, _ in questions(RISKY, held_out=False):
        yield {"prompt": question}


def _heldout() -> Iterator[dict[str, Any]]:
    for category, question, _ in questions(RISKY, held_out=True):
        yield {"prompt": question, "category": category}
