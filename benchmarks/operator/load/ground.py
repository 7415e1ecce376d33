"""A fresh control plane with the CRD, a namespace and a claim; and what happens on it, with the moment it was seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from cluster.control_plane import ControlPlane
from cluster.processes import wait
from cluster.sessions import new_folder
from load import jobs, pods
from load.template import complete
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.reconcile import naming
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.kinds import JOBS, NAMESPACES, Kind, Object
from rlhf_operator.runtime.reflector import Reflector
from rlhf_operator.runtime.store import Change
from rlhf_operator.runtime.transport import Timeouts, from_kubeconfig

CRD = Path(__file__).parents[3] / "crds" / "rlhf.dev_rlhfjobs.yaml"
AT_ONCE = 32
"""Requests that the load's own clients have open."""
UNBOUND = {"rate": 100_000.0, "burst": 100_000, "timeouts": Timeouts(connect=60, answer=60)}
PATIENCE = 3600.0
"""Seconds: a bound on hanging."""


class Seen:
    """When the Jobs and ends of owners were first seen: seconds of this process's clock."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        """Of an owner's first Job."""
        self.last: dict[str, float] = {}
        """That the Job of its last stage was complete."""
        self.ended: dict[str, float] = {}
        """That the RLHFJob had succeeded."""
        self.failed: list[str] = []
        self._changed = asyncio.Event()

    def job(self, change: Change) -> None:
        """A Job was made or has changed."""
        if change.new is None:
            return
        owner, now = change.new["owner"], time.monotonic()
        self.first.setdefault(owner, now)
        if change.new["complete"] and change.new["stage"] == "report":
            self.last.setdefault(owner, now)
        self._changed.set()

    def rlhfjob(self, change: Change) -> None:
        """An RLHFJob was made or has changed."""
        if change.new is None:
            return
        name = change.key.name
        if change.new["phase"] == "Complete":
            self.ended.setdefault(name, time.monotonic())
        elif change.new["phase"] in ("Failed", "Invalid"):
            self.failed.append(name)
        self._changed.set()

    async def until(self, names: Iterable[str], times: dict[str, float]) -> float:
        """Wait until each name has a time; gives the last of them."""
        missing = set(names)
        async with asyncio.timeout(PATIENCE):
            while missing := {name for name in missing if name not in times}:
                if self.failed:
                    raise RuntimeError(f"jobs that were to succeed have failed: {self.failed[:5]}")
                self._changed.clear()
                await self._changed.wait()
        return max(times[name] for name in names)


class Ground:
    """A control plane, the administrator's client, and what was seen."""

    def __init__(self, plane: ControlPlane, api: Client) -> None:
        self.plane = plane
        self.api = api
        self.seen = Seen()

    async def post(self, kind: Kind, bodies: Iterable[Object]) -> None:
        """Make objects, AT_ONCE at a time."""
        waiting = iter(bodies)

        async def create_rest() -> None:
            for body in waiting:
                await self.api.create(kind, jobs.NAMESPACE, body)

        await together(create_rest)

    async def finish(self, status_of: Iterable[tuple[str, Object]]) -> None:
        """Write the status of jobs."""
        waiting = iter(status_of)

        async def write_rest() -> None:
            for name, status in waiting:
                await self.api.patch_status(RLHFJOBS, jobs.NAMESPACE, name, {"status": status})

        await together(write_rest)

    async def owners(self) -> list[tuple[str, str]]:
        """Name and UID of every RLHFJob."""
        pages = self.api.pages(RLHFJOBS, jobs.NAMESPACE)
        return [(job["metadata"]["name"], job["metadata"]["uid"]) async for page in pages for job in page.items]


async def together(work: Callable[[], object]) -> None:
    """Run AT_ONCE of it side by side."""
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())  # type: ignore[arg-type]  # a coroutine function


@contextlib.asynccontextmanager
async def ground(*, kubelets: bool, label: str = naming.JOB) -> AsyncIterator[Ground]:
    """A fresh control plane.

    Args:
        kubelets: whether pods run.
        label: of Jobs, that names their owner.
    """
    plane = ControlPlane(new_folder(), controllers=True, audit=True, controller_arguments=pods.CONTROLLERS)
    try:
        plane.start()
        plane.kubectl("apply", "--server-side", "-f", str(CRD))
        plane.serve_all()
        if kubelets:
            pods.Kubelets(plane).start()
        async with Client(await from_kubeconfig(str(plane.kubeconfig)), field_manager="load", **UNBOUND) as api:  # type: ignore[arg-type]
            await api.create(NAMESPACES, None, {"metadata": {"name": jobs.NAMESPACE}})
            await asyncio.to_thread(_claim, plane)
            cluster = Ground(plane, api)
            async with _watched(cluster, label):
                yield cluster
    finally:
        plane.remove()


@contextlib.asynccontextmanager
async def _watched(cluster: Ground, label: str) -> AsyncIterator[None]:
    def kept_job(job: Object) -> Object:
        labels = job["metadata"].get("labels") or {}
        facts = {"owner": labels.get(label, ""), "stage": labels.get(naming.STAGE), "complete": complete(job)}
        return {"metadata": {name: job["metadata"][name] for name in _NAMES}, **facts}

    def kept_rlhfjob(job: Object) -> Object:
        phase = (job.get("status") or {}).get("phase")
        return {"metadata": {name: job["metadata"][name] for name in _NAMES}, "phase": phase}

    reflectors = [
        Reflector(cluster.api, JOBS, jobs.NAMESPACE, label_selector=label, on_change=cluster.seen.job, keep=kept_job),
        Reflector(cluster.api, RLHFJOBS, jobs.NAMESPACE, on_change=cluster.seen.rlhfjob, keep=kept_rlhfjob),
    ]
    tasks = [asyncio.create_task(reflector.run()) for reflector in reflectors]
    try:
        for reflector in reflectors:
            await reflector.wait_synced()
        yield
    finally:
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_NAMES = ("name", "namespace", "uid", "resourceVersion")


def _claim(plane: ControlPlane) -> None:
    """The claim that every pod mounts, and the account that every pod runs as."""
    items = pods.claim(jobs.NAMESPACE, jobs.CLAIM)
    plane.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    plane.kubectl(
        "wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{jobs.CLAIM}", "-n", jobs.NAMESPACE, "--timeout=300s"
    )

    def account_exists() -> bool:
        return "default" in plane.kubectl("get", "serviceaccounts", "-n", jobs.NAMESPACE)

    if not wait(account_exists, 60):
        raise RuntimeError("no default service account after 60 s")
