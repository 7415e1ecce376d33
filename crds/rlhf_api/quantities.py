"""Kubernetes quantities: `500m`, `16Gi`, `1e3`."""

from __future__ import annotations

from decimal import Decimal

PATTERN = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,2}|[numkMGTPE]|[KMGTPE]i)?$"
"""As Kubernetes reads one, but for signs of what is less than nothing."""
MEANING = "a Kubernetes quantity, such as 500m, 4 or 16Gi"
MOST = "1Ei"
"""Kubernetes cuts what is above 2^63 - 1 without a word; no machine has an eighth of that."""

_SUFFIXES = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def amount(quantity: str) -> Decimal:
    """The number a quantity stands for; the quantity must match PATTERN."""
    if quantity[-2:] in _BINARY:
        return Decimal(quantity[:-2]) * Decimal(1024) ** _BINARY[quantity[-2:]]
    if quantity[-1] in _SUFFIXES:  # `1E` is an exa, `1E3` a thousand
        return Decimal(quantity[:-1]).scaleb(_SUFFIXES[quantity[-1]])
    return Decimal(quantity)


def above(quantity: str, most: str) -> bool:
    """Whether a quantity is more than another."""
    return amount(quantity) > amount(most)
