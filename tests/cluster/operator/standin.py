"""A stand-in for a node: takes pods that no node runs, and ends them as a test says. The Job controller is the real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime

from cluster.runtime.ground import passing
from rlhf_api.load import parse_job
from rlhf_api.plan import Resolved, ResolvedInput
from rlhf_api.termination_codec import compact
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.errors import Conflict, NotFound, RequestFailed
from rlhf_operator.runtime.kinds import PODS, Kind, Object

NODE = "stand-in"
KEEP_PODS = ("--controllers=*,-pod-garbage-collector-controller",)
"""For the controller manager: it deletes pods that are bound to a node that is not there after a minute."""
End = int | None
"""An exit code; None: it runs on."""


def stage_of(pod: Object) -> str:
    """The stage a pod computes."""
    return str(pod["metadata"]["labels"]["rlhf.dev/stage"])


def attempt_of(pod: Object) -> int:
    """Its attempt."""
    return int(pod["metadata"]["labels"]["rlhf.dev/attempt"])


def index_of(pod: Object) -> int:
    """Its place in the gang."""
    return int(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])


class Node:
    """Runs the pods of a namespace: Pending -> Running -> as `ends` says of it; deleted ones end with 75."""

    def __init__(self, client: Client, namespace: str, ends: Callable[[Object], End] = lambda _: 0) -> None:
        self._client = client
        self._namespace = namespace
        self.ends = ends
        self.odd: Callable[[Object], Object | None] = lambda _: None
        """The status of a pod that is bound and of which the kubelet says something else; None: as usual."""
        self.ran: dict[str, set[tuple[int, int]]] = {}
        """(attempt, index) of every pod that ran, by stage."""
        self.lost: set[str] = set()
        """Pods that it says nothing of any more, as a node that has lost power."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async for page in self._client.pages(PODS, self._namespace):
                    for pod in page.items:
                        await self._one(pod)
            except RequestFailed as error:  # as a kubelet: it goes on when the API server is there again
                if not passing(error):
                    raise
            await asyncio.sleep(0.05)

    async def _one(self, pod: Object) -> None:
        name, phase = pod["metadata"]["name"], pod["status"].get("phase", "Pending")
        if name in self.lost:
            return
        deleted = "deletionTimestamp" in pod["metadata"]
        try:
            if phase in ("Succeeded", "Failed"):
                if deleted and pod["metadata"].get("deletionGracePeriodSeconds"):
                    await self._client.delete(PODS, self._namespace, name, grace_seconds=0)
            elif deleted:
                await self._end(pod, 75)
            elif phase == "Pending" and not pod["spec"].get("nodeName"):
                await self._bind(name)
            elif (status := self.odd(pod)) is not None:
                await self._say(name, status)
            elif phase == "Pending":
                self.ran.setdefault(stage_of(pod), set()).add((attempt_of(pod), index_of(pod)))
                running = {"running": {"startedAt": _now()}}
                await self._say(
                    name, {"phase": "Running", "podIP": "127.0.0.1", "containerStatuses": [container_status(running)]}
                )
            else:
                code = self.ends(pod)
                if code is not None:
                    await self._end(pod, code)
        except (NotFound, Conflict):
            return  # gone, or changed, since it was listed

    async def _bind(self, name: str) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        binding = Kind("", "v1", f"pods/{name}/binding", "Binding")
        await self._client.create(binding, self._namespace, body)

    async def _end(self, pod: Object, code: int) -> None:
        ended = {
            "exitCode": code,
            "reason": "Error" if code else "Completed",
            "startedAt": _now(),
            "finishedAt": _now(),
            "message": await self._summary(pod, code),
        }
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [container_status({"terminated": ended})],
        }
        await self._say(pod["metadata"]["name"], status)

    async def _summary(self, pod: Object, code: int) -> str:
        """What the launcher would leave."""
        summary: Object = {
            "code": code,
            "reason": "Done" if code == 0 else "Crashed",
            "step": 7,
            "message": f"code {code}",
        }
        if stage_of(pod) == "prepare" and code == 0:
            name = pod["metadata"]["labels"]["rlhf.dev/job"]
            job = await self._client.get(RLHFJOBS, self._namespace, name)
            plain = {**job, "metadata": {"name": name}, "status": None}
            plain.pop("status")
            parsed = parse_job(plain)
            inputs = {declared.name: ResolvedInput("ab" * 20, "") for declared in parsed.spec.inputs}
            summary["result"] = dict(compact(parsed, Resolved(inputs)))
        return json.dumps(summary)

    async def _say(self, name: str, status: Object) -> None:
        await self._client.patch_status(PODS, self._namespace, name, {"status": status})


def container_status(state: Object, name: str = "trainer") -> Object:
    """A container's status."""
    return {
        "name": name,
        "state": state,
        "image": "trainer",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
