"""Every example is a valid job, survives a dump, and plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_api.load import dump_job, load_job
from rlhf_api.plan import plan

FOLDER = Path(__file__).parents[3] / "examples"
EXAMPLES = sorted([*FOLDER.glob("*.yaml"), FOLDER / "cluster" / "safe-rlhf.yaml"])


def test_there_are_examples() -> None:
    assert {"safe-rlhf.yaml", "ppo.yaml", "sft-only.yaml", "two-costs.yaml"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid_and_plans(path: Path) -> None:
    job = load_job(path)
    assert load_job(dump_job(job)) == job
    assert plan(job).stages[-1].type == "report"
