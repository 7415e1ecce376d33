"""Answers that no one wants: load shed, servers in trouble, things that are no answers at all."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from cluster.conftest import NewPlane
from cluster.control_plane import ControlPlane
from cluster.runtime.faults import Answer, Faults
from cluster.runtime.ground import Watched, client, configuration, new_namespace, put, set_to, until
from rlhf_operator.runtime.client import RETRIES, Client
from rlhf_operator.runtime.errors import AlreadyExists, ApiError, Conflict, Gone, TooManyRequests
from rlhf_operator.runtime.kinds import CONFIG_MAPS
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.queue import Queue
from rlhf_operator.runtime.workers import Workers

LATER = Answer(429, {"Retry-After": "1"})


def test_who_sheds_load_is_asked_again_when_it_said_and_left_alone_until_then(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with Faults(await configuration(shared_plane)).serving() as faults, client(shared_plane) as api:
            namespace = await new_namespace(api)
            times: list[float] = []

            def plan(_method: str, _path: str) -> Answer | None:
                times.append(time.monotonic())
                return LATER if len(times) == 1 else None

            faults.plan = plan
            async with Client(faults.configuration(), field_manager="test") as through:
                await put(through, namespace, "a")
                await asyncio.gather(*(put(through, namespace, f"b{number}") for number in range(3)))
            assert [status for _, _, status in faults.requests] == [429, 201, 201, 201, 201]
            assert times[1] - times[0] >= 1.0

    asyncio.run(main())


def test_who_sheds_load_for_ever_is_not_asked_for_ever(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with Faults(await configuration(shared_plane)).serving() as faults:
            faults.plan = lambda _method, _path: Answer(429, {"Retry-After": "0"})
            async with Client(faults.configuration(), field_manager="test") as through:
                with pytest.raises(TooManyRequests):
                    await put(through, "default", "a")
            assert len(faults.requests) == RETRIES + 1

    asyncio.run(main())


def test_an_api_server_under_load_takes_every_write_in_the_end(new_plane: NewPlane) -> None:
    plane = new_plane(arguments=("--enable-priority-and-fairness=false", "--max-mutating-requests-inflight=1"))
    plane.kubectl("create", "serviceaccount", "operator")
    plane.kubectl(
        "create", "clusterrolebinding", "operator", "--clusterrole=cluster-admin", "--serviceaccount=default:operator"
    )
    token = plane.kubectl("create", "token", "operator").strip()

    async def main() -> None:
        metrics = Metrics()
        as_operator = await configuration(plane)
        as_operator.api_key = {"BearerToken": f"Bearer {token}"}
        labels = {"code": "429", "method": "POST", "host": plane.url.partition("://")[2]}
        pending: set[str] = set()
        total = 0
        async with Client(as_operator, field_manager="test", rate=500, burst=500, metrics=metrics) as api:

            async def make(key: str) -> float | None:
                with contextlib.suppress(AlreadyExists):
                    await put(api, "default", key)
                pending.discard(key)
                return None

            queue = Queue[str]("config-maps")
            task = asyncio.create_task(Workers(queue, make, 20).run())
            while not metrics.registry.get_sample_value("rest_client_requests_total", labels):
                assert total < 6000, "nothing was ever refused"  # it depends on who is given the processor when
                pending.update(f"c{number}" for number in range(total, total + 60))
                total += 60
                for key in sorted(pending):
                    queue.add(key)
                await until(lambda: not pending, 600)  # after a 429 all wait a second, and few may get through
            task.cancel()
            assert [len(page.items) async for page in api.pages(CONFIG_MAPS, "default", limit=0)] == [total]

    asyncio.run(main())


def test_a_burst_of_5xx_is_waited_out_with_growing_pauses(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with Faults(await configuration(shared_plane)).serving() as faults, client(shared_plane) as api:
            namespace = await new_namespace(api)
            await put(api, namespace, "a", "0")
            broken = False
            faults.plan = lambda _method, _path: Answer(503) if broken else None
            async with (
                Client(faults.configuration(), field_manager="test") as through,
                Watched(through, namespace, pauses=(0.1, 0.8)).running() as watched,
            ):
                broken = True
                with pytest.raises(ApiError, match="503"):
                    await set_to(through, namespace, "a", "1")
                await set_to(api, namespace, "a", "2")
                await until(lambda: watched.values() == {"a": "2"})  # a watch that is open stays open
                broken = False
                await set_to(through, namespace, "a", "3")
                await until(lambda: watched.values() == {"a": "3"})

    asyncio.run(main())


def test_a_reflector_that_is_refused_at_every_step_gets_there(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with Faults(await configuration(shared_plane)).serving() as faults, client(shared_plane) as api:
            namespace = await new_namespace(api)
            await put(api, namespace, "a", "0")
            answers = [
                Answer(503),
                Answer(429, {"Retry-After": "0"}),
                Answer(500, body="<html>oops</html>"),
                Answer(200, body="no JSON"),
                None,  # the list
                Answer(500),
                Answer(410, body='{"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}'),
                Answer(504),
                None,  # the list again
                Answer(200, body="no JSON\n"),
                Answer(200, body=""),  # a watch that ends at once
                Answer(200, body='{"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "old"}}\n'),
            ]
            faults.plan = lambda _method, _path: answers.pop(0) if answers else None
            metrics = Metrics()
            async with (
                Client(faults.configuration(), field_manager="test") as through,
                Watched(through, namespace, pauses=(0.01, 0.1), metrics=metrics).running() as watched,
            ):
                await until(lambda: not answers)
                await set_to(api, namespace, "a", "1")
                await until(lambda: watched.values() == {"a": "1"})
                assert watched.values_from_changes() == {"a": "1"}
                lists = metrics.registry.get_sample_value("reflector_lists_total", {"name": f"{namespace}/configmaps"})
                assert lists == 3

    asyncio.run(main())


def test_a_server_that_forgets_between_pages_is_asked_from_the_first_page_again(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with Faults(await configuration(shared_plane)).serving() as faults, client(shared_plane) as api:
            namespace = await new_namespace(api)
            for number in range(5):
                await put(api, namespace, f"c{number}", "0")
            lists = 0

            def plan(method: str, _path: str) -> Answer | None:
                nonlocal lists
                lists += method == "GET"
                body = '{"kind": "Status", "code": 410, "reason": "Expired", "message": "continue is too old"}'
                return Answer(410, body=body) if method == "GET" and lists == 2 else None

            faults.plan = plan
            async with (
                Client(faults.configuration(), field_manager="test") as through,
                Watched(through, namespace, page=2).running() as watched,
            ):
                assert len(watched.reflector) == 5
                assert lists == 5  # a page, the refusal, three pages: never all at once, which has no bound

    asyncio.run(main())


def test_a_storm_of_conflicts_loses_no_write(shared_plane: ControlPlane) -> None:
    """Four writers count up one object, each with the version it saw as precondition."""

    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            await put(api, namespace, "counter", "0")
            remaining = [10, 10, 10, 10]
            conflicts = 0

            async def count(key: int) -> float | None:
                nonlocal conflicts
                current = await api.get(CONFIG_MAPS, namespace, "counter")
                patch = {
                    "metadata": {"resourceVersion": current["metadata"]["resourceVersion"]},
                    "data": {"value": str(int(current["data"]["value"]) + 1)},
                }
                try:
                    await api.patch(CONFIG_MAPS, namespace, "counter", patch)
                except Conflict:
                    conflicts += 1
                    raise
                remaining[key] -= 1
                return 0.001 if remaining[key] else None

            queue = Queue[int]("counters")
            task = asyncio.create_task(Workers(queue, count, 4).run())
            for key in range(4):
                queue.add(key)
            await until(lambda: not any(remaining))
            task.cancel()
            assert (await api.get(CONFIG_MAPS, namespace, "counter"))["data"]["value"] == "40"
            assert conflicts > 0

    asyncio.run(main())


def test_an_error_told_by_a_watch_is_raised(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with Faults(await configuration(shared_plane)).serving() as faults:
            body = (
                '{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "old"}}\n'
            )
            faults.plan = lambda _method, _path: Answer(200, body=body)
            async with Client(faults.configuration(), field_manager="test") as through:
                with pytest.raises(Gone):
                    async with through.watch(CONFIG_MAPS, "default", resource_version="5") as events:
                        await anext(events)

    asyncio.run(main())
