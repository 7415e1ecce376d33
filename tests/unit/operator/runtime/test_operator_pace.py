"""The bound on requests, and the pauses after failures."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run

from rlhf_operator.runtime.pace import MOST_HELD, Backoff, TokenBucket


async def sent_at(bucket: TokenBucket, starts: list[float]) -> list[float]:
    """When each of several requests goes out, each asked for at its time."""
    times: list[float] = []

    async def send(start: float) -> None:
        await asyncio.sleep(start)
        await bucket.wait()
        times.append(asyncio.get_running_loop().time())

    async with asyncio.TaskGroup() as group:
        for start in starts:
            group.create_task(send(start))
    return times


@given(
    rate=st.floats(0.5, 100),
    burst=st.integers(1, 20),
    starts=st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_no_window_has_more_than_the_burst_and_the_rate(rate: float, burst: int, starts: list[float]) -> None:
    times = sorted(run(sent_at(TokenBucket(rate, burst), starts)))
    for first in range(len(times)):
        for last in range(first, len(times)):
            most = burst + rate * (times[last] - times[first])
            assert last - first + 1 <= most + 1e-6


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    assert run(sent_at(TokenBucket(10, 3), [0.0] * 5)) == pytest.approx([0, 0, 0, 0.1, 0.2])


def test_who_asked_first_goes_first() -> None:
    async def order() -> list[int]:
        bucket, went = TokenBucket(1, 1), list[int]()

        async def send(number: int) -> None:
            await bucket.wait()
            went.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(send(number))
        return went

    assert run(order()) == [0, 1, 2, 3, 4]


def test_a_hold_also_holds_those_that_wait_already() -> None:
    async def times() -> list[float]:
        bucket = TokenBucket(10, 1)
        waiting = asyncio.create_task(sent_at(bucket, [0.0] * 3))
        await asyncio.sleep(0.05)
        bucket.hold(0.05, 7.0)
        return await waiting

    assert run(times()) == pytest.approx([0, 7.05, 7.15])


def test_a_server_cannot_ask_for_silence_without_end() -> None:
    bucket = TokenBucket(1, 1)
    bucket.hold(0.0, 1e9)
    assert bucket.delay(0.0) == MOST_HELD


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_bucket_that_lets_nothing_through_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="expected a rate above 0"):
        TokenBucket(rate, burst)


@given(chance=st.floats(0, 1), failures=st.integers(1, 2000))
def test_pauses_double_up_to_the_most_and_keep_half(chance: float, failures: int) -> None:
    backoff = Backoff(0.8, 30, lambda: chance)
    pauses = [backoff.next() for _ in range(failures)]
    for number, pause in enumerate(pauses):
        longest = min(30.0, 0.8 * 2 ** min(number, 50))
        assert longest / 2 <= pause <= longest
    backoff.reset()
    assert backoff.next() <= 0.8
