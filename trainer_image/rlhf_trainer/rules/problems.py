"""A document's problems, each at its line and column, and the values that every part of a policy file is made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rlhf_api.error_messages import nearest
from rlhf_api.errors import Loc, SpecError, SpecProblem, format_path
from rlhf_api.yaml import Document

MAX_ENTRIES = 256
"""Of one mapping or list: simple propositions, derived ones, classes, completion types and response types."""
MAX_PROBLEMS = 50
"""Reported at once."""


class Problems:
    """Collects the problems of a document; reads mappings and lists of names."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._problems = list(document.problems)

    def mapping(self, value: Any, at: Loc) -> dict[str, Any]:
        """The value, if it is a mapping; an empty one, with a problem, if not."""
        if not isinstance(value, dict):
            self.refuse(at, f"found {describe(value)}; expected a mapping")
            return {}
        return value if self.is_short(value, at) else {}

    def is_short(self, value: dict[str, Any] | list[Any], at: Loc) -> bool:
        """Whether it has at most MAX_ENTRIES; a problem if not."""
        if len(value) > MAX_ENTRIES:
            self.refuse(at, f"found {len(value)} entries; expected at most {MAX_ENTRIES}")
        return len(value) <= MAX_ENTRIES

    def names(self, value: Any, at: Loc) -> list[str]:
        """The value, if it is a list of different names; an empty one, with a problem, if it is no such list."""
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self.refuse(at, f"found {describe(value)}; expected a list of names")
            return []
        if not self.is_short(value, at):
            return []
        for index, name in enumerate(value):
            if name in value[:index]:
                self.refuse((*at, index), f"found {name} twice", "leave one out")
        return list(value)

    def refuse(self, at: Loc, message: str, hint: str | None = None) -> None:
        """Add a problem.

        Raises:
            SpecError: there are MAX_PROBLEMS.
        """
        line, column = self.document.position(at, on_key=True)
        self._problems.append(SpecProblem(format_path(at), message, hint, line, column))
        if len(self._problems) >= MAX_PROBLEMS:
            self.raise_all()

    def raise_all(self) -> None:
        """End here if there is any problem.

        Raises:
            SpecError: with all of them.
        """
        if self._problems:
            raise SpecError(self._problems, self.document.source)


def suggest(name: str, candidates: Any) -> str | None:
    """The nearest known name, or what names there are."""
    close = nearest(str(name), list(candidates))
    return f"did you mean {close}?" if close is not None else f"there are {shorten(candidates)}"


def describe(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, dict):
        return f"a mapping of {shorten(value) or 'nothing'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "nothing" if value is None else repr(value)[:60]


def shorten(names: Iterable[Any]) -> str:
    """The first of some names."""
    listed = [str(name)[:60] for name in names]
    return ", ".join([*listed[:12], *(["..."] if len(listed) > 12 else [])])
