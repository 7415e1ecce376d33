"""The Prometheus operator's CRDs, from its Go module."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from cluster.binaries import HERE, Missing

MODULE = "github.com/prometheus-operator/prometheus-operator"
NEEDED = ("podmonitors", "prometheusrules", "servicemonitors")


def monitoring_crds() -> list[Path]:
    """Files of the CRDs whose objects the chart makes.

    Raises:
        Missing: Go cannot fetch the module.
    """
    command = ["go", "mod", "download", "-json", MODULE]
    ended = subprocess.run(command, cwd=HERE / "go" / "monitoring", capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise Missing(f"{MODULE}: {ended.stdout}{ended.stderr}")
    folder = Path(json.loads(ended.stdout)["Dir"]) / "example" / "prometheus-operator-crd"
    return [folder / f"monitoring.coreos.com_{name}.yaml" for name in NEEDED]
