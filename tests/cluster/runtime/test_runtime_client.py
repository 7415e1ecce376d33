"""The client: what it asks for, and what it takes the answers for."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from cluster.conftest import NewPlane
from cluster.control_plane import ControlPlane
from cluster.runtime.ground import PATIENCE, client, new_namespace, put, set_to
from rlhf_operator.runtime.answers import WatchEvent
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.errors import (
    AlreadyExists,
    Conflict,
    Fenced,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Unreachable,
)
from rlhf_operator.runtime.kinds import CONFIG_MAPS, JOBS, NAMESPACES, PODS, Kind, Object
from rlhf_operator.runtime.transport import Timeouts

JOB: Object = {
    "metadata": {"name": "a"},
    "spec": {
        "suspend": True,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "none"}]}},
    },
}


def test_an_object_is_made_read_changed_and_deleted(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            created = await put(api, namespace, "a", "1")
            changed = await set_to(api, namespace, "a", "2")
            assert await api.get(CONFIG_MAPS, namespace, "a") == changed
            assert changed["data"] == {"value": "2"}
            assert changed["metadata"]["uid"] == created["metadata"]["uid"]
            await api.delete(CONFIG_MAPS, namespace, "a")
            with pytest.raises(NotFound):
                await api.get(CONFIG_MAPS, namespace, "a")
            with pytest.raises(NotFound):
                await api.delete(CONFIG_MAPS, namespace, "a")

    asyncio.run(main())


def test_all_writes_have_one_field_manager(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane, field_manager="the-operator") as api:
            namespace = await new_namespace(api)
            await put(api, namespace, "a")
            changed = await set_to(api, namespace, "a", "2")
            assert {entry["manager"] for entry in changed["metadata"]["managedFields"]} == {"the-operator"}

    asyncio.run(main())


def test_a_second_object_of_a_name_is_told_from_one_that_changed(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            first = await put(api, namespace, "a", "1")
            with pytest.raises(AlreadyExists):
                await put(api, namespace, "a", "2")
            await set_to(api, namespace, "a", "3")
            stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"value": "4"}}
            with pytest.raises(Conflict):
                await api.patch(CONFIG_MAPS, namespace, "a", stale)
            assert (await api.get(CONFIG_MAPS, namespace, "a"))["data"] == {"value": "3"}

    asyncio.run(main())


def test_a_stranger_of_the_same_name_is_neither_changed_nor_deleted(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            first = await put(api, namespace, "a", "1")
            await api.delete(CONFIG_MAPS, namespace, "a")
            second = await put(api, namespace, "a", "2")
            with pytest.raises(Conflict):
                await api.delete(CONFIG_MAPS, namespace, "a", uid=first["metadata"]["uid"])
            with pytest.raises(Conflict):
                await api.patch(
                    CONFIG_MAPS, namespace, "a", {"metadata": {"uid": first["metadata"]["uid"]}, "data": {}}
                )
            with pytest.raises(Conflict):
                await api.delete(CONFIG_MAPS, namespace, "a", resource_version=first["metadata"]["resourceVersion"])
            assert await api.get(CONFIG_MAPS, namespace, "a") == second
            await api.delete(CONFIG_MAPS, namespace, "a", uid=second["metadata"]["uid"])

    asyncio.run(main())


def test_a_status_patch_leaves_the_spec_alone(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            created = await api.create(JOBS, namespace, JOB)
            patch = {
                "metadata": {
                    "uid": created["metadata"]["uid"],
                    "resourceVersion": created["metadata"]["resourceVersion"],
                },
                "spec": {"suspend": False},
                "status": {"conditions": [{"type": "Suspended", "status": "True", "lastTransitionTime": None}]},
            }
            patched = await api.patch_status(JOBS, namespace, "a", patch)
            assert patched["spec"]["suspend"] is True
            assert patched["status"]["conditions"][0]["type"] == "Suspended"
            with pytest.raises(Conflict):
                await api.patch_status(JOBS, namespace, "a", patch)

    asyncio.run(main())


def test_a_refusal_says_why(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            with pytest.raises(Invalid, match=r"spec\.template\.spec\.containers: Required value"):
                await api.create(JOBS, namespace, {"metadata": {"name": "a"}, "spec": {"template": {"spec": {}}}})
            limit = Kind("", "v1", "resourcequotas", "ResourceQuota")
            hard = {"hard": {"count/jobs.batch": "0"}}
            await api.create(limit, namespace, {"metadata": {"name": "q"}, "spec": hard})
            counted = {"status": {**hard, "used": {"count/jobs.batch": "0"}}}  # what the quota controller would say
            await api.patch_status(limit, namespace, "q", counted)
            with pytest.raises(Forbidden, match="exceeded quota: q"):
                async with asyncio.timeout(PATIENCE):
                    for number in itertools.count():  # the API server learns of it by a watch of its own
                        await api.create(JOBS, namespace, {**JOB, "metadata": {"name": f"refused-{number}"}})

    asyncio.run(main())


def test_a_list_comes_in_pages_as_of_one_moment(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            for number in range(25):
                await put(api, namespace, f"c{number:02}", labels={"even": str(number % 2 == 0)})
            pages = [page async for page in api.pages(CONFIG_MAPS, namespace, limit=10)]
            assert [len(page.items) for page in pages] == [10, 10, 5]
            assert len({page.version for page in pages}) == 1
            assert {(item["apiVersion"], item["kind"]) for page in pages for item in page.items} == {
                ("v1", "ConfigMap")
            }
            some = [page async for page in api.pages(CONFIG_MAPS, namespace, label_selector="even=True", limit=0)]
            assert [len(page.items) for page in some] == [13]

    asyncio.run(main())


def test_a_watch_tells_what_happens_and_a_bookmark_before_its_end(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            first = await put(api, namespace, "a")
            since = first["metadata"]["resourceVersion"]
            await set_to(api, namespace, "a", "2")
            await api.delete(CONFIG_MAPS, namespace, "a")
            elsewhere = await new_namespace(api)
            last = await put(api, elsewhere, "b")
            received: list[WatchEvent] = []
            for seconds in (4, 8, 90):  # a busy server misses the moment for it; one comes every minute too
                async with api.watch(CONFIG_MAPS, namespace, resource_version=since, seconds=seconds) as events:
                    received = [event async for event in events]
                assert [event.type for event in received][:2] == ["MODIFIED", "DELETED"]
                if received[2:]:
                    break
            assert {event.type for event in received[2:]} == {"BOOKMARK"}
            assert int(received[-1].object["metadata"]["resourceVersion"]) >= int(last["metadata"]["resourceVersion"])

    asyncio.run(main())


def test_an_object_of_a_megabyte_comes_whole_through_a_watch(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            since = (await put(api, namespace, "a"))["metadata"]["resourceVersion"]
            big = "x" * 1_000_000
            await put(api, namespace, "big", big)
            async with api.watch(CONFIG_MAPS, namespace, resource_version=since, seconds=30) as events:
                assert (await anext(events)).object["data"]["value"] == big

    asyncio.run(main())


def test_a_version_that_the_server_does_not_remember_is_gone(new_plane: NewPlane) -> None:
    plane = new_plane()
    plane.kubectl("create", "configmap", "some")
    plane.apiserver.kill()
    plane.apiserver.start()  # what it remembers begins with what it finds now
    plane.apiserver.until(plane.ready, 120)

    async def main() -> None:
        async with client(plane) as api:
            with pytest.raises(Gone):
                async with api.watch(CONFIG_MAPS, "default", resource_version="1", seconds=30) as events:
                    await anext(events)

    asyncio.run(main())


def test_a_write_of_one_who_does_not_lead_is_not_sent(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api, client(shared_plane, may_write=lambda: False) as fenced:
            namespace = await new_namespace(api)
            created = await put(api, namespace, "a", "1")
            for write in (
                put(fenced, namespace, "b"),
                set_to(fenced, namespace, "a", "2"),
                fenced.delete(CONFIG_MAPS, namespace, "a"),
            ):
                with pytest.raises(Fenced):
                    await write
            assert await fenced.get(CONFIG_MAPS, namespace, "a") == created
            assert [len(page.items) async for page in api.pages(CONFIG_MAPS, namespace)] == [1]

    asyncio.run(main())


def test_kinds_that_the_cluster_has_are_told_from_those_it_has_not(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            assert await api.serves(JOBS)
            assert await api.serves(NAMESPACES)
            assert not await api.serves(Kind("kueue.x-k8s.io", "v1beta1", "workloads", "Workload"))
            assert not await api.serves(Kind("batch", "v1", "nonsense", "Nonsense"))

    asyncio.run(main())


def test_requests_keep_to_their_rate(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane, rate=20.0, burst=5) as api:
            clock = asyncio.get_running_loop().time
            begun = clock()
            await asyncio.gather(*(api.serves(PODS) for _ in range(25)))
            assert clock() - begun >= 1.0

    asyncio.run(main())


def test_a_server_that_is_not_there_is_unreachable(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane, port=9, timeouts=Timeouts(connect=2)) as api:
            with pytest.raises(Unreachable, match="GET /api/v1/namespaces/default/configmaps/a"):
                await api.get(CONFIG_MAPS, "default", "a")

    asyncio.run(main())


def test_a_client_closes_what_it_opened(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            await api.serves(PODS)
        assert api_is_closed(api)

    asyncio.run(main())


def api_is_closed(api: Client) -> bool:
    session = api._transport._session
    return session is not None and session.closed
