"""What is wrong with a job: where, what was found, what was expected, how to mend it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from pydantic_core import PydanticCustomError

Loc = tuple[str | int, ...]
"""Where a value stands: keys and list indices from the root."""

FINDINGS = "rlhf_findings"
"""Type of the pydantic error that carries findings of our own rules."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def format_path(loc: Sequence[str | int]) -> str:
    """`spec.stages[2].ppo.kl.target`; keys that are no identifiers in brackets, as Kubernetes writes them."""
    text = ""
    for part in loc:
        if isinstance(part, int) or not _IDENTIFIER.fullmatch(part):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


@dataclass(frozen=True)
class Finding:
    """A broken rule, at a place relative to the model that states the rule."""

    at: Loc
    """Where, from that model on."""
    message: str
    """What was found and what was expected."""
    hint: str | None = None
    """How to mend it."""
    on_key: bool = False
    """Whether the key is wrong rather than its value."""

    def below(self, loc: Loc) -> Finding:
        """The same finding, seen from further up."""
        return Finding((*loc, *self.at), self.message, self.hint, self.on_key)


def refuse(findings: Iterable[Finding]) -> NoReturn:
    """Raise findings out of a pydantic validator; `rlhf_api.error_messages` takes them apart again."""
    collected = tuple(findings)
    text = "; ".join(
        f"{format_path(finding.at)}: {finding.message}" if finding.at else finding.message for finding in collected
    )
    # Pydantic formats the template, so the text goes in as a value: it may hold braces.
    raise PydanticCustomError(FINDINGS, "{text}", {"text": text, "findings": collected})


@dataclass(frozen=True)
class SpecProblem:
    """One thing wrong with a job."""

    path: str
    """`spec.stages[1].sft.epochs`; empty for the file as a whole."""
    message: str
    """What was found and what was expected."""
    hint: str | None = None
    """How to mend it."""
    line: int | None = None
    """From 1; None where the job did not come from a file."""
    column: int | None = None
    """From 1, in characters."""

    def render(self, source: str | None = None) -> str:
        """`job.yaml:23:7: spec.stages[1].sft.epochs: found ...; expected .... Hint.`"""
        position = ":".join(str(part) for part in (source, self.line, self.column) if part is not None)
        text = ": ".join(part for part in (position, self.path, self.message) if part)
        return f"{text} ({self.hint})" if self.hint else text


class SpecError(ValueError):
    """A job that is refused, with every problem found."""

    def __init__(self, problems: Sequence[SpecProblem], source: str | None = None) -> None:
        if not problems:
            raise ValueError("a SpecError needs at least one problem")
        self.problems = tuple(problems)
        self.source = source
        super().__init__("\n".join(problem.render(source) for problem in self.problems))
