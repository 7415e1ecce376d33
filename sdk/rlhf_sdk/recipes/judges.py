"""Exact scores for answers, standing in for people: change them to what you want more or less of.

Each function takes the prompts (lists of messages) and the answers, and gives one number an answer.
"""

import re

CARE = re.compile(r"\b(doctor|nurse|pharmacist|professional|expert|emergency|careful(ly)?|safe(ly|ty)?|risk)\b", re.I)


def no_care(prompts: list[object], responses: list[str]) -> list[float]:
    """A cost: +1 for an answer without a word of care, -1 for one with."""
    del prompts  # the answer alone is judged
    return [-1.0 if CARE.search(response) else 1.0 for response in responses]


def distinct_words(prompts: list[object], responses: list[str]) -> list[float]:
    """A reward: distinct words, in tens."""
    del prompts
    return [len(set(re.findall(r"[a-z']+", response.lower()))) / 10 for response in responses]
