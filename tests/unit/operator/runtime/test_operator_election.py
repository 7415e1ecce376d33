"""Who leads: never two at once, and in the end one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run

from rlhf_operator.runtime.election import Election, Record, Timing

TIMING = Timing(duration=15, deadline=10, retry=2)


def lease(holder: str, renewed: str = "1", version: str = "1", transitions: int = 0, duration: int = 15) -> Record:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": duration, "renewTime": renewed}
    return Record.of({"metadata": {"resourceVersion": version}, "spec": {**spec, "leaseTransitions": transitions}})


def test_nobodys_lease_is_taken_at_once() -> None:
    election = Election("me", TIMING)
    election.saw(None, 100.0)
    assert election.may_take(100.0)
    election.saw(lease(""), 101.0)
    assert election.may_take(101.0)


def test_a_holder_is_waited_for_from_when_its_lease_was_seen_to_change() -> None:
    election = Election("me", TIMING)
    election.saw(lease("other", renewed="long ago"), 100.0)
    assert not election.may_take(114.9)
    election.saw(lease("other", renewed="later"), 114.9)
    assert not election.may_take(115.0)
    election.saw(lease("other", renewed="later"), 129.0)
    assert election.may_take(129.9)


def test_a_label_put_on_the_lease_renews_nothing() -> None:
    election = Election("me", TIMING)
    election.saw(lease("other", version="1"), 100.0)
    election.saw(lease("other", version="2"), 114.0)
    assert election.may_take(115.0)


def test_the_holders_own_duration_counts_when_it_is_longer() -> None:
    election = Election("me", TIMING)
    election.saw(lease("other", duration=60), 100.0)
    assert not election.may_take(159.0)
    assert election.may_take(160.0)


def test_a_lease_that_was_deleted_is_held_by_who_held_it() -> None:
    election = Election("me", TIMING)
    election.saw(lease("other"), 100.0)
    election.saw(None, 105.0)
    assert not election.may_take(119.0)
    assert election.may_take(120.0)


def test_leading_counts_from_before_the_write_was_asked_for() -> None:
    election = Election("me", TIMING)
    election.saw(None, 100.0)
    election.wrote(lease("me"), 100.0)
    assert election.leads(109.9)
    assert not election.leads(110.0)


def test_leading_ends_when_the_lease_is_seen_to_be_anothers() -> None:
    election = Election("me", TIMING)
    election.saw(None, 100.0)
    election.wrote(lease("me"), 100.0)
    election.saw(lease("other", version="2"), 101.0)
    assert not election.leads(101.0)


def test_transitions_count_holders_not_renewals() -> None:
    election = Election("me", TIMING)
    election.saw(lease("other", transitions=4), 100.0)
    spec = election.spec("2026-01-01T00:00:00.000000Z")
    assert (spec["leaseTransitions"], spec["acquireTime"]) == (5, "2026-01-01T00:00:00.000000Z")
    election.wrote(Record.of({"metadata": {"resourceVersion": "2"}, "spec": spec}), 120.0)
    renewed = election.spec("2026-01-01T00:00:02.000000Z")
    assert (renewed["leaseTransitions"], renewed["acquireTime"]) == (5, "2026-01-01T00:00:00.000000Z")


@pytest.mark.parametrize("timing", [(10, 10, 2), (15, 10, 10), (15, 10, 0)])
def test_timings_that_let_two_lead_or_none_are_refused(timing: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="longer than the one before"):
        Timing(*timing)


@dataclass
class World:
    """A Lease with optimistic concurrency behind a network that is slow, loses answers and delays writes."""

    dice: random.Random
    faults: bool = True
    lease: dict[str, Any] | None = None
    version: int = 0
    begins: Callable[[], None] = lambda: None
    """Called whenever one may have begun to lead."""

    async def hop(self) -> None:
        await asyncio.sleep(self.dice.choice([0.001, 0.01, 0.5, 3, 8, 20]) if self.faults else 0.001)

    async def read(self) -> Record | None:
        await self.hop()
        record = None if self.lease is None else Record.of(self.lease)
        await self.hop()
        return record

    async def write(self, before: Record | None, spec: dict[str, Any]) -> Record | None:
        """None: refused. What was asked for lands even when the asker gives up waiting."""
        return await asyncio.shield(asyncio.ensure_future(self._write(before, spec)))

    async def _write(self, before: Record | None, spec: dict[str, Any]) -> Record | None:
        await self.hop()
        version = "" if self.lease is None else self.lease["metadata"]["resourceVersion"]
        if version != ("" if before is None else before.version):
            return None
        self.version += 1
        self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": spec}
        written = Record.of(self.lease)
        await self.hop()
        return written


async def compete(world: World, election: Election, skew: float, rate: float) -> None:
    """One candidate, whose clock is off by `skew` and runs at `rate`; as lease.Elector does it."""
    loop = asyncio.get_running_loop()

    def clock() -> float:
        return skew + loop.time() * rate

    while True:
        if not election.leads(clock()):
            election.gave_up()
        try:
            async with asyncio.timeout(TIMING.deadline / 2):
                if election.stale or not election.leads(clock()):
                    election.saw(await world.read(), clock())
                now = clock()
                if election.may_take(now):
                    written = await world.write(election.record, election.spec(f"{loop.time():012.6f}"))
                    if written is None:
                        election.failed()
                    else:
                        election.wrote(written, now)
                        world.begins()
        except TimeoutError:
            election.failed()
        await asyncio.sleep(world.dice.choice([0.1, 2, 2.4, 30]) if world.faults else 2)


@given(seed=st.integers(0, 2**32), count=st.integers(2, 4))
def test_never_two_lead_at_once_however_slow_the_answers_and_in_the_end_one_does(seed: int, count: int) -> None:
    async def main() -> None:
        dice = random.Random(seed)
        world = World(dice)
        loop = asyncio.get_running_loop()
        clocks = [(dice.uniform(-1e6, 1e6), dice.uniform(0.9, 1.1)) for _ in range(count)]
        elections = [Election(f"candidate-{number}", TIMING) for number in range(count)]
        pairs = list(zip(elections, clocks, strict=True))
        tasks = [asyncio.create_task(compete(world, election, *clock)) for election, clock in pairs]

        def leaders() -> list[str]:
            return [election.identity for election, (skew, rate) in pairs if election.leads(skew + loop.time() * rate)]

        def check() -> None:
            assert len(leaders()) <= 1

        world.begins = check
        await asyncio.wait(tasks, timeout=1000)
        world.faults = False
        await asyncio.wait(tasks, timeout=100)
        for task in tasks:
            assert not task.done() or task.result() is None  # a broken rule is raised here
            task.cancel()
        assert len(leaders()) == 1

    run(main())
