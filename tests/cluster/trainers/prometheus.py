"""A real Prometheus beside the node, with the chart's rules and what the chart's monitors say.

Debian's Prometheus has no discovery of Kubernetes: what that would find is written to a file, under the same labels.
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from cluster.chart.helm import NAMESPACE, find, objects, template
from cluster.control_plane import LOOPBACK, free_port
from cluster.processes import Process
from cluster.trainers.site import OPERATOR, Site

LABELS = "__meta_kubernetes_pod_label_"


class Prometheus:
    """Scrapes the operator's pods and the trainers'."""

    def __init__(self, site: Site, folder: Path) -> None:
        tool = shutil.which("prometheus")
        assert tool is not None, "found no prometheus (Debian: apt-get install prometheus)"
        self._site = site
        self._targets = folder / "targets.json"
        self._discover()
        rendered = objects(template("full"))
        (folder / "rules.json").write_text(json.dumps(find(rendered, "PrometheusRule")["spec"]))
        monitor = find(rendered, "PodMonitor", "rlhf-operator-trainers")
        config = {
            "global": {"scrape_interval": "5s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules.json")],
            "scrape_configs": [
                {**scrape_config, "file_sd_configs": [{"files": [str(self._targets)], "refresh_interval": "1s"}]}
                for scrape_config in (_operator(), _trainers(monitor))
            ],
        }
        (folder / "prometheus.json").write_text(json.dumps(config))
        port = free_port()
        self._url = f"http://{LOOPBACK}:{port}"
        self._process = Process(
            "prometheus",
            lambda: [
                *(tool, f"--config.file={folder / 'prometheus.json'}", f"--storage.tsdb.path={folder / 'tsdb'}"),
                f"--web.listen-address={LOOPBACK}:{port}",
            ],
            folder,
        )

    def __enter__(self) -> Prometheus:
        self._process.start()
        self._process.until(self._ready, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # not yet
            return False

    def _discover(self) -> None:
        pods = json.loads(self._site.kubectl("get", "pods", "-A", "-o", "json"))["items"]
        targets = [
            _target(pod, port)
            for pod in pods
            if pod["status"]["phase"] == "Running" and pod["status"].get("podIP")
            for container in pod["spec"]["containers"]
            for port in container.get("ports", [])
        ]
        partial = self._targets.with_suffix(".new")
        partial.write_text(json.dumps(targets))
        partial.rename(self._targets)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Labels of the series that a query gives; pods that came since are found first."""
        self._discover()
        url = f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return [series["metric"] for series in json.load(answer)["data"]["result"]]


def _target(pod: dict[str, Any], port: dict[str, Any]) -> dict[str, object]:
    labels = {LABELS + re.sub(r"\W", "_", name): value for name, value in pod["metadata"]["labels"].items()}
    labels["__meta_kubernetes_namespace"] = pod["metadata"]["namespace"]
    labels["__meta_kubernetes_pod_container_port_name"] = port["name"]
    return {"targets": [f"{pod['status']['podIP']}:{port['containerPort']}"], "labels": labels}


def _keep(**labels: str) -> list[dict[str, object]]:
    return [{"action": "keep", "source_labels": [name], "regex": value} for name, value in labels.items()]


def _operator() -> dict[str, object]:
    """As the chart's ServiceMonitor has it."""
    key, _, value = OPERATOR.partition("=")
    pods = {LABELS + key.replace(".", "_").replace("/", "_"): value, "__meta_kubernetes_namespace": NAMESPACE}
    port = {"__meta_kubernetes_pod_container_port_name": "metrics"}
    return {"job_name": "operator", "honor_labels": True, "relabel_configs": _keep(**pods, **port)}


def _trainers(monitor: dict[str, Any]) -> dict[str, object]:
    """As the chart's PodMonitor has it, its relabelings to the letter."""
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    relabelings = [
        {"source_labels": relabeling["sourceLabels"], "target_label": relabeling["targetLabel"]}
        for relabeling in endpoint["relabelings"]
    ]
    namespace = {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"}
    keep_rules = _keep(**{"__meta_kubernetes_pod_container_port_name": endpoint["port"], f"{LABELS}rlhf_dev_job": ".+"})
    return {"job_name": "trainers", "relabel_configs": [*keep_rules, namespace, *relabelings]}
