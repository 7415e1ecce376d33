"""Prints docs/operator-metrics.md, made of the metrics themselves: `python -m rlhf_operator.metrics_reference`."""

from __future__ import annotations

import sys

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from rlhf_operator import projections
from rlhf_operator.job_metrics import JobMetrics
from rlhf_operator.runtime.kinds import Object
from rlhf_operator.runtime.metrics import Metrics

HEAD = """# Metrics of the operator
Made from `rlhf_operator` by `make generate`; do not edit. What a stage itself measures: [metrics.md](metrics.md).

Served on `/metrics` of the operator's metrics port. The chart brings a ServiceMonitor, alerts and dashboards for them. The
generic ones have the names that controller-runtime and client-go gave them, so that dashboards for those serve here too. All
but requests and leadership are the leader's. A job's series go with the job; of a finished one only `rlhf_job_phase` is
told.

| metric | type | labels | meaning |
|---|---|---|---|
"""
FULL: Object = {
    "apiVersion": "",
    "kind": "RLHFJob",
    "metadata": {"name": "a", "namespace": "a"},
    "spec": {"stages": [{"name": "a", "ppo": {"kl": {"target": 1}, "costs": [{"name": "a"}]}}]},
    "status": {
        "phase": "Running",
        "stages": [{"name": "a", "state": "Running", "restarts": 0, "progress": {"step": 1, "total": 2}}],
    },
}
"""A job of which every series is told."""


def reference() -> str:
    """The page as Markdown."""
    metrics = Metrics(CollectorRegistry())
    metrics.request("200", "GET", "host")
    metrics.begun("jobs")
    metrics.listed("jobs", 0)
    metrics.watched("jobs")
    metrics.leads("lease", True)
    metrics.event("created")
    metrics.queue("rlhfjob").reconciled("success", 0.0)
    metrics.registry.register(JobMetrics(lambda: [projections.rlhfjob(FULL)]))
    return HEAD + "".join(map(_row, sorted(metrics.registry.collect(), key=lambda family: family.name)))


def _row(family: Metric) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
    return f"| `{name}` | {family.type} | {', '.join(f'`{label}`' for label in labels)} | {family.documentation} |\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
