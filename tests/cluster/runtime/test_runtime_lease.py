"""Leading by a Lease on a real API server: never two at once, and none that does not know."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from cluster.runtime.ground import QUICK, client, configuration, new_namespace, port_of, put
from cluster.runtime.relay import Relay
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.election import Timing
from rlhf_operator.runtime.errors import Fenced
from rlhf_operator.runtime.kinds import LEASES, Object
from rlhf_operator.runtime.lease import Elector

PATIENCE = 60.0


class Candidate:
    """An elector, and when it began and ceased to lead by its own callbacks."""

    def __init__(
        self, plane: ControlPlane, namespace: str, identity: str, port: int | None = None, timing: Timing = QUICK
    ) -> None:
        self.transitions: list[tuple[bool, float]] = []

        async def connect() -> Client:
            return Client(await configuration(plane, port), field_manager=identity)

        self.elector = Elector(
            connect,
            namespace=namespace,
            name="operator",
            identity=identity,
            timing=timing,
            on_started=lambda: self.transitions.append((True, time.monotonic())),
            on_lost=lambda: self.transitions.append((False, time.monotonic())),
        )
        self.elector.start()

    def leads(self) -> bool:
        return self.elector.leads()


class RelayThread:
    """A relay in a loop of its own, so that electors in threads and a busy test can use it."""

    def __init__(self, target: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.relay = Relay(target)
        asyncio.run_coroutine_threadsafe(self.relay.start(), self.loop).result(10)

    def blackhole(self) -> None:
        self.loop.call_soon_threadsafe(self.relay.blackhole)

    def restore(self) -> None:
        self.loop.call_soon_threadsafe(self.relay.restore)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.relay.stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


@pytest.fixture
def namespace(shared_plane: ControlPlane) -> str:
    async def make() -> str:
        async with client(shared_plane) as api:
            return await new_namespace(api)

    return asyncio.run(make())


@pytest.fixture
def relay(shared_plane: ControlPlane) -> Iterator[RelayThread]:
    relay_thread = RelayThread(port_of(shared_plane))
    yield relay_thread
    relay_thread.restore()
    relay_thread.close()


ROOMY = Timing(duration=40, deadline=30, retry=5)
"""Whoever gives up has this long to say so."""


def until(true: object, seconds: float = PATIENCE) -> None:
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so after {seconds} s"
        time.sleep(0.01)


def lease(plane: ControlPlane, namespace: str) -> Object:
    async def read() -> Object:
        async with client(plane) as api:
            return await api.get(LEASES, namespace, "operator")

    return asyncio.run(read())


def test_the_first_leads_and_a_second_follows_when_it_gives_up(shared_plane: ControlPlane, namespace: str) -> None:
    first = Candidate(shared_plane, namespace, "first", timing=ROOMY)
    until(first.leads)
    assert lease(shared_plane, namespace)["spec"]["holderIdentity"] == "first"
    second = Candidate(shared_plane, namespace, "second", timing=ROOMY)
    until(lambda: second.elector.leader == "first")
    assert not second.leads()
    given_up = time.monotonic()
    first.elector.stop()
    assert not first.leads()
    until(second.leads)
    assert second.transitions[0][1] - given_up < ROOMY.duration  # it did not have to wait for the end
    assert lease(shared_plane, namespace)["spec"]["leaseTransitions"] >= 1
    assert [leads for leads, _ in first.transitions] == [True, False]
    second.elector.stop()
    assert lease(shared_plane, namespace)["spec"]["holderIdentity"] == ""


def test_a_leader_that_is_cut_off_knows_before_another_leads(
    shared_plane: ControlPlane, namespace: str, relay: RelayThread
) -> None:
    first = Candidate(shared_plane, namespace, "first", relay.relay.port)
    until(first.leads)
    second = Candidate(shared_plane, namespace, "second")
    relay.blackhole()
    until(second.leads)
    assert not first.leads()
    until(lambda: len(first.transitions) == 2)
    assert first.transitions[1][1] < second.transitions[0][1]
    relay.restore()
    until(lambda: first.elector.leader == "second")
    assert not first.leads()
    assert second.leads()
    second.elector.stop()
    until(first.leads)  # it competes again
    assert [leads for leads, _ in first.transitions] == [True, False, True]
    first.elector.stop()


def test_a_busy_event_loop_does_not_lose_the_lease(shared_plane: ControlPlane, namespace: str) -> None:
    timing = Timing(duration=12, deadline=10, retry=0.4)
    candidate = Candidate(shared_plane, namespace, "busy", timing=timing)
    until(candidate.leads)
    end = time.monotonic() + 1.5 * timing.duration
    spins = 0
    while time.monotonic() < end:  # never yields, as a loop that is stuck
        spins += 1
    assert candidate.leads()
    assert [leads for leads, _ in candidate.transitions] == [True]
    candidate.elector.stop()


def test_a_process_that_was_stopped_knows_at_its_first_instruction_that_it_does_not_lead(
    shared_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    out = tmp_path / "first"
    command = [sys.executable, "-m", "cluster.runtime.candidate", str(shared_plane.kubeconfig), namespace, "first"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with out.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, env=environment)
    try:
        until(lambda: any(leads for _, leads, _ in samples(out)))
        second = Candidate(shared_plane, namespace, "second")
        process.send_signal(signal.SIGSTOP)
        until(second.leads)
        began = second.transitions[0][1]
        process.send_signal(signal.SIGCONT)
        until(lambda: len([1 for when, _, _ in samples(out) if when > began]) > 20)
        assert not any(leads for when, leads, _ in samples(out) if when > began)
        until(lambda: samples(out)[-1][2] == 1)  # and was called back, once
        assert second.leads()
        second.elector.stop()
    finally:
        process.kill()
        process.wait(10)


def samples(out: Path) -> list[tuple[float, int, int]]:
    lines = [line.split() for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [(float(when), int(leads), int(lost)) for when, leads, lost in lines]


def test_one_who_stopped_leading_writes_nothing(shared_plane: ControlPlane, namespace: str, relay: RelayThread) -> None:
    candidate = Candidate(shared_plane, namespace, "first", relay.relay.port)
    until(candidate.leads)

    async def main() -> None:
        async with client(shared_plane, may_write=candidate.leads) as api:
            await put(api, namespace, "while-leading")
            relay.blackhole()
            await asyncio.to_thread(until, lambda: not candidate.leads())
            with pytest.raises(Fenced):
                await put(api, namespace, "after")

    asyncio.run(main())
    relay.restore()
    candidate.elector.stop()


def test_a_lease_that_someone_deletes_or_edits_is_held_again(shared_plane: ControlPlane, namespace: str) -> None:
    candidate = Candidate(shared_plane, namespace, "first", timing=Timing(duration=20, deadline=18, retry=0.4))
    until(candidate.leads)

    async def meddle() -> None:
        async with client(shared_plane) as api:
            for number in range(20):  # each makes the version that the elector knows a wrong one
                await api.patch(LEASES, namespace, "operator", {"metadata": {"labels": {"n": str(number)}}})
                await asyncio.sleep(0.1)

    asyncio.run(meddle())
    assert candidate.leads()
    assert [leads for leads, _ in candidate.transitions] == [True]

    async def delete() -> None:
        async with client(shared_plane) as api:
            await api.delete(LEASES, namespace, "operator")

    asyncio.run(delete())
    until(lambda: not candidate.leads())
    until(candidate.leads)
    assert candidate.elector.alive()
    candidate.elector.stop()
    assert not candidate.elector.alive()
