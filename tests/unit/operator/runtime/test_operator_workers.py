"""Workers: a fault of one key stops no other."""

from __future__ import annotations

import asyncio

from virtual_time import run

from rlhf_operator.runtime.errors import Conflict, Unreachable
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.queue import Queue
from rlhf_operator.runtime.workers import Workers


def test_a_key_that_fails_is_tried_again_later_and_others_go_on() -> None:
    async def main() -> None:
        metrics = Metrics()
        queue = Queue[str]("rlhfjob", metrics, first=1)
        log: list[tuple[str, float]] = []
        faults = [ValueError("a bug"), Unreachable("no answer"), Conflict(409, "Conflict", "changed")]

        async def reconcile(key: str) -> float | None:
            log.append((key, asyncio.get_running_loop().time()))
            if key == "bad" and faults:
                raise faults.pop(0)
            return None

        task = asyncio.create_task(Workers(queue, reconcile, 2).run())
        queue.add("bad")
        queue.add("good")
        await asyncio.sleep(100)
        task.cancel()
        assert log == [("bad", 0), ("good", 0), ("bad", 1), ("bad", 3), ("bad", 7)]

        def total(result: str) -> float | None:
            labels = {"controller": "rlhfjob", "result": result}
            return metrics.registry.get_sample_value("controller_runtime_reconcile_total", labels)

        assert (total("error"), total("success")) == (3, 2)
        assert metrics.registry.get_sample_value("workqueue_retries_total", {"name": "rlhfjob"}) == 3
        assert queue.failed("bad") == 1  # success forgot the failures

    run(main())


def test_a_key_comes_again_when_its_reconcile_asked_for_it() -> None:
    async def main() -> None:
        queue = Queue[str]("q")
        times: list[float] = []

        async def reconcile(_: str) -> float | None:
            times.append(asyncio.get_running_loop().time())
            return 30.0 if len(times) < 3 else None

        task = asyncio.create_task(Workers(queue, reconcile, 1).run())
        queue.add("a")
        await asyncio.sleep(1000)
        task.cancel()
        assert times == [0, 30, 60]

    run(main())


def test_no_more_work_at_once_than_there_are_workers() -> None:
    async def main() -> None:
        metrics = Metrics()
        queue = Queue[str]("q", metrics)
        most = 0

        async def reconcile(_: str) -> float | None:
            nonlocal most
            active = metrics.registry.get_sample_value("controller_runtime_active_workers", {"controller": "q"})
            most = max(most, int(active or 0))
            await asyncio.sleep(1)
            return None

        task = asyncio.create_task(Workers(queue, reconcile, 3).run())
        for number in range(10):
            queue.add(str(number))
        await asyncio.sleep(100)
        task.cancel()
        assert most == 3
        assert metrics.registry.get_sample_value("controller_runtime_active_workers", {"controller": "q"}) == 0

    run(main())
