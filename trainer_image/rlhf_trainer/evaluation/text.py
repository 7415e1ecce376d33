"""Measures of answers as text: diversity, repetition, duplicates. Words, not a model's tokens, so that models with
different tokenizers compare."""

from __future__ import annotations

import bisect
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"\w+|[^\w\s]")
_SMOOTHING = 0.1
"""Matches given to an order that has none (Chen and Cherry 2014, method 1)."""

Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks."""
    return _WORD.findall(text.lower())


def ngrams(tokens: Sequence[str], order: int) -> list[Gram]:
    """All runs of `order` words, in order."""
    return [tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1)]


def distinct(texts: Iterable[str], order: int) -> float:
    """distinct-n (Li et al. 2016): different n-grams over all n-grams of all texts; NaN where there is none.

    It falls as the amount of text grows: compare only sets of like size.
    """
    seen: set[Gram] = set()
    total = 0
    for text in texts:
        found = ngrams(words(text), order)
        seen.update(found)
        total += len(found)
    return len(seen) / total if total else math.nan


def repetition(text: str, order: int = 4) -> float:
    """Share of an answer's n-grams that it already said: 1 - different / all (rep-n, Welleck et al. 2020); 0 where it
    has none."""
    found = ngrams(words(text), order)
    return 1 - len(set(found)) / len(found) if found else 0.0


def duplicates(texts: Sequence[str]) -> list[bool]:
    """For each text, whether another one is the same character for character (surrounding space aside)."""
    counts = Counter(text.strip() for text in texts)
    return [counts[text.strip()] > 1 for text in texts]


def self_bleu(texts: Sequence[str], order: int = 4) -> float:
    """Mean BLEU of each text against all others as references (Zhu et al. 2018): 1 means all alike.

    Linear in the amount of text: of each n-gram the two largest counts are kept, so that leaving one text out needs no
    second count. Orders without a match are smoothed; texts without words are left out; NaN below two texts.
    """
    tokens = [found for found in map(words, texts) if found]
    if len(tokens) < 2:
        return math.nan
    counts = [[Counter(ngrams(text, size)) for text in tokens] for size in range(1, order + 1)]
    largest = [_two_largest(level) for level in counts]
    lengths = sorted(len(text) for text in tokens)
    total = 0.0
    for index, text in enumerate(tokens):
        orders = min(order, len(text))
        precisions = [_precision(counts[level][index], largest[level], index) for level in range(orders)]
        total += _brevity(len(text), lengths) * math.exp(sum(map(math.log, precisions)) / orders)
    return total / len(tokens)


def _two_largest(level: list[Counter[Gram]]) -> dict[Gram, tuple[int, int, int]]:
    """Of each n-gram: the largest count, whose it is, and the largest count of any other text."""
    best: dict[Gram, tuple[int, int, int]] = {}
    for owner, counts in enumerate(level):
        for gram, count in counts.items():
            first, who, second = best.get(gram, (0, -1, 0))
            best[gram] = (count, owner, first) if count > first else (first, who, max(second, count))
    return best


def _precision(own: Counter[Gram], largest: dict[Gram, tuple[int, int, int]], index: int) -> float:
    matches = 0
    for gram, count in own.items():
        first, who, second = largest[gram]
        matches += min(count, second if who == index else first)
    return (matches or _SMOOTHING) / sum(own.values())


def _brevity(length: int, lengths: list[int]) -> float:
    """BLEU's brevity penalty against the closest length of the other texts, the shorter of two."""
    others = list(lengths)
    others.pop(bisect.bisect_left(others, length))
    place = bisect.bisect_left(others, length)
    near = others[max(0, place - 1) : place + 1]
    closest = min(near, key=lambda other: (abs(other - length), other))
    return 1.0 if length >= closest else math.exp(1 - closest / length)
