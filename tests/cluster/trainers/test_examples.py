"""Examples as pods, with a tiny model in place of the real one and a few steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cluster.trainers.site import ROOT, Namespace, Object
from smaller import smaller


@pytest.mark.parametrize("name", ["safe-rlhf-rbr", "rlcd"])
def test_an_example_runs_to_its_report_as_pods(team: Namespace, name: str) -> None:
    job = on_claims(smaller(YAML(typ="safe").load(ROOT / "examples" / f"{name}.yaml")), team.data)
    team.apply(job)
    status = team.ended(name)
    assert status["phase"] == "Complete", f"{status}\n{team.diagnosis()}"
    (report,) = (team.models / "all" / "products").glob("report-*/report.html")
    assert report.read_text().startswith("<!doctype html>")


def on_claims(job: Object, data: Path) -> Object:
    """The job with its data and its model on the claim `data`, its products on `models`."""
    for entry in job["spec"]["inputs"]:
        if "://" in entry["source"]:
            entry["source"] = "pvc://data/model"
        else:
            file = shutil.copy(ROOT / "examples" / entry["source"], data)
            Path(file).chmod(0o644)  # pods are others
            entry["source"] = f"pvc://data/{Path(file).name}"
    job["spec"]["storage"] = {"claimName": "models", "path": "all"}
    return job
