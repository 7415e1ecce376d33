"""`/metrics` (Prometheus) and `/progress` (JSON), served by local rank 0 of every pod."""

from __future__ import annotations

import logging
import math
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from rlhf_api.store import write_atomically
from rlhf_trainer.telemetry.catalog import Metric, find
from rlhf_trainer.telemetry.progress import Progress

log = logging.getLogger(__name__)

MAX_LABELS = 64
"""Most values of a label (rewards, costs, phases): a job has at most 32 of each."""


class Prometheus:
    """The stage's metrics in a registry of their own. Takes a step's values and phases from `Metrics`."""

    def __init__(self, *, stage: str, type: str) -> None:
        self.registry = CollectorRegistry()
        info = Gauge("rlhf_train_info", "What runs: always 1.", ["stage", "type"], registry=self.registry)
        info.labels(stage=stage, type=type).set(1)
        self._step = Gauge("rlhf_train_step", "Steps done.", registry=self.registry)
        self._seconds = Counter(
            "rlhf_train_phase_seconds", "Seconds spent in each phase of a step.", ["phase"], registry=self.registry
        )
        self._tokens = Counter(
            "rlhf_train_phase_tokens", "Tokens computed in each phase of a step.", ["phase"], registry=self.registry
        )
        self._gauges: dict[str, Gauge] = {}
        self._labels: set[tuple[str, str]] = set()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Set the gauges to a step's values; a metric without a definition is in metrics.jsonl only."""
        self._step.set(step)
        for name, value in values.items():
            metric = find(name)
            if metric is None or not math.isfinite(value):
                continue
            if metric.label is None:
                self._gauge(metric).set(value)
            elif self._bounded(metric.name, name.removeprefix(metric.prefix)):
                self._gauge(metric).labels(name.removeprefix(metric.prefix)).set(value)

    def phase(self, name: str, seconds: float, tokens: int) -> None:
        """Count a phase's seconds and tokens."""
        if self._bounded("phase", name):
            self._seconds.labels(name).inc(seconds)
            self._tokens.labels(name).inc(tokens)

    def close(self) -> None:
        """Nothing is held."""

    def _gauge(self, metric: Metric) -> Gauge:
        """Made at its first value: a gauge that was never set would read 0."""
        if metric.name not in self._gauges:
            labels = [metric.label] if metric.label else []
            self._gauges[metric.name] = Gauge(metric.prometheus, metric.help, labels, registry=self.registry)
        return self._gauges[metric.name]

    def _bounded(self, kind: str, label: str) -> bool:
        if (kind, label) not in self._labels and len([k for k, _ in self._labels if k == kind]) >= MAX_LABELS:
            return False
        self._labels.add((kind, label))
        return True


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """An IPv6 socket takes IPv4 as well, whatever the system's default is."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - as it is called
        """Who asked may be gone before the answer; anything else is logged whole."""
        if not isinstance(sys.exception(), ConnectionError):
            log.exception("a request of %s failed", client_address)


class _DualStack(_Http):
    address_family = socket.AF_INET6


class Server:
    """Serves both pages from a thread. Read-only, without authentication: on a laptop for this machine only.

    Args:
        port: 0: a free one, on the loopback interface; another: on every interface (a pod's, which policies guard).
    """

    def __init__(self, port: int, prometheus: Prometheus, progress: Progress) -> None:
        self._port = port
        self._prometheus = prometheus
        self._progress = progress
        self._http: _Http | None = None

    def start(self, endpoint: Path | None = None) -> int | None:
        """Serve, and write host and port to `endpoint`. A port in use is said and not fatal; gives the port."""
        pages: dict[str, tuple[str, Callable[[], bytes]]] = {
            "/metrics": (CONTENT_TYPE_LATEST, lambda: generate_latest(self._prometheus.registry)),
            "/progress": ("application/json", lambda: orjson.dumps(self._progress.snapshot())),
        }

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                if page is None:
                    self.send_error(404)
                    return
                body = page[1]()
                self.send_response(200)
                self.send_header("Content-Type", page[0])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Polls are not worth a line."""

        every, family = ("::", _DualStack) if socket.has_dualstack_ipv6() else ("0.0.0.0", _Http)  # noqa: S104 - a pod's
        try:
            self._http = _Http(("127.0.0.1", 0), Handler) if self._port == 0 else family((every, self._port), Handler)
        except OSError as error:
            log.warning("metricsPort %d cannot be served (%s); training goes on without /metrics", self._port, error)
            return None
        threading.Thread(target=self._http.serve_forever, name="metrics", daemon=True).start()
        port = int(self._http.server_address[1])
        if endpoint is not None:
            write_atomically(endpoint, orjson.dumps({"host": "127.0.0.1", "port": port}))
        return port

    def stop(self) -> None:
        """Stop serving."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
