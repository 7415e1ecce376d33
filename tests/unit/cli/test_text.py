"""Numbers, times and sizes as people read them."""

from __future__ import annotations

import pytest

from rlhf_sdk.text import duration, number, plural, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (7.4, "0:07"),
        (59.6, "1:00"),
        (754, "12:34"),
        (10931, "3:02:11"),
        (183600, "2d 03:00"),
        (-3, "0:00"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3.0, "3"), (0.0123, "0.0123"), (2.314, "2.31"), (184.2, "184"), (0.5, "0.500"), (1.2e-5, "1.2e-05"),
     (2.5e7, "2.5e+07"), (-0.125, "-0.125"), (float("nan"), "nan")],
)  # fmt: skip
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (512, "512 B"), (1280, "1.2 KiB"), (3 * 2**30, "3.0 GiB"), (2**41, "2.0 TiB")]
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


def test_plural() -> None:
    assert [plural(count, "product") for count in (0, 1, 2)] == ["0 products", "1 product", "2 products"]
