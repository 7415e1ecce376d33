"""Validation errors in words."""

from __future__ import annotations

from pydantic import ValidationError


def in_words(error: ValidationError) -> str:
    """Every complaint of a validation as `path: message`, joined by `; `."""
    return "; ".join(
        ".".join(str(part) for part in problem["loc"]) + f": {problem['msg']}" for problem in error.errors()
    )
