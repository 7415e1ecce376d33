"""Jobs as large as an API server stores: they never bring the operator to the chart's memory limit."""

from __future__ import annotations

import asyncio
import base64
import json
import string
import sys
import urllib.request
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

from prometheus_client.parser import text_string_to_metric_families

from cluster.conftest import NewPlane
from cluster.control_plane import LOOPBACK, ControlPlane, free_port
from cluster.operator.ground import PATIENCE, SETTINGS, fresh, job
from cluster.processes import Process
from cluster.runtime.ground import client
from rlhf_api.quantities import amount
from rlhf_api.yaml import load_yaml
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.kinds import Object

VALUES = Path(__file__).parents[3] / "charts" / "rlhf-operator" / "values.yaml"
TEXT = 1_000_000
"""Bytes of an object; etcd takes 1.5 MB."""


def memory_limit() -> float:
    """Bytes that the chart gives an operator."""
    values = load_yaml(VALUES.read_bytes()).value
    return float(amount(values["resources"]["limits"]["memory"]))


def full_of_text(name: str) -> Object:
    """Its variables are long."""
    value = job(suspend=True)
    value["metadata"]["name"] = name
    stage = value["spec"]["stages"][0]
    variables = [{"name": f"V{number}", "value": "v" * 4096} for number in range(30)]
    value["spec"]["stages"] = [
        {**stage, "name": f"stage-{number}", "pod": {"env": variables}} for number in range(TEXT // (30 * 4096))
    ]
    return value


def full_of_labels(name: str) -> Object:
    """Labels are not bounded in number, and weigh in memory a multiple of what they are as JSON."""
    value = job(suspend=True)
    letters = string.ascii_lowercase
    keys = ("".join(parts) for parts in product(letters, letters, letters, letters))
    labels = {key: "" for key, _ in zip(keys, range(8000), strict=False)}  # managedFields repeats them
    value["metadata"] = {"name": name, "labels": labels}
    return value


def full_of_attempts(name: str) -> Object:
    """Its status is as long as statuses get."""
    value = job()
    value["metadata"]["name"] = name
    attempt = {"state": "Failed", "message": "m" * 4000, "startTime": "2026-03-01T12:00:00Z"}
    value["status"] = {
        "phase": "Failed",
        "stages": [
            {
                "name": f"stage-{number}",
                "type": "sft",
                "state": "Failed",
                "attempts": [attempt | {"number": n} for n in range(10)],
            }
            for number in range(TEXT // (10 * 4096))
        ],
    }
    return value


COUNTS = {full_of_text: 100, full_of_attempts: 98, full_of_labels: 2}
"""How many of each. Thousands of labels cost the API server itself seconds."""


async def store(api: Client, plane: ControlPlane, namespace: str) -> None:
    """The first of a kind as users make them; the others are copied within etcd, which costs the API server nothing."""
    for make, count in COUNTS.items():
        value = make(f"{make.__name__.replace('_', '-')}-0")
        status = value.pop("status", None)
        await api.create(RLHFJOBS, namespace, value)
        if status is not None:
            await api.patch_status(RLHFJOBS, namespace, value["metadata"]["name"], {"status": status})
        await asyncio.to_thread(copy_in_etcd, plane, f"rlhf.dev/rlhfjobs/{namespace}", value["metadata"]["name"], count)


def copy_in_etcd(plane: ControlPlane, folder: str, name: str, count: int) -> None:
    """Store so many objects in all that differ from one in name and UID alone."""
    stem = name.removesuffix("-0")
    (entry,) = etcd(plane, "range", key=f"/registry/{folder}/{name}")["kvs"]
    text = base64.b64decode(entry["value"]).decode()
    uid = json.loads(text)["metadata"]["uid"]
    for number in range(1, count):
        body = text.replace(f'"{name}"', f'"{stem}-{number}"').replace(uid, str(uuid4()))
        etcd(plane, "put", key=f"/registry/{folder}/{stem}-{number}", value=body)


def etcd(plane: ControlPlane, what: str, **fields: str) -> Any:
    """Ask etcd's JSON gateway."""
    body = {name: base64.b64encode(text.encode()).decode() for name, text in fields.items()}
    request = urllib.request.Request(f"{plane.etcd_url}/v3/kv/{what}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def operator(plane: ControlPlane, namespace: str, port: int) -> Process:
    """As the chart runs it."""
    config = {
        "watch": [namespace],
        "operator": {"metricsPort": port, "healthPort": 0, "logLevel": "WARNING"},
        "leaderElection": {"namespace": namespace},
        "settings": SETTINGS.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }
    file = plane.folder / "operator.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "rlhf_operator.main", f"--config={file}", f"--kubeconfig={plane.kubeconfig}"]
    return Process("operator", lambda: command, plane.folder)


def peak_memory(process: Process) -> int:
    """Bytes that it had at most."""
    lines = Path(f"/proc/{process.pid()}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def samples(port: int) -> dict[str, float]:
    """Sums of the operator's metrics; empty while it does not answer."""
    sums: dict[str, float] = {}
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
    except OSError:
        return sums
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


async def looked_at(process: Process, port: int, count: int) -> None:
    """Wait until so many looks are done, and none waits."""
    async with asyncio.timeout(PATIENCE):
        while True:
            assert process.pid() is not None, process.log.read_text()[-2000:]
            metrics = await asyncio.to_thread(samples, port)
            busy = metrics.get("workqueue_depth", 1) + metrics.get("controller_runtime_active_workers", 1)
            if metrics.get("controller_runtime_reconcile_total", 0) >= count and not busy:
                return
            await asyncio.sleep(0.5)


def test_large_jobs_stay_below_the_charts_memory_limit(new_plane: NewPlane) -> None:
    plane = new_plane()

    async def main() -> None:
        namespace = await fresh(plane)
        async with client(plane) as api:
            await store(api, plane, namespace)
            await api.create(RLHFJOBS, namespace, job(suspend=True))
            port = free_port()
            process = operator(plane, namespace, port)
            process.start()
            try:
                await looked_at(process, port, sum(COUNTS.values()) + 1)
                for name, phase in (
                    ("full-of-text-9", "Invalid"),
                    ("full-of-labels-1", "Suspended"),
                    ("beaver", "Suspended"),
                ):
                    assert (await api.get(RLHFJOBS, namespace, name))["status"]["phase"] == phase
                assert peak_memory(process) < memory_limit()
            finally:
                process.stop()

    asyncio.run(main())
