"""The parts of benchmarks/moderation.py that need no model, and the table that it wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import moderation as benchmark  # noqa: E402


def test_kappa_is_cohens() -> None:
    """20 both yes, 5 and 10 apart, 15 both no: agreed 0.7, by chance 0.5 (a textbook's example)."""
    first = np.array([True] * 25 + [False] * 25)
    second = np.array([True] * 20 + [False] * 5 + [True] * 10 + [False] * 15)
    assert benchmark.kappa(first, second) == pytest.approx(0.4)
    assert benchmark.kappa(first, first) == 1
    assert np.isnan(benchmark.kappa(np.ones(4, bool), np.ones(4, bool)))
    estimate = benchmark.kappa_estimate(first, second)
    assert estimate.low is not None and estimate.high is not None
    assert 0 < estimate.low < 0.4 < estimate.high < 1


def test_no_prompt_and_no_model_is_learned_from_and_tested() -> None:
    rows = [{"prompt": f"p{n}", "model": model} for n in range(10) for model in ("a", "b", "c")]
    train, test = benchmark.split(rows, "b")
    assert (len(train), len(test)) == (10, 5)
    assert {row["model"] for row in train} == {"a", "c"}
    assert {row["model"] for row in test} == {"b"}
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}


def test_the_committed_table_is_that_of_the_committed_numbers() -> None:
    document = json.loads((BENCHMARKS / "results" / "moderation.json").read_text())
    assert (BENCHMARKS / "results" / "moderation.md").read_text() == benchmark.table(document)
    assert document["runs"]
