"""Coverage of the intervals, a small part of benchmarks/coverage.py: the same code, fewer samples."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import coverage as simulation  # noqa: E402

TRIALS = 400
"""The error of a share near 0.95 is 0.011; bounds are two of them wide."""


@pytest.mark.parametrize("case", simulation.SCORES, ids=lambda case: case.name)
def test_means_are_covered(case: simulation.Case) -> None:
    assert simulation.coverage(case, 24, TRIALS) >= 0.91


@pytest.mark.parametrize("case", simulation.PAIRED, ids=lambda case: case.name)
@pytest.mark.parametrize("count", [10, 48])
def test_paired_differences_of_rates_are_covered(case: simulation.PairedRates, count: int) -> None:
    assert simulation.coverage(case, count, TRIALS) >= 0.91


@pytest.mark.parametrize("case", simulation.GROUPS, ids=lambda case: case.name)
def test_means_over_members_are_covered(case: simulation.Members) -> None:
    assert simulation.coverage(case, 24, TRIALS) >= 0.93


@pytest.mark.parametrize("case", simulation.NULL, ids=lambda case: case.name)
def test_a_direction_is_seldom_claimed_where_there_is_none(case: simulation.Case) -> None:
    assert simulation.false_claims(case, 10, 20) == 0
    assert simulation.false_claims(case, 12, TRIALS) <= 0.085


def test_the_committed_table_has_every_case() -> None:
    text = (BENCHMARKS / "results" / "coverage.md").read_text()
    for case in (*simulation.SCORES, *simulation.SHARES, *simulation.PAIRED, *simulation.GROUPS):
        assert f"| {case.name} |" in text
