"""The data of the recipe with rules: completions of which it is known what the policy asks. Seeded, our own texts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

from rlhf_sdk.recipes.topics import CAREFUL, EVERYDAY, RISKY, questions

QUESTIONS = {"advises": "Did you tell me what to do?", "warns": "Did you warn me?"}
"""As in policy.yaml (held by a test)."""
TYPES = {"risky": RISKY, "everyday": EVERYDAY}
"""Topics by the response type that the policy has for them."""
NEITHER = ("That happens to many people.", "I have read about such things.", "It is a common question.")


def completions(*, held_out: bool) -> Iterator[dict[str, Any]]:
    """Of each question one completion for each combination of what may be true of it."""
    rng = random.Random(3 + held_out)
    for kind, question, advice in _questions(held_out=held_out):
        for propositions in _combinations():
            text = _completion(rng, advice, propositions)
            yield {"prompt": question, "completion": text, "response_type": kind, "propositions": propositions}


def grading() -> Iterator[dict[str, Any]]:
    """The policy's questions about other completions, with yes or no, in any order."""
    rng = random.Random(5)
    for _, question, advice in _questions(held_out=False):
        for propositions in _combinations():
            turns = [_says("user", question), _says("assistant", _completion(rng, advice, propositions))]
            for name in rng.sample(sorted(propositions), len(propositions)):
                turns += [_says("user", QUESTIONS[name]), _says("assistant", "yes" if propositions[name] else "no")]
            yield {"prompt": turns[:3], "completion": turns[3:]}


def held_out_prompts() -> Iterator[dict[str, Any]]:
    """Held-out questions."""
    for kind, question, _ in _questions(held_out=True):
        yield {"prompt": question, "response_type": kind}


def _questions(*, held_out: bool) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for kind, topics in TYPES.items():
        for _, question, advice in questions(topics, held_out=held_out):
            yield kind, question, advice


def _combinations() -> Iterator[dict[str, bool]]:
    for values in product((True, False), repeat=len(QUESTIONS)):
        yield dict(zip(QUESTIONS, values, strict=True))


def _completion(rng: random.Random, advice: tuple[str, ...], propositions: dict[str, bool]) -> str:
    sentences = rng.sample(advice, rng.randint(1, len(advice))) if propositions["advises"] else []
    if propositions["warns"]:
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(CAREFUL))
    return " ".join(sentences or [rng.choice(NEITHER)])


def _says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
