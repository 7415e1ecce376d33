"""Parsed jobs, and what was computed from them: kept in memory as far as they are small together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import orjson

from rlhf_api.job import RLHFJob
from rlhf_api.load import parse_job
from rlhf_operator.reconcile.identity import ById

T = TypeVar("T")
R = TypeVar("R")

MOST_BYTES = 2**21
"""Of the specs of which the parsed jobs are kept: those of a thousand usual jobs. What is parsed takes up to 40 times as
much."""
MOST_RESULTS = 256
"""Plans and shapes of one job: it has at most 34 stages."""


class Memo(Generic[T]):
    """Values made from text, and what was computed from each: the most recent ones, bounded by the bytes of the text.

    Bounded by count alone, the largest values would fill the memory.

    Args:
        most_bytes: of all texts together; a text of more than an eighth of it is not kept.
        most_results: of one value.
    """

    def __init__(self, make: Callable[[bytes], T], most_bytes: int, most_results: int) -> None:
        self._make = make
        self._most_bytes, self._most_results = most_bytes, most_results
        self._values: OrderedDict[bytes, T] = OrderedDict()
        self._results: dict[ById[T], dict[Hashable, Any]] = {}
        self._bytes = 0

    def value(self, text: bytes) -> T:
        """The value of a text; the same object as long as it is kept."""
        if text in self._values:
            self._values.move_to_end(text)
            return self._values[text]
        value = self._make(text)
        if len(text) <= self._most_bytes // 8:
            self._values[text] = value
            self._results[ById(value)] = {}
            self._bytes += len(text)
        while self._bytes > self._most_bytes:
            oldest, evicted = self._values.popitem(last=False)
            self._bytes -= len(oldest)
            del self._results[ById(evicted)]
        return value

    def clear(self) -> None:
        """Forget everything, as a process that begins anew."""
        self._values.clear()
        self._results.clear()
        self._bytes = 0

    def result(self, value: T, name: Hashable, compute: Callable[[], R]) -> R:
        """What `compute` gives for a value, kept under a name as long as the value is."""
        results = self._results.get(ById(value))
        if results is None:
            return compute()
        if name not in results:
            if len(results) >= self._most_results:
                results.clear()
            results[name] = compute()
        result: R = results[name]
        return result


def _parsed(content: bytes) -> RLHFJob:
    return parse_job(orjson.loads(content))


JOBS = Memo(_parsed, MOST_BYTES, MOST_RESULTS)
"""Parsed jobs, and what was computed from them."""
