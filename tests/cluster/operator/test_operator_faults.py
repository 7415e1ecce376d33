"""The whole operator while its way to the API server fails, and the API server itself: it comes to the same end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from cluster.control_plane import ControlPlane
from cluster.operator.ground import ground, job, operating, phase
from cluster.operator.judged import End, end, most_active
from cluster.operator.standin import KEEP_PODS
from cluster.runtime.ground import HASTY, Watched, client, configuration, port_of
from cluster.runtime.relay import Relay, relayed
from cluster.sessions import new_folder
from rlhf_operator.runtime.kinds import JOBS
from rlhf_operator.runtime.metrics import Metrics

FAULTS = ("cut", "refuse", "blackhole", "etcd", "apiserver")
MINUTES = 120
"""Seconds of a long outage."""
A_MINUTE = 100
"""Requests of an operator whose API server is away: five watches, with pauses that grow to half a minute (30 were seen)."""


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """One to be harmed."""
    fresh_plane = ControlPlane(new_folder(), controllers=True, controller_arguments=KEEP_PODS)
    yield fresh_plane.start()
    fresh_plane.remove()


async def harm(plane: ControlPlane, relay: Relay, fault: str) -> None:
    """Do it, and undo it some seconds later."""
    if fault == "cut":
        relay.cut()
    elif fault == "refuse":
        await relay.refuse()
        await asyncio.sleep(3)
        await relay.start()
    elif fault == "blackhole":
        relay.blackhole()
        await asyncio.sleep(6)
        relay.restore()
    elif fault == "etcd":
        plane.etcd.pause()
        await asyncio.sleep(4)
        plane.etcd.resume()
    else:
        plane.apiserver.kill()
        plane.apiserver.start()
        await asyncio.to_thread(plane.apiserver.until, plane.ready, 120)


async def undisturbed(plane: ControlPlane) -> End:
    """How the job ends when nothing happens to it."""
    async with ground(plane) as cluster, cluster.operator():
        await cluster.make(job())
        return end(await cluster.until(phase("Complete", "Failed")))


@pytest.mark.parametrize("seed", [0, 1])
def test_whatever_fails_on_the_way_the_job_comes_to_the_same_end(plane: ControlPlane, seed: int) -> None:
    async def main() -> None:
        calm = await undisturbed(plane)
        async with (
            ground(plane) as cluster,
            relayed(port_of(plane)) as relay,
            client(plane, timeouts=HASTY) as api,
            Watched(api, cluster.namespace, JOBS).running() as jobs,
        ):
            dice = random.Random(seed)
            async with operating(await configuration(plane, relay.port), cluster.namespace, timeouts=HASTY):
                await cluster.make(job())
                done = asyncio.create_task(cluster.until(phase("Complete", "Failed"), seconds=300))
                for fault in dice.sample(FAULTS, len(FAULTS)):
                    await asyncio.sleep(dice.uniform(0.2, 2.0))
                    await harm(plane, relay, fault)
                status = await done
            assert end(status) == calm
            assert most_active(jobs.changes) == 1

    asyncio.run(main())


def test_minutes_without_an_api_server_cost_few_requests_and_nothing_else(controlled_plane: ControlPlane) -> None:
    async def main() -> None:
        calm, metrics = await undisturbed(controlled_plane), Metrics()
        async with (
            ground(controlled_plane) as cluster,
            relayed(port_of(controlled_plane)) as relay,
            client(controlled_plane) as api,
            Watched(api, cluster.namespace, JOBS).running() as jobs,
        ):
            reached = await configuration(controlled_plane, relay.port)
            async with operating(reached, cluster.namespace, timeouts=HASTY, metrics=metrics):
                cluster.node.ends = lambda _: None
                await cluster.make(job())
                await cluster.until(lambda status: "prepare" in cluster.node.ran)
                await relay.refuse()
                cluster.node.ends = lambda _: 0  # it ends while nobody looks
                before = requests_sent(metrics)
                await asyncio.sleep(MINUTES)
                assert requests_sent(metrics) - before < A_MINUTE * MINUTES / 60
                await relay.start()
                status = await cluster.until(phase("Complete", "Failed"))
            assert end(status) == calm
            assert most_active(jobs.changes) == 1

    asyncio.run(main())


def requests_sent(metrics: Metrics) -> float:
    """All requests so far."""
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    return sum(counter.value for counter in samples if counter.name == "rest_client_requests_total")
