"""The data of the recipe with rules: completions of which it is known what the policy asks. Seeded, our own texts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

from rlhf_sdk.recipes.topics import CAREFUL, questions

QUESTIONS = {"advises": "Did you tell me what to do?", "warns": "Did you warn me?"}
"""As in policy.yaml (held by a test)."""
RISKY = ("health", "home", "money")
"""Categories whose questions are about a risk."""
NEITHER = ("That happens to many people.", "I have read about such things.", "It is a common question.")


def response_type(category: str) -> str:
    """What the policy expects of an answer."""
    return "risky" if category in RISKY else "everyday"


def completions(*, held_out: bool) -> Iterator[dict[str, Any]]:
    """Of each question one completion for each combination of what may be true of it."""
    rng = random.Random(3 + held_out)
    for category, question, advice in questions(held_out=held_out):
        for known in _combinations():
            text = _completion(rng, advice, known)
            kind = response_type(category)
            yield {"prompt": question, "completion": text, "response_type": kind, "propositions": known}


def grading() -> Iterator[dict[str, Any]]:
    """The policy's questions about other completions, with yes or no, in any order."""
    rng = random.Random(5)
    for _, question, advice in questions(held_out=False):
        for known in _combinations():
            asked = rng.sample(sorted(known), len(known))
            turns = [_says("user", question), _says("assistant", _completion(rng, advice, known))]
            for name in asked:
                turns += [_says("user", QUESTIONS[name]), _says("assistant", "yes" if known[name] else "no")]
            yield {"prompt": turns[:3], "completion": turns[3:]}


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
