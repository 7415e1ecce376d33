"""Run, edit, run again, with the real trainer: both runs are there, and are compared by name."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import warm
from tiny import tiny_policy

from fakes.command import rlhf

JOB = """\
apiVersion: rlhf.dev/v1alpha1
kind: RLHFJob
metadata: {name: edited}
spec:
  inputs:
  - {name: base, source: model}
  - {name: chat, source: chat.jsonl}
  stages:
  - {name: sft, sft: {model: {input: base}, data: [{input: chat}], maxSteps: 1, batchSize: 4, maxLength: 64}}
"""


def run(path: Path) -> None:
    command = [warm.python(), "-m", "rlhf_sdk.cli", "run", str(path), "--output", "json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_an_edited_job_has_two_runs(tmp_path: Path) -> None:
    tiny_policy(tmp_path / "model")
    rows = [{"prompt": f"q {number}", "completion": "yes"} for number in range(40)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "job.yaml"
    for steps in (1, 2):
        path.write_text(JOB.replace("maxSteps: 1", f"maxSteps: {steps}"))
        run(path)
    first, second = rlhf("runs", path, "--output", "json").json["runs"]
    assert [first["name"], second["name"]] == ["edited@1", "edited@2"]
    assert second["changes"] == {"stages.sft.sft.maxSteps": [1, 2]}
    assert first["missing"] == second["missing"] == []
    assert first["phase"] == second["phase"] == "Complete"
    compared = rlhf("compare", f"{path}@1", f"{path}@2", "--output", "json").json
    assert all(None not in values for values in compared["metrics"].values())
    assert Path(rlhf("report", f"{path}@1").out.strip()).read_text().startswith("<!doctype html>")
    assert rlhf("gc", "--storage", tmp_path / ".rlhf", "--output", "json").json["items"] == []
