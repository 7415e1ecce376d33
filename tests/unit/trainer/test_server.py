"""/metrics and /progress of a running stage."""

from __future__ import annotations

import json
import math
import socket
import struct
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rlhf_trainer.telemetry.catalog import METRICS
from rlhf_trainer.telemetry.progress import Progress
from rlhf_trainer.telemetry.server import MAX_LABELS, Prometheus, Server


@pytest.fixture
def serve():
    servers = []

    def start(prometheus, progress, port=0, endpoint=None):
        server = Server(port, prometheus, progress)
        servers.append(server)
        return server.start(endpoint)

    yield start
    for server in servers:
        server.stop()


def get(port: int, page: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=60) as answer:
        return answer.read().decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_served_as_prometheus_reads_them(serve):
    prometheus = Prometheus(stage="ppo", type="ppo")
    prometheus.step(7, {"reward": 1.5, "cost.harm": -0.25, "lambda.harm": 2.0, "kl": math.nan, "unknown": 1.0})
    prometheus.phase("generate", 2.0, 100)
    prometheus.phase("generate", 1.0, 50)
    served = samples(get(serve(prometheus, Progress()), "/metrics"))
    assert served["rlhf_train_info", (("stage", "ppo"), ("type", "ppo"))] == 1
    assert served["rlhf_train_step", ()] == 7
    assert served["rlhf_train_reward", ()] == 1.5
    assert served["rlhf_train_cost_by_cost", (("cost", "harm"),)] == -0.25
    assert served["rlhf_train_lambda_by_cost", (("cost", "harm"),)] == 2.0
    assert served["rlhf_train_phase_seconds_total", (("phase", "generate"),)] == 3.0
    assert served["rlhf_train_phase_tokens_total", (("phase", "generate"),)] == 150
    assert not any("kl" in name or "unknown" in name for name, _ in served)


def test_the_number_of_labels_is_bounded():
    prometheus = Prometheus(stage="ppo", type="ppo")
    prometheus.step(1, {f"cost.c{number}": 1.0 for number in range(3 * MAX_LABELS)})
    family = next(f for f in prometheus.registry.collect() if f.name == "rlhf_train_cost_by_cost")
    assert len(family.samples) == MAX_LABELS


@pytest.mark.parametrize("stage_type", sorted({stage for metric in METRICS for stage in metric.stages}))
def test_every_types_metrics_have_distinct_names(stage_type):
    prometheus = Prometheus(stage="s", type=stage_type)
    mine = [metric for metric in METRICS if stage_type in metric.stages]
    prometheus.step(1, {metric.name.replace("*", "x"): 1.0 for metric in mine})
    names = {family.name for family in prometheus.registry.collect()}
    assert {metric.prometheus for metric in mine} <= names


def test_progress_is_json(serve):
    progress = Progress({"stage": "sft"})
    progress.start(5)
    progress.advance(2, {"loss": 0.5})
    answer = json.loads(get(serve(Prometheus(stage="sft", type="sft"), progress), "/progress"))
    assert (answer["stage"], answer["step"], answer["total"], answer["headline"]) == ("sft", 2, 5, {"loss": 0.5})


def test_another_page_is_not_found(serve):
    port = serve(Prometheus(stage="sft", type="sft"), Progress())
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(port, "/etc/passwd")


def test_the_endpoint_says_where(serve, tmp_path):
    port = serve(Prometheus(stage="sft", type="sft"), Progress(), endpoint=tmp_path / "endpoint.json")
    assert json.loads((tmp_path / "endpoint.json").read_text()) == {"host": "127.0.0.1", "port": port}


def test_a_port_in_use_is_said_and_training_goes_on(serve, caplog):
    with socket.socket() as occupied:
        occupied.bind(("0.0.0.0", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        assert serve(Prometheus(stage="sft", type="sft"), Progress(), port=port) is None
    assert f"metricsPort {port} cannot be served" in caplog.text


def test_who_left_before_the_answer_is_no_error(serve, caplog):
    port = serve(Prometheus(stage="ppo", type="ppo"), Progress())
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed with a reset
            gone.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n")
    assert get(port, "/metrics")
    assert not caplog.records


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_pods_port_is_served_over_ipv4_and_ipv6(monkeypatch, serve) -> None:
    """Port 0 is the loopback's; any other is a pod's, and the system gives one here."""
    monkeypatch.setattr("rlhf_trainer.telemetry.server._DualStack.server_bind", _bind_free)
    port = serve(Prometheus(stage="ppo", type="ppo"), Progress(), port=1)
    families = socket.getaddrinfo(None, port, type=socket.SOCK_STREAM)
    assert {family for family, *_ in families} == {socket.AF_INET, socket.AF_INET6}
    for host in ("127.0.0.1", "[::1]"):
        with urllib.request.urlopen(f"http://{host}:{port}/progress", timeout=60) as answer:
            assert answer.status == 200


def _bind_free(server) -> None:
    server.server_address = (server.server_address[0], 0)
    type(server).__base__.server_bind(server)
