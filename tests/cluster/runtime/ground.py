"""What the tests here share: clients, namespaces, waiting."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from kubernetes.aio.client.configuration import Configuration

from cluster.control_plane import ControlPlane
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.election import Timing
from rlhf_operator.runtime.errors import ApiError, RequestFailed
from rlhf_operator.runtime.kinds import CONFIG_MAPS, NAMESPACES, Kind, Object
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.reflector import Reflector
from rlhf_operator.runtime.store import Change
from rlhf_operator.runtime.transport import Timeouts, from_kubeconfig

_numbers = itertools.count()
PATIENCE = 60.0
"""Seconds that something may take on a busy machine: a bound on hanging, never a measure."""

HASTY = Timeouts(connect=2, answer=4, silence=3)
"""Of requests that may go into a void."""

PATIENT = Timeouts(connect=PATIENCE, answer=PATIENCE)
"""Of the test's own requests: the machine may be busy."""

QUICK = Timing(duration=4, deadline=2.5, retry=0.4)
"""Of elections."""


def passing(error: RequestFailed) -> bool:
    """Whether the API server may answer otherwise in a moment: it is away, or restarts, or waits for etcd."""
    return (
        not isinstance(error, ApiError)
        or error.status in (404, 429)
        or error.status >= 500
        or "not yet ready to handle request" in str(error)
    )


def port_of(plane: ControlPlane) -> int:
    """Where its API server listens."""
    return int(plane.url.rpartition(":")[2])


async def configuration(plane: ControlPlane, port: int | None = None) -> Configuration:
    """The administrator's, optionally through a relay's port."""
    loaded = await from_kubeconfig(str(plane.kubeconfig))
    if port is not None:
        loaded.host = f"https://127.0.0.1:{port}"
    return loaded


@contextlib.asynccontextmanager
async def client(plane: ControlPlane, port: int | None = None, **more: Any) -> AsyncIterator[Client]:
    """A client of a control plane."""
    more = {"field_manager": "test", "rate": 1000.0, "burst": 1000, "timeouts": PATIENT, **more}
    async with Client(await configuration(plane, port), **more) as api:
        yield api


async def new_namespace(client: Client) -> str:
    """A namespace of the test's own."""
    name = f"t{os.getpid()}-{next(_numbers)}"
    await client.create(NAMESPACES, None, {"metadata": {"name": name}})
    return name


async def put(client: Client, namespace: str, name: str, value: str = "", **metadata: Any) -> Object:
    """Make a ConfigMap."""
    body = {"metadata": {"name": name, **metadata}, "data": {"value": value}}
    return await client.create(CONFIG_MAPS, namespace, body)


async def set_to(client: Client, namespace: str, name: str, value: str) -> Object:
    """Change a ConfigMap."""
    return await client.patch(CONFIG_MAPS, namespace, name, {"data": {"value": value}})


async def until(true: Callable[[], bool], seconds: float = PATIENCE) -> float:
    """Wait until it is true; gives the seconds it took."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    while not true():
        assert clock() - begun < seconds, f"not so after {seconds} s"
        await asyncio.sleep(0.02)
    return clock() - begun


@contextlib.asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Something runs until the end of the block; what it raises is raised there."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Watched:
    """A reflector that runs, and what it told."""

    def __init__(self, client: Client, namespace: str | None, kind: Kind = CONFIG_MAPS, **more: Any) -> None:
        self.changes: list[Change] = []
        self.metrics: Metrics = more.pop("metrics", None) or Metrics()
        options = {"pauses": (0.1, 1.0), "metrics": self.metrics, **more}
        self.reflector = Reflector(client, kind, namespace, on_change=self.changes.append, **options)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Watched]:
        """Runs until the end of the block, which begins with a watch open; what it raises is raised there."""
        async with meanwhile(self.reflector.run()):
            await asyncio.wait_for(self.reflector.wait_synced(), PATIENCE)
            await until(lambda: self.count("reflector_watches_total") >= 1)
            yield self

    def count(self, metric: str) -> float:
        """The reflector's own sample of a metric."""
        return self.metrics.registry.get_sample_value(metric, {"name": self.reflector.name}) or 0.0

    def values(self) -> dict[str, str]:
        """`value` of each ConfigMap, by name."""
        return {item["metadata"]["name"]: item["data"]["value"] for item in self.reflector.values()}

    def values_from_changes(self) -> dict[str, str]:
        """The same, from the changes alone."""
        values: dict[str, str] = {}
        for change in self.changes:
            if change.new is None:
                values.pop(change.key.name)
            else:
                values[change.key.name] = change.new["data"]["value"]
        return values
