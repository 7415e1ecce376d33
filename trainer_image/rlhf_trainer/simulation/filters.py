"""Rows that would teach something else than they should: empty, repeated, or telling how they were made. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlhf_trainer.data.rows import Messages
from rlhf_trainer.data.splits import canonical
from rlhf_trainer.evaluation.text import is_character, words

EMPTY, IDENTICAL, REPEATED, LEAKED = "empty answer", "identical answers", "repeated row", "leaked phrase"
REASONS = (EMPTY, IDENTICAL, REPEATED, LEAKED)
"""In the order in which they are looked for."""
WORDS, CHARACTERS = 3, 5
"""A phrase of so many words, or characters of a script without spaces, is told anywhere; a shorter one, which may be
plain speech, in brackets only."""


def leaks(text: str, phrase: str) -> bool:
    """Whether an answer repeats the phrase that asked for it: in brackets, or its words one after the other."""
    if re.search(rf"[(\[（［【〔「]\s*{re.escape(phrase)}\s*[)\]）］】〕」]", text, re.IGNORECASE):
        return True
    phrase_words = _without_punctuation(phrase)
    characters = sum(map(is_character, phrase_words))
    if (len(phrase_words) - characters) / WORDS + characters / CHARACTERS < 1:
        return False
    return f" {' '.join(phrase_words)} " in f" {' '.join(_without_punctuation(text))} "


def _without_punctuation(text: str) -> list[str]:
    return [word for word in words(text) if word[0].isalnum()]


class Filter:
    """Judges rows one after the other: what is repeated depends on those before."""

    def __init__(self) -> None:
        self._seen: set[tuple[bytes, frozenset[str]]] = set()

    def reason(self, prompt: Messages, answers: Sequence[str], phrases: Sequence[str]) -> str | None:
        """Why a row is dropped; None: it is kept.

        Args:
            prompt: without phrases.
            answers: of the row; two equal ones make no pair.
            phrases: all that were asked by, and that no answer may tell.
        """
        if not all(answer.strip() for answer in answers):
            return EMPTY
        if len(set(answers)) < len(answers):
            return IDENTICAL
        key = canonical(prompt), frozenset(answers)
        if key in self._seen:
            return REPEATED
        self._seen.add(key)
        if any(leaks(answer, phrase) for answer in answers for phrase in phrases):
            return LEAKED
        return None
