"""Valid jobs, damaged: a verdict within a second of the processor, and what is refused is refused by its field."""

from __future__ import annotations

import copy
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from corpus.cases import good_specs
from fuzz.damage import bounded, misshape
from rlhf_api.errors import SpecError
from rlhf_api.load import parse_job
from rlhf_api.plan import plan
from rlhf_api.yaml import load_yaml
from rlhf_operator.reconcile import Observed, Settings, reconcile

CHUNKS, OF_A_CHUNK = 20, 500
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = Settings.model_validate({"image": "trainer:1", "profiles": {"default": {}, "h100x8": {}}})
VALID = [load_yaml(text).value for text in good_specs().values()]


def damaged(draw: random.Random) -> dict[str, Any]:
    """A job whose spec is damaged, seldom its metadata: as text of a file, or as an old schema let it be stored."""
    value = copy.deepcopy(draw.choice(VALID))
    part = "spec" if draw.random() < 0.95 else "metadata"
    return value | {part: misshape(value[part], draw)}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_damaged_job_gets_a_verdict(chunk: int) -> None:
    draw = random.Random(chunk)
    for _ in range(OF_A_CHUNK):
        value = damaged(draw)
        with bounded():
            problems = verdict(value)
        assert all(path.startswith(("spec", "metadata")) for path in problems), problems
        stored = value | {"metadata": {"name": "a", "namespace": "team", "uid": "u", "generation": 1}}
        with bounded():
            status = reconcile(stored, Observed(), SETTINGS, NOW).status
        if [path for path in problems if path.startswith("spec")]:
            assert status["phase"] == "Invalid"
            (stalled,) = [condition for condition in status["conditions"] if condition["type"] == "Stalled"]
            assert stalled["message"].startswith("spec"), stalled


def verdict(value: Any) -> list[str]:
    """Paths of what is wrong with a job; what is right can be planned."""
    try:
        job = parse_job(value)
    except SpecError as error:
        assert all(problem.message for problem in error.problems)
        return [problem.path for problem in error.problems]
    assert plan(job).stages
    return []
