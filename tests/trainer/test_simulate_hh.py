"""examples/rlcd.yaml on real dialogues: HH-RLHF pairs are read where they lie, beside the repository."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path

import pytest
import warm
from ruamel.yaml import YAML
from test_examples import EXAMPLES
from tiny import tiny_policy

from smaller import smaller

PAIRS = Path(__file__).parents[3] / "shared" / "data" / "hh_harmless_1500.jsonl.gz"
ROWS = 60


@pytest.mark.skipif(not PAIRS.exists(), reason=f"{PAIRS.name} is not beside the repository")
def test_both_reward_models_are_scored_on_the_same_people_s_pairs(tmp_path: Path) -> None:
    with gzip.open(PAIRS, "rt") as rows:
        (tmp_path / "pairs.jsonl").write_text("".join(line for line, _ in zip(rows, range(ROWS), strict=False)))
    job = smaller(YAML(typ="safe").load(EXAMPLES / "rlcd.yaml"))
    (tmp_path / "data").mkdir()
    YAML().dump(job, tmp_path / "job.yaml")
    model = tiny_policy(tmp_path / "model", positions=1024)
    input_arguments = ["--input", f"base={model}", "--input", f"pairs={tmp_path / 'pairs.jsonl'}"]
    done = subprocess.run(
        [warm.python(), "-m", "rlhf_sdk.cli", "run", str(tmp_path / "job.yaml"), *input_arguments, "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    products = Path(result["storage"]) / "products"
    product_folders = {
        name: products / stage["product"] for name, stage in result["stages"].items() if stage["product"]
    }
    tests = {}
    for name in ("rlcd-reward", "rlaif-reward"):
        manifest = json.loads((product_folders[name] / "manifest.json").read_text())
        tests[name] = manifest["metrics"]["test"]["accuracy"]
        assert manifest["counts"]["test.seen_prompts"] == 0
    assert tests["rlcd-reward"]["n"] == tests["rlaif-reward"]["n"] > 10
    assert all(accuracy["low"] < accuracy["value"] < accuracy["high"] for accuracy in tests.values())
    rows = (product_folders["rlcd-pairs"] / "rows.jsonl").read_text().splitlines()
    turns = [len(json.loads(row)["prompt"]) for row in rows]
    assert max(turns) > 1, "dialogues of several turns"
    page = Path(result["report"]).read_text()
    assert "Scorers on pairs they were not trained on" in page and "rlaif-reward" in page
