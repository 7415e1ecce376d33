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
        for known in _combinations():
            text = _completion(rng, advice, known)
            yield {"prompt": question, "completion": text, "response_type": kind, "propositions": known}


def grading() -> Iterator[dict[str, Any]]:
    """The policy's questions about other completions, with yes or no, in any order."""
    rng = random.Random(5)
    for _, question, advice in _questions(held_out=False):
        for known in _combinations():
            turns = [_says("user", question), _says("assistant", _completion(rng, advice, known))]
            for name in rng.sample(sorted(known), len(known)):
                turns += [_says("user", QUESTIONS[name]), _says("assistant", "yes" if known[name] else "no")]
            yield {"prompt": turns[:3], "completion": turns[3:]}


def asked() -> Iterator[dict[str, Any]]:
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


def _completion(rng: random.Random, advice: tuple[str, ...], known: dict[str, bool]) -> str:
    sentences = rng.sample(advice, rng.randint(1, len(advice))) if known["advises"] else []
    if known["warns"]:
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(CAREFUL))
    return " ".join(sentences or [rng.choice(NEITHER)])


def _says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
