"""Every example runs to its report, with a tiny model in place of the real one and a few steps."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import warm
from ruamel.yaml import YAML
from tiny import tiny_policy

from smaller import smaller

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN = (
    "safe-rlhf",
    "ppo",
    "sft-only",
    "capability",
    "two-costs",
    "safe-rlhf-rbr",
    "rbr-gold",
    "rlcd",
    "rlaif",
    "context-distillation",
    "three-rounds",
    "moderation",
    "judged",
)
SAYS = {
    "safe-rlhf-rbr": (
        "Rule-based rewards",
        "The grader on labelled completions",
        "Not over-refusing",
        "The last policies of ppo",
        "Classes of answers, by rules: hard refuse",
    ),
    "judged": (
        "What it can still do",
        "What it refuses",
        "Under attack",
        "Harm in later turns",
        "Over seeds",
        "What other judges say",
        "Reward and cost",
        "How scores are distributed",
        "(mean of 3 runs)",
    ),
}
"""What an example's report must say, beyond being one."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_policy(tmp_path_factory.mktemp("tiny") / "model")


@pytest.mark.parametrize("name", RUN)
def test_an_example_runs_to_its_report(name: str, model: Path, tmp_path: Path) -> None:
    job = smaller(YAML(typ="safe").load(EXAMPLES / f"{name}.yaml"))
    for entry in job["spec"]["inputs"]:
        if "://" not in entry["source"]:
            entry["source"] = str(EXAMPLES / entry["source"])
    for module in EXAMPLES.glob("*.py"):  # judges lie beside the job file
        (tmp_path / module.name).write_text(module.read_text())
    path = tmp_path / "job.yaml"
    YAML().dump(job, path)
    base = ["--input", f"base={model}"] if any(entry["name"] == "base" for entry in job["spec"]["inputs"]) else []
    done = subprocess.run(
        [warm.python(), "-m", "rlhf_sdk.cli", "run", str(path), *base, "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = Path(json.loads(done.stdout)["report"]).read_text()
    assert report.startswith("<!doctype html>")
    assert all(phrase in report for phrase in SAYS.get(name, ()))
    assert ",," not in report.partition("</header>")[0].partition("<body>")[2]
