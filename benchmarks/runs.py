"""What the tables of several runs read from a finished job."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def products_of(job: str, *, part: bool = False) -> dict[str, Path]:
    """The product folder of every stage of the job's last run; `part`: of every finished one, where it is not done."""
    command = [sys.executable, "-m", "rlhf_sdk.cli", "status", job, "--output", "json"]
    status = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if status["phase"] != "Complete" and not part:
        raise SystemExit(f"{job}: the run is {status['phase']}, not done: rlhf run {job} goes on")
    products = Path(status["storage"]) / "products"
    return {name: products / stage["product"] for name, stage in status["stages"].items() if stage["product"]}


def metrics_of(product: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, one a step."""
    return [json.loads(line) for line in (product / "metrics.jsonl").read_text().splitlines()]


def last_quarter(product: Path, column: str) -> list[float]:
    """A column of metrics.jsonl over the last quarter of the steps."""
    rows = metrics_of(product)
    return [row[column] for row in rows[-(len(rows) // 4) :]]
