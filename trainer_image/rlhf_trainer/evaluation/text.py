"""Measures of answers as text: diversity, repetition, duplicates. Words, not a model's tokens, so that models with
different tokenizers compare. Where a script puts no spaces between words, every character counts as one."""

from __future__ import annotations

import bisect
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

_UNSPACED = (
    "\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff\uff66-\uff9d\U0001aff0-\U0001b16f"  # Hiragana, Katakana
    "\u3105-\u312f\u31a0-\u31bf"  # Bopomofo
    "\u0e00-\u0e4f\u0e5a-\u0e7f\u0e80-\u0ecf\u0eda-\u0eff"  # Thai, Lao
    "\u1000-\u103f\u104a-\u108f\u109a-\u109f\ua9e0-\ua9ef\ua9fa-\ua9ff\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17df\u17ea-\u17ff"  # Khmer
    "\u1950-\u19cf\u19da-\u19df\u1a20-\u1a7f\u1a8a-\u1a8f\u1a9a-\u1aaf\uaa80-\uaadf"  # Tai Le, New Tai Lue, Tai Tham, Tai Viet
)
"""Scripts without spaces between words: ideographs, kana, and those that UAX #14 breaks by dictionary (class SA);
without their digits, which stay together as a number."""
_JOINED = (
    "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code)).startswith("M"))
    + "\u0e33\u0eb3\uff9e\uff9f\u200c\u200d\U000e0100-\U000e01ef"
)
"""What belongs to the character before it: combining marks, AM vowels, half-width voicing marks, joiners (UAX #29)."""
_CHARACTER = rf"[{_UNSPACED}][{_JOINED}]*"
_WORD = re.compile(rf"{_CHARACTER}|(?:[^\W_{_UNSPACED}]+[{_JOINED}]*)+|[^\s\u200b][{_JOINED}]*")
_IN_UNSPACED = re.compile(_CHARACTER)
_SMOOTHING = 0.1
"""Matches given to an order that has none (Chen and Cherry 2014, method 1)."""

Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks; of scripts without spaces, single characters with their marks."""
    return _WORD.findall(unicodedata.normalize("NFC", text.casefold()))


def is_character(word: str) -> bool:
    """Whether one of `words` is a character of a script without spaces."""
    return _IN_UNSPACED.match(word) is not None


def ngrams(tokens: Sequence[str], order: int) -> list[Gram]:
    """All runs of `order` words, in order."""
    return [tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1)]


def distinct(texts: Iterable[str], order: int) -> float:
    """distinct-n (Li et al. 2016): different n-grams over all n-grams of all texts; NaN where there is none.

    It falls as the amount of text grows: compare only sets of like size.
    """
    different: set[Gram] = set()
    total = 0
    for text in texts:
        grams = ngrams(words(text), order)
        different.update(grams)
        total += len(grams)
    return len(different) / total if total else math.nan


def repetition(text: str, order: int = 4) -> float:
    """Share of an answer's n-grams that it already said: 1 - different / all (rep-n, Welleck et al. 2020); 0 where it
    has none."""
    grams = ngrams(words(text), order)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def duplicates(texts: Sequence[str]) -> list[bool]:
    """For each text, whether another one is the same character for character (surrounding space aside)."""
    stripped = [unicodedata.normalize("NFC", text).strip() for text in texts]
    counts = Counter(stripped)
    return [counts[text] > 1 for text in stripped]


def self_bleu(texts: Sequence[str], order: int = 4) -> float:
    """Mean BLEU of each text against all others as references (Zhu et al. 2018): 1 means all alike.

    Linear in the amount of text: of each n-gram the two largest counts are kept, so that leaving one text out needs no
    second count. Orders without a match are smoothed; texts without words are left out; NaN below two texts.
    """
    tokens = [text_words for text_words in map(words, texts) if text_words]
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


def _precision(counts: Counter[Gram], largest: dict[Gram, tuple[int, int, int]], index: int) -> float:
    matches = 0
    for gram, count in counts.items():
        first, who, second = largest[gram]
        matches += min(count, second if who == index else first)
    return (matches or _SMOOTHING) / sum(counts.values())


def _brevity(length: int, lengths: list[int]) -> float:
    """BLEU's brevity penalty against the closest length of the other texts, the shorter of two."""
    others = list(lengths)
    others.pop(bisect.bisect_left(others, length))
    position = bisect.bisect_left(others, length)
    near = others[max(0, position - 1) : position + 1]
    closest = min(near, key=lambda candidate: (abs(candidate - length), candidate))
    return 1.0 if length >= closest else math.exp(1 - closest / length)
