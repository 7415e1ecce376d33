"""Rows that would teach something else than they should: empty, repeated, or telling how they were made. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlhf_trainer.data.load import canonical
from rlhf_trainer.data.rows import Messages

EMPTY, IDENTICAL, REPEATED, LEAKED = "empty answer", "identical answers", "repeated row", "leaked phrase"
REASONS = (EMPTY, IDENTICAL, REPEATED, LEAKED)
"""In the order in which they are looked for."""
WORDS = 3
"""A phrase of so many words is told anywhere; a shorter one, which may be plain speech, in brackets only."""
_NOT_WORD = re.compile(r"[\W_]+")


def leaks(text: str, phrase: str) -> bool:
    """Whether an answer repeats the phrase that asked for it: in brackets, or its words one after the other."""
    if re.search(rf"[(\[]\s*{re.escape(phrase)}\s*[)\]]", text, re.IGNORECASE):
        return True
    words = _words(phrase)
    return len(words) >= WORDS and f" {' '.join(words)} " in f" {' '.join(_words(text))} "


def _words(text: str) -> list[str]:
    return [word for word in _NOT_WORD.split(text.casefold()) if word]


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
