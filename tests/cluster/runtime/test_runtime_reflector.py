"""The reflector: what it holds is what the API server has, whatever becomes of the network between them."""

from __future__ import annotations

import asyncio

from cluster.conftest import NewPlane
from cluster.control_plane import ControlPlane
from cluster.runtime.ground import HASTY, Watched, client, new_namespace, port_of, put, set_to, until
from cluster.runtime.relay import relayed
from rlhf_operator.runtime.cache import Cache
from rlhf_operator.runtime.errors import Unreachable
from rlhf_operator.runtime.kinds import CONFIG_MAPS, Key
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.store import OWNER, Change


def count(metrics: Metrics, name: str, of: str) -> float:
    return metrics.registry.get_sample_value(name, {"name": of}) or 0.0


def unanswered(metrics: Metrics) -> float:
    """Requests that no server took."""
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    mine = [
        counter
        for counter in samples
        if counter.name == "rest_client_requests_total" and counter.labels["code"] == "<error>"
    ]
    return sum(counter.value for counter in mine)


def test_what_was_there_and_what_comes_after_is_held_and_told(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            for number in range(7):
                await put(api, namespace, f"c{number}", "old")
            async with Watched(api, namespace, page=3).running() as watched:
                assert len(watched.reflector) == 7
                assert all(change.listed for change in watched.changes)
                await set_to(api, namespace, "c1", "new")
                await put(api, namespace, "d", "made")
                await api.delete(CONFIG_MAPS, namespace, "c0")
                await until(lambda: "c0" not in watched.values())
                assert watched.values() == {"c1": "new", "d": "made", **{f"c{n}": "old" for n in range(2, 7)}}
                assert watched.values_from_changes() == watched.values()
                assert not watched.changes[-1].listed

    asyncio.run(main())


def test_only_what_the_selector_names_is_held(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            await put(api, namespace, "a", "1", labels={"mine": "yes"})
            await put(api, namespace, "b", "1")
            async with Watched(api, namespace, label_selector="mine=yes").running() as watched:
                await put(api, namespace, "c", "1")
                await put(api, namespace, "d", "1", labels={"mine": "yes"})
                await until(lambda: "d" in watched.values())
                assert set(watched.values()) == {"a", "d"}
                await api.patch(CONFIG_MAPS, namespace, "a", {"metadata": {"labels": {"mine": None}}})
                await until(lambda: "a" not in watched.values())

    asyncio.run(main())


def test_children_are_found_by_their_owners_uid(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            namespace = await new_namespace(api)
            owner = await put(api, namespace, "owner")
            reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "controller": True}
            await put(api, namespace, "child", ownerReferences=[{**reference, "uid": owner["metadata"]["uid"]}])
            await put(api, namespace, "stranger", ownerReferences=[{**reference, "uid": "another"}])
            async with Watched(api, namespace).running() as watched:
                children = watched.reflector.by(OWNER, owner["metadata"]["uid"])
                assert [child["metadata"]["name"] for child in children] == ["child"]

    asyncio.run(main())


def test_a_cut_watch_goes_on_where_it_was_and_lists_nothing_anew(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with relayed(port_of(shared_plane)) as relay, client(shared_plane) as api:
            metrics = Metrics()
            namespace = await new_namespace(api)
            await put(api, namespace, "a", "0")
            async with (
                client(shared_plane, relay.port, timeouts=HASTY) as behind,
                Watched(behind, namespace, metrics=metrics).running() as watched,
            ):
                for number in range(1, 6):
                    relay.cut()
                    await set_to(api, namespace, "a", str(number))
                    await until(lambda value=str(number): watched.values() == {"a": value})  # type: ignore[misc]
                assert [change.new["data"]["value"] for change in watched.changes if change.new] == list("012345")
                assert count(metrics, "reflector_lists_total", f"{namespace}/configmaps") == 1
                assert count(metrics, "reflector_watches_total", f"{namespace}/configmaps") >= 6

    asyncio.run(main())


def test_a_watch_that_fell_silent_is_given_up_and_begun_again(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with relayed(port_of(shared_plane)) as relay, client(shared_plane) as api:
            metrics = Metrics()
            namespace = await new_namespace(api)
            await put(api, namespace, "a", "0")
            async with (
                client(shared_plane, relay.port, timeouts=HASTY) as behind,
                Watched(behind, namespace, metrics=metrics).running() as watched,
            ):
                relay.blackhole()
                await set_to(api, namespace, "a", "1")
                await api.delete(CONFIG_MAPS, namespace, "a")
                await put(api, namespace, "b", "2")
                await until(lambda: watched.reflector.problem is not None)
                assert watched.values() == {"a": "0"}  # stale, and known to be
                relay.restore()
                await until(lambda: watched.values() == {"b": "2"})
                assert watched.values_from_changes() == {"b": "2"}
                assert count(metrics, "reflector_lists_total", f"{namespace}/configmaps") == 1

    asyncio.run(main())


def test_a_server_that_restarted_and_forgot_is_listed_anew_and_the_difference_told(new_plane: NewPlane) -> None:
    async def main(plane: ControlPlane) -> None:
        async with relayed(port_of(plane)) as relay, client(plane) as api:
            metrics = Metrics()
            for name in ("stays", "changes", "goes", "goes-and-comes"):
                await put(api, "default", name, "0")
            async with (
                client(plane, relay.port, timeouts=HASTY) as behind,
                Watched(behind, "default", metrics=metrics).running() as watched,
            ):
                await relay.refuse()
                await set_to(api, "default", "changes", "1")
                await api.delete(CONFIG_MAPS, "default", "goes")
                await api.delete(CONFIG_MAPS, "default", "goes-and-comes")
                await put(api, "default", "goes-and-comes", "2")
                await put(api, "default", "new", "3")
                plane.apiserver.kill()  # what it remembers to tell watchers begins anew with its start
                plane.apiserver.start()
                await asyncio.to_thread(plane.apiserver.until, plane.ready, 120)
                before = len(watched.changes)
                await relay.start()
                expected = {"stays": "0", "changes": "1", "goes-and-comes": "2", "new": "3"}
                await until(lambda: watched.values() == expected)
                assert watched.values_from_changes() == expected
                assert "stays" not in {change.key.name for change in watched.changes[before:]}
                assert count(metrics, "reflector_lists_total", "default/configmaps") == 2

    asyncio.run(main(new_plane()))


def test_a_server_that_is_away_is_asked_seldom_and_caught_up_with(new_plane: NewPlane) -> None:
    async def main(plane: ControlPlane) -> None:
        async with client(plane) as api:
            metrics = Metrics()
            await put(api, "default", "a", "0")
            async with (
                client(plane, timeouts=HASTY, metrics=metrics) as behind,
                Watched(behind, "default", metrics=metrics, pauses=(0.2, 2.0)).running() as watched,
            ):
                plane.apiserver.kill()
                await until(lambda: watched.reflector.problem is not None)
                before = unanswered(metrics)
                await asyncio.sleep(12)
                assert 2 <= unanswered(metrics) - before <= 18  # 12 s of pauses that grow to between 1 and 2 s
                plane.apiserver.start()
                await asyncio.to_thread(plane.apiserver.until, plane.ready, 120)
                await set_to(api, "default", "a", "1")
                await until(lambda: watched.values() == {"a": "1"})

    asyncio.run(main(new_plane()))


def test_while_etcd_hangs_requests_time_out_and_afterwards_all_is_well(new_plane: NewPlane) -> None:
    async def main(plane: ControlPlane) -> None:
        async with client(plane) as api, client(plane, timeouts=HASTY) as hasty:
            created = await put(api, "default", "a", "0")
            async with Watched(hasty, "default").running() as watched:
                plane.etcd.pause()
                try:
                    patch = {
                        "metadata": {"resourceVersion": created["metadata"]["resourceVersion"]},
                        "data": {"value": "1"},
                    }
                    try:
                        await hasty.patch(CONFIG_MAPS, "default", "a", patch)
                        raise AssertionError("a write succeeded without etcd")
                    except Unreachable:
                        pass
                finally:
                    plane.etcd.resume()
                stored = await api.get(CONFIG_MAPS, "default", "a")
                assert stored["data"]["value"] in ("0", "1")  # a write without an answer may have been done
                await set_to(api, "default", "a", "2")
                await until(lambda: watched.values() == {"a": "2"})

    asyncio.run(main(new_plane()))


def test_several_namespaces_are_read_as_one_and_no_other_is_asked_for(shared_plane: ControlPlane) -> None:
    async def main() -> None:
        async with client(shared_plane) as api:
            first, second, outside = [await new_namespace(api) for _ in range(3)]
            for namespace in (first, second, outside):
                await put(api, namespace, "a", namespace)
            changes: list[Change] = []
            cache = Cache(api, CONFIG_MAPS, [first, second], on_change=changes.append)
            tasks = [asyncio.create_task(cache.of(namespace).run()) for namespace in cache.namespaces]
            for namespace in cache.namespaces:
                await cache.of(namespace).wait_synced()
            assert {item["data"]["value"] for item in cache.values()} == {first, second}
            cached = cache.get(Key(first, "a"))
            assert cached is not None
            assert cached["data"]["value"] == first
            assert cache.get(Key(outside, "a")) is None
            assert len(cache) == len(changes) == 2
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
