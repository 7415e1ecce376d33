"""The runtime's metrics, under the names that controller-runtime and client-go gave them."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """All of them, in a registry of their own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self._requests = self._counter(
            "rest_client_requests_total", "Requests to the API server, by what came of them.", "code", "method", "host"
        )
        self._lists = self._counter("reflector_lists_total", "Whole lists asked for.", "name")
        self._watches = self._counter("reflector_watches_total", "Watches that the API server accepted.", "name")
        self._items = self._gauge("reflector_items", "Objects kept in memory.", "name")
        self._up = self._gauge(
            "reflector_up", "1: what is kept is up to date; 0: it cannot be listed, or watched. Of the leader.", "name"
        )
        self._leads = self._gauge("leader_election_master_status", "1: this process leads.", "name")
        self._events = self._counter(
            "event_recorder_events_total", "Events to tell, by what came of them: created, known, failed.", "result"
        )
        self._queues: dict[str, Any] = {}

    def request(self, code: str, method: str, host: str) -> None:
        """A request was answered, or (`<error>`) was not."""
        self._requests.labels(code, method, host).inc()

    def begun(self, name: str) -> None:
        """A reflector begins, and knows nothing."""
        self.items(name, 0)
        self._up.labels(name).set(0)

    def ended(self, name: str) -> None:
        """A reflector is no more: who led a while ago has nothing to tell."""
        self._items.remove(name)
        self._up.remove(name)

    def listed(self, name: str, count: int) -> None:
        """A reflector has listed anew."""
        self._lists.labels(name).inc()
        self.items(name, count)

    def watched(self, name: str) -> None:
        """A reflector begins a watch."""
        self._watches.labels(name).inc()
        self._up.labels(name).set(1)

    def failed(self, name: str) -> None:
        """A reflector could not list, or watch."""
        self._up.labels(name).set(0)

    def items(self, name: str, count: int) -> None:
        """A reflector holds so many objects."""
        self._items.labels(name).set(count)

    def leads(self, name: str, leads: bool) -> None:
        """This process leads, or does not."""
        self._leads.labels(name).set(float(leads))

    def event(self, result: str) -> None:
        """An event was made, was there, or could not be made."""
        self._events.labels(result).inc()

    def queue(self, name: str) -> QueueMetrics:
        """Those of a work queue."""
        if not self._queues:
            self._queues = _queue_families(self.registry)
        return QueueMetrics(self._queues, name)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)


class QueueMetrics:
    """A work queue's, and its workers'."""

    def __init__(self, families: dict[str, Any], name: str) -> None:
        def of(metric: str) -> Any:
            return families[metric].labels(name)

        self.depth: Gauge = of("workqueue_depth")
        self.adds: Counter = of("workqueue_adds_total")
        self.retries: Counter = of("workqueue_retries_total")
        self.waited: Histogram = of("workqueue_queue_duration_seconds")
        self.worked: Histogram = of("workqueue_work_duration_seconds")
        self.unfinished: Gauge = of("workqueue_unfinished_work_seconds")
        self.longest: Gauge = of("workqueue_longest_running_processor_seconds")
        self.active: Gauge = of("controller_runtime_active_workers")
        self.most: Gauge = of("controller_runtime_max_concurrent_reconciles")
        self._seconds: Histogram = of("controller_runtime_reconcile_time_seconds")
        self._errors: Counter = of("controller_runtime_reconcile_errors_total")
        reconciles = families["controller_runtime_reconcile_total"]  # all from the start, so that a rate exists
        self._results = {result: reconciles.labels(name, result) for result in ("success", "error", "requeue_after")}

    def reconciled(self, result: str, seconds: float) -> None:
        """A reconcile ended: success, requeue_after or error."""
        self._results[result].inc()
        self._seconds.observe(seconds)
        if result == "error":
            self._errors.inc()


def _queue_families(registry: CollectorRegistry) -> dict[str, Any]:
    families: dict[str, Any] = {}
    for name, text in {
        "workqueue_adds_total": "Keys put in.",
        "workqueue_retries_total": "Keys put in again after a failure.",
        "controller_runtime_reconcile_errors_total": "Reconciles that failed.",
    }.items():
        families[name] = Counter(name, text, [_label(name)], registry=registry)
    for name, text in {
        "workqueue_depth": "Keys that wait.",
        "workqueue_unfinished_work_seconds": "Sum of the seconds of what is worked on now.",
        "workqueue_longest_running_processor_seconds": "Seconds of the longest that is worked on now.",
        "controller_runtime_active_workers": "Reconciles at this moment.",
        "controller_runtime_max_concurrent_reconciles": "The most reconciles at once.",
    }.items():
        families[name] = Gauge(name, text, [_label(name)], registry=registry)
    for name, text in {
        "workqueue_queue_duration_seconds": "From put in to taken out.",
        "workqueue_work_duration_seconds": "From taken out to done.",
        "controller_runtime_reconcile_time_seconds": "Of a reconcile.",
    }.items():
        families[name] = Histogram(name, text, [_label(name)], buckets=_SECONDS, registry=registry)
    name = "controller_runtime_reconcile_total"
    families[name] = Counter(name, "Reconciles, by how they ended.", ["controller", "result"], registry=registry)
    return families


def _label(metric: str) -> str:
    return "name" if metric.startswith("workqueue") else "controller"
