"""A real Prometheus beside the node, with the chart's rules and what the chart's monitors say."""

from __future__ import annotations

import json
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from cluster.chart.helm import NAMESPACE, find, objects, template
from cluster.control_plane import LOOPBACK, free_port
from cluster.processes import Process
from cluster.trainers.site import OPERATOR

LABELS = "__meta_kubernetes_pod_label_"


class Prometheus:
    """Scrapes the operator's pods and the trainers'."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        tool = shutil.which("prometheus")
        assert tool is not None, "found no prometheus (Debian: apt-get install prometheus)"
        rendered = objects(template("full"))
        (folder / "rules.json").write_text(json.dumps(find(rendered, "PrometheusRule")["spec"]))
        monitor = find(rendered, "PodMonitor", "rlhf-operator-trainers")
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules.json")],
            "scrape_configs": [_operator(kubeconfig), _trainers(kubeconfig, monitor)],
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

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Labels of the series that a query gives."""
        url = f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return [one["metric"] for one in json.load(answer)["data"]["result"]]


def _discovery(kubeconfig: Path) -> dict[str, object]:
    return {"kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(kubeconfig)}]}


def _keep(**labels: str) -> list[dict[str, object]]:
    return [{"action": "keep", "source_labels": [name], "regex": value} for name, value in labels.items()]


def _operator(kubeconfig: Path) -> dict[str, object]:
    """As the chart's ServiceMonitor has it."""
    key, _, value = OPERATOR.partition("=")
    pods = {LABELS + key.replace(".", "_").replace("/", "_"): value, "__meta_kubernetes_namespace": NAMESPACE}
    port = {"__meta_kubernetes_pod_container_port_name": "metrics"}
    config = {"job_name": "operator", "honor_labels": True, "relabel_configs": _keep(**pods, **port)}
    return config | _discovery(kubeconfig)


def _trainers(kubeconfig: Path, monitor: dict[str, Any]) -> dict[str, object]:
    """As the chart's PodMonitor has it, its relabelings to the letter."""
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    relabelings = [
        {"source_labels": one["sourceLabels"], "target_label": one["targetLabel"]} for one in endpoint["relabelings"]
    ]
    namespace = {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"}
    kept = _keep(**{"__meta_kubernetes_pod_container_port_name": endpoint["port"], f"{LABELS}rlhf_dev_job": ".+"})
    return {"job_name": "trainers", "relabel_configs": [*kept, namespace, *relabelings]} | _discovery(kubeconfig)
