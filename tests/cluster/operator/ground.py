"""What the tests here share: a namespace with enforced Pod Security, an operator in it, a job."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from kubernetes.aio.client.configuration import Configuration

from cluster.control_plane import ControlPlane
from cluster.operator.standin import Node
from cluster.runtime.ground import PATIENT, client, configuration, meanwhile, new_namespace, passing
from rlhf_operator.controller import Controller
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.reconcile import Settings
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.errors import RequestFailed
from rlhf_operator.runtime.events import Recorder
from rlhf_operator.runtime.kinds import EVENTS, NAMESPACES, Object
from rlhf_operator.runtime.metrics import Metrics

CRD = Path(__file__).parents[3] / "crds" / "rlhf.dev_rlhfjobs.yaml"
PATIENCE = 300.0
"""Seconds that something may take on a busy machine: a bound on hanging, never a measure."""
SETTINGS = Settings.model_validate(
    {
        "image": "trainer:1",
        "profiles": {"default": {"resources": {"limits": {"memory": "1Gi"}}}},
        "defaultProfile": "default",
        "timings": {"backoff": 1, "poll": 1, "explainAfter": 1},
    }
)
JOB: Object = {
    "apiVersion": "rlhf.dev/v1alpha1",
    "kind": "RLHFJob",
    "metadata": {"name": "beaver"},
    "spec": {
        "storage": {"claimName": "models"},
        "inputs": [{"name": "base", "source": "hf://org/base@1"}, {"name": "rows", "source": "pvc://data/rows.jsonl"}],
        "stages": [
            {"name": "sft", "nodes": 2, "sft": {"model": {"input": "base"}, "data": [{"input": "rows"}]}},
            {"name": "reward", "rewardModel": {"model": {"stage": "sft"}, "data": [{"input": "rows"}]}},
            {"name": "cost", "costModel": {"model": {"stage": "sft"}, "data": [{"input": "rows"}]}},
        ],
    },
}


def job(**spec: Any) -> Object:
    """The job of the tests, its spec's fields replaced."""
    value = copy.deepcopy(JOB)
    value["spec"] |= spec
    return value


class Ground:
    """A namespace, a stand-in node, and an operator that can be killed."""

    def __init__(self, plane: ControlPlane, api: Client, name: str, node: Node) -> None:
        self._plane = plane
        self.api = api
        self.namespace = name
        self.node = node

    @contextlib.asynccontextmanager
    async def operator(
        self, settings: Settings = SETTINGS, may_write: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[Controller]:
        """An operator of this namespace, until the end of the block; what it raises is raised there."""
        async with operating(await configuration(self._plane), self.namespace, settings, may_write) as controller:
            yield controller

    async def make(self, value: Object) -> Object:
        """Create a job."""
        return await self.api.create(RLHFJOBS, self.namespace, value)

    async def status(self, name: str = "beaver") -> Object:
        """Its status."""
        status: Object = (await self.api.get(RLHFJOBS, self.namespace, name)).get("status") or {}
        return status

    async def until(self, true: Callable[[Object], bool], name: str = "beaver", seconds: float = PATIENCE) -> Object:
        """Wait until it is true of the job's status."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while True:
            try:
                status = await self.status(name)
            except RequestFailed as error:
                if not passing(error):
                    raise
                status = {}
            if true(status):
                return status
            assert clock() < end, f"not so after {seconds} s: {status}"
            await asyncio.sleep(0.1)

    async def event_reasons(self, *reasons: str) -> list[str]:
        """Reasons of all events, once these are among them: events are sent in the background."""
        async with asyncio.timeout(PATIENCE):
            while True:
                pages = self.api.pages(EVENTS, self.namespace)
                recorded = [str(event["reason"]) async for page in pages for event in page.items]
                if set(reasons) <= set(recorded):
                    return recorded
                await asyncio.sleep(0.1)

    async def edit(self, name: str = "beaver", **spec: Any) -> None:
        """A user changes the spec."""
        await self.api.patch(RLHFJOBS, self.namespace, name, {"spec": spec})


@contextlib.asynccontextmanager
async def operating(
    reached: Configuration,
    namespace: str,
    settings: Settings = SETTINGS,
    may_write: Callable[[], bool] = lambda: True,
    **more: Any,
) -> AsyncIterator[Controller]:
    """An operator of a namespace, until the end of the block; what it raises is raised there."""
    usual = {"field_manager": "rlhf-operator", "rate": 500, "burst": 500, "timeouts": PATIENT}
    options = {**usual, "may_write": may_write, **more}
    async with Client(reached, **options) as api:
        controller = Controller(
            api,
            settings,
            namespaces=[namespace],
            recorder=Recorder(api, "rlhf-operator", "test", Metrics()),
            workers=4,
            progress_per_second=5,
            metrics=Metrics(),
        )
        async with meanwhile(controller.run()):
            yield controller


_served: WeakKeyDictionary[ControlPlane, tuple[Path, str, int]] = WeakKeyDictionary()
"""What `serve_jobs` applied, and the uid and generation that it had then."""


def serve_jobs(plane: ControlPlane, crd: Path = CRD) -> None:
    """Make the API server serve RLHFJobs. Applying it again, for each test, is a second of processor time."""
    if plane in _served and _served[plane] == (crd, *_version(plane)):
        return
    plane.kubectl("apply", "--server-side", "-f", str(crd))
    plane.apiserver.until(lambda: _established(plane), 60)
    _served[plane] = (crd, *_version(plane))


def _definition(plane: ControlPlane) -> Object:
    """The CRD as it is served; empty: it is not."""
    definition: Object = json.loads(
        plane.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rlhfjobs.rlhf.dev") or "{}"
    )
    return definition


def _version(plane: ControlPlane) -> tuple[str, int]:
    metadata = _definition(plane).get("metadata") or {}
    return metadata.get("uid", ""), metadata.get("generation", 0)


def _established(plane: ControlPlane) -> bool:
    conditions = (_definition(plane).get("status") or {}).get("conditions") or ()
    return any((condition["type"], condition["status"]) == ("Established", "True") for condition in conditions)


async def fresh(plane: ControlPlane, crd: Path = CRD) -> str:
    """A namespace of an API server that serves RLHFJobs."""
    serve_jobs(plane, crd)
    async with client(plane) as api:
        return await new_namespace(api)


@contextlib.asynccontextmanager
async def ground(plane: ControlPlane) -> AsyncIterator[Ground]:
    """A namespace in which Pod Security is enforced, with a stand-in node."""
    serve_jobs(plane)
    async with client(plane) as api:
        name = await new_namespace(api)
        enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
        await api.patch(NAMESPACES, None, name, {"metadata": {"labels": enforce}})
        node = Node(api, name)
        async with meanwhile(node.run()):
            yield Ground(plane, api, name, node)


def phase(*phases: str) -> Callable[[Object], bool]:
    """Whether the job is in one of these phases."""
    return lambda status: status.get("phase") in phases


def stage(status: Object, name: str) -> Object:
    """A stage's entry."""
    return next(entry for entry in status["stages"] if entry["name"] == name)
