"""The work queue: what client-go's does, and low keys."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run

from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.queue import LOW_EVERY, USUAL_EVERY, Lane, Queue


async def take_keys(queue: Queue[str], count: int) -> list[str]:
    """The next keys, each done at once."""
    keys = []
    for _ in range(count):
        key = await queue.take()
        queue.done(key)
        keys.append(key)
    return keys


def now() -> float:
    return asyncio.get_running_loop().time()


def test_keys_come_in_order_and_each_once() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        for key in "abacb":
            queue.add(key)
        assert len(queue) == 3
        assert await take_keys(queue, 3) == ["a", "b", "c"]
        assert len(queue) == 0

    run(main())


def test_a_key_put_in_while_it_is_worked_on_comes_again_when_it_is_done() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        queue.add("a")
        assert await queue.take() == "a"
        queue.add("a")
        queue.add("a")
        assert len(queue) == 0
        queue.done("a")
        assert await take_keys(queue, 1) == ["a"]
        assert len(queue) == 0

    run(main())


def test_who_waits_is_woken_by_the_next_key() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        takers = [asyncio.create_task(queue.take()) for _ in range(3)]
        await asyncio.sleep(0)
        for key in "abc":
            queue.add(key)
        assert sorted(await asyncio.gather(*takers)) == ["a", "b", "c"]

    run(main())


def test_a_taker_that_is_cancelled_when_its_key_came_leaves_it_to_another() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        first, second = asyncio.create_task(queue.take()), asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        queue.add("a")  # wakes the first
        first.cancel()
        assert await second == "a"
        assert first.cancelled()

    run(main())


def test_low_keys_let_others_pass_but_do_not_starve() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        for number in range(4):
            queue.add(f"low{number}", Lane.LOW)
        for number in range(20):
            queue.add(f"high{number}")
        order = await take_keys(queue, 24)
        assert [key for key in order if key.startswith("high")] == [f"high{number}" for number in range(20)]
        assert [order.index(f"low{number}") for number in range(4)] == [LOW_EVERY - 1, 2 * LOW_EVERY - 1, 22, 23]

    run(main())


def test_the_first_pass_the_usual_but_do_not_starve_them() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        for number in range(4):
            queue.add(f"usual{number}")
        for number in range(20):
            queue.add(f"first{number}", Lane.FIRST)
        order = await take_keys(queue, 24)
        assert [key for key in order if key.startswith("first")] == [f"first{number}" for number in range(20)]
        turns = [number * USUAL_EVERY - 1 for number in range(1, 5)]
        assert [order.index(f"usual{number}") for number in range(4)] == turns

    run(main())


def test_a_key_that_is_put_in_while_worked_on_comes_again_in_the_lane_that_goes_before() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        queue.add("a")
        assert await queue.take() == "a"
        for lane in (Lane.LOW, Lane.FIRST, Lane.USUAL):
            queue.add("a", lane)
        queue.add("b")
        queue.done("a")
        assert await take_keys(queue, 2) == ["a", "b"]

    run(main())


def test_a_low_key_that_is_put_in_again_moves_ahead() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        for key in "abc":
            queue.add(key, Lane.LOW)
        queue.add("c")
        assert len(queue) == 3
        assert await take_keys(queue, 3) == ["c", "a", "b"]

    run(main())


def test_of_several_later_times_the_earliest_counts() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        queue.add_after("a", 60)
        queue.add_after("a", 5)
        queue.add_after("a", 30)
        assert await take_keys(queue, 1) == ["a"]
        assert now() == 5
        queue.add_after("b", 100)
        assert await take_keys(queue, 1) == ["b"]
        assert now() == 105  # neither 30 nor 60 brought a again

    run(main())


def test_taking_a_key_forgets_when_it_was_to_come_later() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        queue.add_after("a", 10)
        queue.add("a")
        assert await take_keys(queue, 1) == ["a"]
        queue.add_after("b", 20)
        assert await take_keys(queue, 1) == ["b"]
        assert len(queue) == 0

    run(main())


def test_a_failing_key_waits_twice_as_long_each_time_up_to_the_most() -> None:
    async def main() -> None:
        queue = Queue[str]("q", first=1, most=6)
        pauses = []
        for _ in range(5):
            pauses.append(queue.failed("a"))
            await queue.take()
            queue.done("a")
        assert pauses == [1, 2, 4, 6, 6]
        assert now() == 19
        queue.succeeded("a")
        assert queue.failed("a") == 1

    run(main())


def test_times_that_no_longer_count_do_not_pile_up() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        for _ in range(1000):
            queue.add_after("a", 86400)
            queue.add("a")
            await take_keys(queue, 1)
        assert len(queue._heap) < 100

    run(main())


def test_metrics_say_what_waits_and_what_is_worked_on() -> None:
    async def main() -> None:
        metrics = Metrics()
        queue = Queue[str]("jobs", metrics)

        def value(name: str) -> float | None:
            return metrics.registry.get_sample_value(name, {"name": "jobs"})

        queue.add("a")
        queue.add("b")
        await asyncio.sleep(3)
        await queue.take()
        await asyncio.sleep(2)
        queue.observe()
        assert value("workqueue_depth") == 1
        assert value("workqueue_adds_total") == 2
        assert value("workqueue_queue_duration_seconds_sum") == 3
        assert value("workqueue_unfinished_work_seconds") == 2
        assert value("workqueue_longest_running_processor_seconds") == 2
        queue.done("a")
        assert value("workqueue_work_duration_seconds_sum") == 2

    run(main())


LANES = {"add": Lane.USUAL, "low": Lane.LOW, "first": Lane.FIRST}
STEP = st.tuples(
    st.sampled_from([*LANES, "later", "fail", "wait"]), st.sampled_from("abcd"), st.sampled_from([0.0, 0.5, 3.0])
)


@given(steps=st.lists(STEP, max_size=60), workers=st.integers(1, 3), work=st.sampled_from([0.0, 0.3, 2.0]))
def test_every_key_is_worked_on_after_it_was_put_in_and_never_twice_at_once(
    steps: list[tuple[str, str, float]], workers: int, work: float
) -> None:
    run(_random_walk(steps, workers, work))


def _random_walk(steps: list[tuple[str, str, float]], workers: int, work: float) -> Coroutine[None, None, None]:
    async def main() -> None:
        queue = Queue[str]("q", first=0.1, most=1)
        added: dict[str, float] = {}  # when a key was last put in
        begun: dict[str, float] = {}
        active: set[str] = set()

        async def worker() -> None:
            while True:
                key = await queue.take()
                assert key not in active
                active.add(key)
                begun[key] = now()
                await asyncio.sleep(work)
                active.discard(key)
                queue.done(key)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(worker()) for _ in range(workers)]
            for what, key, seconds in steps:
                if what in LANES:
                    queue.add(key, LANES[what])
                    added[key] = now()
                elif what == "later":
                    queue.add_after(key, seconds)
                elif what == "fail":
                    queue.failed(key)
                else:
                    await asyncio.sleep(seconds)
            await asyncio.sleep(1000)
            for task in tasks:
                task.cancel()
        assert len(queue) == 0
        assert all(begun[key] >= when for key, when in added.items())

    return main()
