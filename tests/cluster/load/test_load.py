"""The load benchmark runs end to end, small; what holds at any size is held here, speeds are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from load.measure import Audit

ROOT = Path(__file__).resolve().parents[3]


def test_what_was_asked_for_before_is_not_counted_though_the_log_tells_of_it_later(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text("")
    audit = Audit(log, "operator")
    for offset in (timedelta(seconds=-1), timedelta(seconds=1)):
        received = (datetime.now(UTC) + offset).isoformat(timespec="microseconds").replace("+00:00", "Z")
        entry = {"userAgent": "operator/1", "verb": "create", "objectRef": {"resource": "jobs"}}
        line = json.dumps(entry | {"requestReceivedTimestamp": received}, separators=(",", ":"))
        with log.open("a") as end:
            end.write(line + "\n")
    assert audit.counted() == {"create jobs": 1}


def test_a_small_load_is_measured_and_a_quiet_operator_writes_nothing(tmp_path: Path) -> None:
    sizes = ("--jobs", "8", "--stored", "40", "--quiet", "15")
    command = [sys.executable, "-m", "load", *sizes, "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "operator.json").read_text())
    assert [(row["who"], row["jobs"]) for row in report["churn"]] == [("plain", 8), ("operator", 8)]
    for row in report["churn"]:  # four stages of a Job, by whoever makes them; refused ones apart
        assert row["requests"]["create jobs"] == 4 * 8, json.dumps(row)
        assert "create configmaps" not in row["requests"], json.dumps(row)
    alone = report["loaded"]
    assert alone["start"]["writes"] == {}  # stored jobs are looked at, and left as they are
    assert alone["quiet"]["writes"] == {}
    assert alone["hour"]["writes"] == {}
    assert alone["hour"]["looks"] > 20 * 60  # of each running job one a minute
    assert "| churn of 8 jobs of 4 stages" in (tmp_path / "operator.md").read_text()
