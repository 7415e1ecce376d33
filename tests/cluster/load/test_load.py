"""The load benchmark runs end to end, small; what holds at any size is held here, speeds are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_a_small_load_is_measured_and_a_quiet_operator_writes_nothing(tmp_path: Path) -> None:
    sizes = ("--jobs", "8", "--stored", "40", "--quiet", "15")
    path = os.pathsep.join([str(ROOT / "benchmarks" / "operator"), str(ROOT / "tests"), *sys.path])
    command = [sys.executable, "-m", "load", *sizes, "--out", str(tmp_path)]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "operator.json").read_text())
    assert [(row["who"], row["jobs"]) for row in found["churn"]] == [("plain", 8), ("operator", 8)]
    for row in found["churn"]:  # four stages of a ConfigMap and a Job, by whoever makes them; refused ones apart
        assert row["requests"]["create configmaps"] == row["requests"]["create jobs"] == 4 * 8, row
    alone = found["loaded"]
    assert alone["start"]["writes"] == {}  # stored jobs are looked at, and left as they are
    assert alone["quiet"]["writes"] == {}
    assert alone["hour"]["writes"] == {}
    assert alone["hour"]["looks"] > 20 * 60  # of each running job one a minute
    assert "| churn of 8 jobs of 4 stages" in (tmp_path / "operator.md").read_text()
