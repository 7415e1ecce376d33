"""docs/gpus.md: its table is the estimate's, its profiles are values of the chart, its stages are a job's."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from rlhf_api.load import parse_job
from rlhf_operator.reconcile.settings import Profile

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "gpus.md").read_text()
sys.path.insert(0, str(ROOT / "benchmarks" / "gpu"))
from sizes import table  # noqa: E402


def block(first: str) -> Any:
    """The YAML block whose first line is this comment."""
    (text,) = re.findall(rf"```yaml\n# {first}\n(.*?)```", PAGE, re.DOTALL)
    return yaml.safe_load(text)


def test_the_sizes_are_those_of_the_estimate() -> None:
    (sizes,) = re.findall(r"<!-- sizes -->\n(.*?)\n<!-- /sizes -->", PAGE, re.DOTALL)
    assert sizes == table(), "paste the output of: python benchmarks/gpu/sizes.py"


def test_the_profiles_are_what_the_operator_takes() -> None:
    profiles = {name: Profile.model_validate(raw) for name, raw in block("values")["profiles"].items()}
    devices = {name: profile.resources.limits.get("nvidia.com/gpu") for name, profile in profiles.items()}
    assert devices == {"cpu": None, "one-gpu": "1", "eight-gpus": "8", "two-nodes": "8"}
    assert profiles["two-nodes"].nodes == 2


def test_the_stages_are_a_jobs() -> None:
    inputs = [{"name": "base", "source": "base"}, {"name": "chat", "source": "chat.jsonl"}]
    for name in ("one", "eight"):
        spec = {"inputs": inputs, **block(f"job: {name}")}
        metadata = {"name": name}
        parse_job({"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": metadata, "spec": spec})
