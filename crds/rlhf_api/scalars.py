"""Plain YAML scalars by the 1.2 core schema, and those that YAML 1.1 readers (kubectl among them) read otherwise."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

Value = str | int | float | bool | None

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_BOOL_11 = {
    word: word[0] in "yYoO" and word.lower() != "off"
    for base in ("y", "n", "yes", "no", "on", "off")
    for word in (base, base.capitalize(), base.upper())
}
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_BASE = re.compile(r"[-+]?0[bBoO][-+]?[0-9]+|[-+]0[xX][0-9a-fA-F]+|0X[0-9a-fA-F]+")
_SIXTY = re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?")

UNRENDERED = re.compile(r"\{\{|\{%")
RENDER = "where a template's {{ }} was left in, render it first (helm template, say)"
"""What to do about it."""


@dataclass(frozen=True)
class Ambiguous:
    """Why a plain scalar is refused, and what to write."""

    message: str
    hint: str


def resolve(text: str) -> Value | Ambiguous:
    """The value of a plain scalar, or why it has none that all readers agree on.

    A whole number written as a float (`3.0`, `1e3`) becomes an int, as it does on its way through kubectl.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    ambiguous = _ambiguous(text)
    if ambiguous is not None:
        return ambiguous
    if _INT.fullmatch(text) or _HEX.fullmatch(text):
        return _whole(text)
    if _FLOAT.fullmatch(text):
        return _real(text)
    if _NOT_FINITE.fullmatch(text):
        return Ambiguous(f"{text} is no number that JSON can carry", "write a finite number")
    return text


def _ambiguous(text: str) -> Ambiguous | None:
    """What YAML 1.1 and 1.2 disagree about. Order matters: the first rule that fits names the reason."""
    quoted = f"quote it ('{text}') if the text is meant"
    if text in _BOOL_11:
        word = "true" if _BOOL_11[text] else "false"
        return Ambiguous(f"{text} is {word} in YAML 1.1 and text in YAML 1.2", f"write {word}, or {quoted}")
    if _LEADING_ZERO.fullmatch(text):
        return Ambiguous(f"{text} is octal in YAML 1.1 and decimal in YAML 1.2", f"leave the zeros out, or {quoted}")
    if _BASE.fullmatch(text):
        return Ambiguous(
            f"{text} is a number in one version of YAML and text in the other", f"write it in decimal, or {quoted}"
        )
    if "_" in text and text[0] in "+-.0123456789" and _is_number(text.replace("_", "")):
        return Ambiguous(
            f"{text} is a number in YAML 1.1 and text in YAML 1.2", f"leave the underscores out, or {quoted}"
        )
    if _SIXTY.fullmatch(text):
        return Ambiguous(
            f"{text} is a base-60 number in YAML 1.1 and text in YAML 1.2", f"write the number, or {quoted}"
        )
    if _DATE.fullmatch(text):
        return Ambiguous(f"{text} is a date in YAML 1.1 and text in YAML 1.2", quoted)
    if text in ("<<", "="):
        return Ambiguous(
            f"{text} has a meaning of its own in YAML 1.1 and none in YAML 1.2", f"write the fields out, or {quoted}"
        )
    return None


def _is_number(text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in (_INT, _HEX, _BASE, _FLOAT))


def _whole(text: str) -> Value | Ambiguous:
    digits = text.removeprefix("0x")
    if len(digits) > 20:
        return _too_large(text)
    value = int(digits, 16) if digits != text else int(text)
    return value if -(2**63) <= value < 2**63 else _too_large(text)


def _real(text: str) -> Value | Ambiguous:
    value = float(text)
    if math.isinf(value):
        return _too_large(text)
    return int(value) if value.is_integer() and abs(value) < 2**63 else value


def _too_large(text: str) -> Ambiguous:
    return Ambiguous(f"{text[:24]} is too large a number", "write a smaller number, or quote it if the text is meant")
