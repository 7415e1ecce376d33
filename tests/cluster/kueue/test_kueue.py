"""A real Kueue decides which gang runs; the operator leaves that to it, and tells what it does."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator

import pytest

from cluster.control_plane import ControlPlane
from cluster.kueue.manager import Kueue, queues
from cluster.operator.ground import SETTINGS, Ground, ground, job, phase, stage
from cluster.operator.standin import KEEP_PODS, stage_of
from cluster.sessions import new_folder
from rlhf_operator.reconcile import Settings, naming
from rlhf_operator.runtime.kinds import EVENTS, JOBS, Object

PROFILE = {"resources": {"limits": {"memory": "1Gi"}}}
QUEUED = Settings.model_validate(
    {**SETTINGS.model_dump(by_alias=True), "profiles": {"default": PROFILE, "cpu": PROFILE}, "kueue": True}
)
GANG = "2Gi"
"""What the two pods of `sft` ask for: nothing else has room beside them."""


@pytest.fixture(scope="module")
def kueue() -> Iterator[tuple[ControlPlane, Kueue]]:
    """A control plane with the controller manager, and Kueue beside it."""
    plane = ControlPlane(new_folder(), controllers=True, controller_arguments=KEEP_PODS, audit=True)
    try:
        plane.start()
        yield plane, Kueue(plane).start()
    finally:
        plane.remove()


def queued(name: str, priority: str) -> Object:
    """The tests' job in the queue."""
    value = job()
    value["metadata"] = {"name": name, "labels": {naming.QUEUE: "team", naming.PRIORITY: priority}}
    return value


def of(pod: Object) -> tuple[str, str]:
    """Job and stage of a pod."""
    return pod["metadata"]["labels"][naming.JOB], stage_of(pod)


def in_state(name: str, *states: str):  # type: ignore[no-untyped-def]
    def true(status: Object) -> bool:
        return bool(status.get("stages")) and stage(status, name)["state"] in states

    return true


async def the_job(cluster: Ground, name: str, of_stage: str) -> Object:
    """The one Job of a stage."""
    selector = f"{naming.JOB}={name},{naming.STAGE}={of_stage}"
    jobs = [
        item
        async for page in cluster.api.pages(JOBS, cluster.namespace, label_selector=selector)
        for item in page.items
    ]
    assert len(jobs) == 1
    return jobs[0]


def writes_of_jobs(plane: ControlPlane, namespace: str) -> Counter[str]:
    """What the operator asked of the Jobs of a namespace, by verb and answer; but for creations that the API
    server was too busy for, or that it had done already."""
    writes: Counter[str] = Counter()
    for line in plane.audit_log.read_text().splitlines(keepends=True):
        if line.endswith("\n") and '"userAgent":"rlhf-operator"' in line:
            event = json.loads(line)
            about = event.get("objectRef") or {}
            if about.get("resource") == "jobs" and about.get("namespace") == namespace:
                verb, code = event["verb"], event["responseStatus"]["code"]
                if verb != "create" or not (code in (409, 429) or code >= 500):
                    writes[f"{verb} {code}"] += 1
    return Counter({what: count for what, count in writes.items() if what.split()[0] not in ("get", "list", "watch")})


def test_preempted_and_readmitted_the_same_attempt_goes_on(kueue: tuple[ControlPlane, Kueue]) -> None:
    plane, manager = kueue

    async def main() -> None:
        async with ground(plane) as cluster, cluster.operator(QUEUED):
            await asyncio.to_thread(manager.make, *queues(cluster.namespace, memory=GANG))
            endless = {("low", "sft"), ("high", "prepare")}
            cluster.node.ends = lambda pod: None if of(pod) in endless else 0
            await cluster.make(queued("low", "low"))
            await cluster.until(in_state("sft", "Running"), "low")
            before = await the_job(cluster, "low", "sft")

            await cluster.make(queued("high", "high"))
            await cluster.until(in_state("prepare", "Running"), "high")
            status = await cluster.until(in_state("sft", "Queued"), "low")
            assert stage(status, "sft")["reason"] == "Preempted"
            assert [entry["reason"] for entry in stage(status, "sft")["attempts"]] == ["Preempted"]
            assert (await the_job(cluster, "low", "sft"))["spec"]["suspend"] is True

            endless.remove(("high", "prepare"))
            await cluster.until(phase("Complete", "Failed"), "high")
            await cluster.until(in_state("sft", "Running"), "low")
            after = await the_job(cluster, "low", "sft")
            assert after["metadata"]["uid"] == before["metadata"]["uid"]
            endless.clear()
            low = await cluster.until(phase("Complete", "Failed"), "low")
            high = await cluster.status("high")
            for status in (low, high):
                assert status["phase"] == "Complete", status
                tried = {
                    entry["name"]: [attempt["number"] for attempt in entry["attempts"]] for entry in status["stages"]
                }
                assert set(map(tuple, tried.values())) == {(0,)}, tried
            events = [entry async for page in cluster.api.pages(EVENTS, cluster.namespace) for entry in page.items]
            assert "Preempted" in {entry["reason"] for entry in events if entry["regarding"]["name"] == "low"}
            # ten Jobs are made, and from then on they are Kueue's
            assert writes_of_jobs(plane, cluster.namespace) == {"create 201": 10}

    asyncio.run(main())


def test_a_job_without_room_waits_and_tells_why_in_kueues_words(kueue: tuple[ControlPlane, Kueue]) -> None:
    plane, manager = kueue

    async def main() -> None:
        async with ground(plane) as cluster, cluster.operator(QUEUED):
            await asyncio.to_thread(manager.make, *queues(cluster.namespace, memory=GANG))
            endless = {("first", "sft")}
            cluster.node.ends = lambda pod: None if of(pod) in endless else 0
            await cluster.make(queued("first", "low"))
            await cluster.until(in_state("sft", "Running"), "first")
            await cluster.make(queued("second", "low"))
            status = await cluster.until(
                lambda current: (
                    in_state("prepare", "Queued")(current) and "quota" in str(stage(current, "prepare").get("message"))
                ),
                "second",
            )
            assert stage(status, "prepare")["reason"] == "Queued"
            assert "activeSeconds" not in status or status["activeSeconds"] == 0  # its queue is not active time
            endless.clear()
            for name in ("first", "second"):
                assert (await cluster.until(phase("Complete", "Failed"), name))["phase"] == "Complete"
            assert writes_of_jobs(plane, cluster.namespace) == {"create 201": 10}

    asyncio.run(main())
