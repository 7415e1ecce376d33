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


async def the_job(here: Ground, name: str, of_stage: str) -> Object:
    """The one Job of a stage."""
    selector = f"{naming.JOB}={name},{naming.STAGE}={of_stage}"
    found = [one async for page in here.api.pages(JOBS, here.namespace, label_selector=selector) for one in page.items]
    assert len(found) == 1
    return found[0]


def writes_of_jobs(plane: ControlPlane, namespace: str) -> Counter[str]:
    """What the operator asked of the Jobs of a namespace, by verb and answer; but for creations that the API
    server was too busy for, or that it had done already."""
    found: Counter[str] = Counter()
    for line in plane.audit_log.read_text().splitlines(keepends=True):
        if line.endswith("\n") and '"userAgent":"rlhf-operator"' in line:
            told = json.loads(line)
            about = told.get("objectRef") or {}
            if about.get("resource") == "jobs" and about.get("namespace") == namespace:
                verb, code = told["verb"], told["responseStatus"]["code"]
                if verb != "create" or not (code in (409, 429) or code >= 500):
                    found[f"{verb} {code}"] += 1
    return Counter({what: count for what, count in found.items() if what.split()[0] not in ("get", "list", "watch")})


def test_preempted_and_readmitted_the_same_attempt_goes_on(kueue: tuple[ControlPlane, Kueue]) -> None:
    plane, manager = kueue

    async def main() -> None:
        async with ground(plane) as here, here.operator(QUEUED):
            await asyncio.to_thread(manager.make, *queues(here.namespace, memory=GANG))
            held = {("low", "sft"), ("high", "prepare")}
            here.node.ends = lambda pod: None if of(pod) in held else 0
            await here.make(queued("low", "low"))
            await here.until(in_state("sft", "Running"), "low")
            before = await the_job(here, "low", "sft")

            await here.make(queued("high", "high"))
            await here.until(in_state("prepare", "Running"), "high")
            status = await here.until(in_state("sft", "Queued"), "low")
            assert stage(status, "sft")["reason"] == "Preempted"
            assert [one["reason"] for one in stage(status, "sft")["attempts"]] == ["Preempted"]
            assert (await the_job(here, "low", "sft"))["spec"]["suspend"] is True

            held.remove(("high", "prepare"))
            await here.until(phase("Complete", "Failed"), "high")
            await here.until(in_state("sft", "Running"), "low")
            after = await the_job(here, "low", "sft")
            assert after["metadata"]["uid"] == before["metadata"]["uid"]
            held.clear()
            low = await here.until(phase("Complete", "Failed"), "low")
            high = await here.status("high")
            for status in (low, high):
                assert status["phase"] == "Complete", status
                tried = {one["name"]: [attempt["number"] for attempt in one["attempts"]] for one in status["stages"]}
                assert set(map(tuple, tried.values())) == {(0,)}, tried
            events = [one async for page in here.api.pages(EVENTS, here.namespace) for one in page.items]
            assert "Preempted" in {one["reason"] for one in events if one["regarding"]["name"] == "low"}
            # ten Jobs are made, and from then on they are Kueue's
            assert writes_of_jobs(plane, here.namespace) == {"create 201": 10}

    asyncio.run(main())


def test_a_job_without_room_waits_and_tells_why_in_kueues_words(kueue: tuple[ControlPlane, Kueue]) -> None:
    plane, manager = kueue

    async def main() -> None:
        async with ground(plane) as here, here.operator(QUEUED):
            await asyncio.to_thread(manager.make, *queues(here.namespace, memory=GANG))
            held = {("first", "sft")}
            here.node.ends = lambda pod: None if of(pod) in held else 0
            await here.make(queued("first", "low"))
            await here.until(in_state("sft", "Running"), "first")
            await here.make(queued("second", "low"))
            status = await here.until(
                lambda found: (
                    in_state("prepare", "Queued")(found) and "quota" in str(stage(found, "prepare").get("message"))
                ),
                "second",
            )
            assert stage(status, "prepare")["reason"] == "Queued"
            assert "activeSeconds" not in status or status["activeSeconds"] == 0  # its queue is not active time
            held.clear()
            for name in ("first", "second"):
                assert (await here.until(phase("Complete", "Failed"), name))["phase"] == "Complete"
            assert writes_of_jobs(plane, here.namespace) == {"create 201": 10}

    asyncio.run(main())
